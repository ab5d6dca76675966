package load

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Where a connection is in its life.
const (
	stateIdle uint8 = iota // not opened yet, or to be opened again
	stateDialing
	stateUpgrading // WebSocket handshake sent
	stateAuth      // auth sent
	stateReady
	stateClosed // by the server
	stateFailed // did not get ready
)

// How a ready connection is read.
const (
	readAtOnce uint8 = iota // in epoll
	readBulk                // in rounds
	readSlowly              // a budget of bytes
	readNever
)

// conn is one connection. What it keeps of input is the part of a packet that
// has not come whole.
type conn struct {
	fd      int32
	number  int32 // within its class, over all processes
	room    int32
	missing int32 // messages
	class   uint8
	state   uint8
	mode    uint8
	timed   bool
	gen     int32 // tells events of this descriptor from those of its predecessors
	opened  int64 // by Clock
	wsLeft  int64 // bytes of the WebSocket frame that are not consumed
	rest    []byte
	gaps    *gaps
}

// consumer counts what comes on connections; a loop has one, tests have one.
type consumer struct {
	streams int
	next    []uint32 // by connection and stream
	begun   int64    // Begin; 0 = never
	inStep  bool     // between Begin and tally
	classes []ClassStats
	samples []samples // by class, of Latency
	echoes  uint64
	onAuth  func(ci int)
}

// consume takes whole packets from b and returns how many bytes they had.
// nowNS is when b was read.
func (k *consumer) consume(c *conn, ci int, b []byte, nowNS int64) (int, error) {
	st := &k.classes[c.class]
	next := k.next[ci*k.streams : (ci+1)*k.streams]
	used := 0
	for {
		used += k.expected(c, st, next, b[used:], nowNS)
		if len(b)-used < wire.HeaderLen {
			return used, nil
		}
		p := b[used:]
		n := int(int32(binary.BigEndian.Uint32(p)))
		if n < wire.HeaderLen || n > maxPacket {
			return used, fmt.Errorf("load: packet of %d bytes", n)
		}
		op := int32(binary.BigEndian.Uint32(p[8:]))
		if op == wire.OpRaw { // its body is packets
			used += wire.HeaderLen
			continue
		}
		if n > len(p) {
			return used, nil
		}
		used += n
		if op < wire.MinAppOp {
			k.control(c, ci, op)
			continue
		}
		st.Received++
		if n < wire.HeaderLen+StampLen {
			st.Unknown++
			continue
		}
		s := ReadStamp(p[wire.HeaderLen:])
		if int(s.Stream) >= len(next) {
			st.Unknown++
			continue
		}
		if s.DueNS < k.begun { // of an earlier step, whose account is closed
			st.Late++
			continue
		}
		if at := &next[s.Stream]; *at == s.Seq {
			*at++
		} else {
			k.unexpected(c, st, at, s)
		}
		if c.timed {
			k.timed(c, st, s.DueNS, nowNS)
		}
	}
}

// expected takes the pushes at the start of b that are as usual: small, with
// the next number. At tens of millions a second every nanosecond counts.
func (k *consumer) expected(c *conn, st *ClassStats, next []uint32, b []byte, nowNS int64) int {
	// Length, header length and version in one comparison.
	const head = uint64(wire.HeaderLen+StampLen)<<32 | uint64(wire.HeaderLen)<<16 | 1
	begun, n := k.begun, uint64(0)
	p := b
	for len(p) >= wire.HeaderLen+StampLen && binary.BigEndian.Uint64(p) == head &&
		uint32(int32(binary.BigEndian.Uint32(p[8:]))-OpRoom) <= uint32(OpAll-OpRoom) {
		due := int64(binary.BigEndian.Uint64(p[16:]))
		w := binary.BigEndian.Uint32(p[24:])
		stream, seq := int(w>>24), w&0xffffff
		if due < begun || stream >= len(next) || next[stream] != seq {
			break
		}
		next[stream]++
		n++
		if c.timed {
			k.timed(c, st, due, nowNS)
		}
		p = p[wire.HeaderLen+StampLen:]
	}
	st.Received += n
	return len(b) - len(p)
}

func (k *consumer) timed(c *conn, st *ClassStats, dueNS, nowNS int64) {
	st.Latency.Record(nowNS - dueNS)
	k.samples[c.class].add(dueNS, nowNS-dueNS)
}

func (k *consumer) unexpected(c *conn, st *ClassStats, at *uint32, s Stamp) {
	v, missing := judge(&c.gaps, at, s.Stream, s.Seq)
	c.missing += missing
	switch v {
	case inverted:
		st.Inversions++
	case duplicated:
		st.Duplicates++
	case ambiguous:
		st.Ambiguous++
	}
}

func (k *consumer) control(c *conn, ci int, op int32) {
	switch {
	case op == wire.OpHeartbeatReply:
		k.echoes++
	case op == wire.OpAuthReply && c.state == stateAuth:
		k.onAuth(ci)
	}
}

// errClosing is a Close frame of the server.
type errClosing uint16

func (e errClosing) Error() string { return fmt.Sprintf("load: closed with code %d", uint16(e)) }

// errPing asks for a pong.
type errPing []byte

func (errPing) Error() string { return "load: ping" }

// consumeWS does the same with WebSocket frames around the packets. An errPing
// says that used includes a ping and that there may be more.
func (k *consumer) consumeWS(c *conn, ci int, b []byte, nowNS int64) (int, error) {
	used := 0
	for used < len(b) {
		if c.wsLeft == 0 {
			opcode, length, n, err := wsHeader(b[used:])
			if err != nil || n == 0 {
				return used, err
			}
			if opcode >= wsClose {
				if len(b)-used < n+int(length) {
					return used, nil
				}
				payload := b[used+n : used+n+int(length)]
				used += n + int(length)
				switch {
				case opcode == wsPing:
					return used, errPing(bytes.Clone(payload))
				case opcode == wsClose && len(payload) >= 2:
					return used, errClosing(binary.BigEndian.Uint16(payload))
				case opcode == wsClose:
					return used, errClosing(1005)
				}
				continue
			}
			used += n
			c.wsLeft = length
			continue
		}
		avail := len(b) - used
		whole := int64(avail) >= c.wsLeft
		if whole {
			avail = int(c.wsLeft)
		}
		n, err := k.consume(c, ci, b[used:used+avail], nowNS)
		used += n
		c.wsLeft -= int64(n)
		switch {
		case err != nil:
			return used, err
		case n < avail && whole:
			return used, fmt.Errorf("load: a WebSocket frame ends within a packet")
		case n < avail:
			return used, nil
		}
	}
	return used, nil
}
