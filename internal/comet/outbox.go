package comet

import (
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// maxKeptBuffer is the largest buffer a bucket keeps for reuse, in bytes.
const maxKeptBuffer = 64 << 10

// maxSpare are the packets that it keeps; a turn takes one for each push.
const maxSpare = 256

// outbox is what one turn of the loop has for one session; it leaves in one
// write at the end of the turn, or before a large run is written. What the
// socket does not take waits in the transport; both together are bounded by
// Config.OutboxBytes.
//
// Nearly always one shared run of packets is all there is, so that stands in
// a field of its own and is written from where it is.
type outbox struct {
	shared []byte // not owned, never written
	buf    []byte // owned; nil when idle
	dirty  bool
}

func (o *outbox) size() int { return len(o.shared) + len(o.buf) }

// push puts shared bytes into the outbox of a session, or decides by the
// overflow rule. shared must stay valid until the end of the turn.
func (b *Bucket) push(s *Session, shared []byte) Outcome {
	switch s.state {
	case live:
	case connecting, confirming:
		// The location is known before the auth reply is out: hold the push
		// until then, it was accepted for this session (goim L16).
		if waits := s.out.size(); waits > 0 && waits+len(shared) > b.gateway.cfg.OutboxBytes {
			return Slow
		}
		s.out.buf = append(b.own(s), shared...)
		return Delivered
	default:
		return NotHere
	}
	if waits := s.out.size() + s.conn.Buffered(); waits > 0 && waits+len(shared) > b.gateway.cfg.OutboxBytes {
		return b.overflow(s)
	}
	if s.out.size() == 0 {
		s.out.shared = shared
	} else {
		s.out.buf = append(b.own(s), shared...)
	}
	b.touch(s)
	return Delivered
}

// write sends packets to a session that has nothing else in its outbox; it is
// push and flush in one for the walk of a room.
func (b *Bucket) write(s *Session, p *packets) Outcome {
	f := s.form()
	shared := p.encoded(f)
	if s.state != live || s.out.size() > 0 {
		return b.push(s, shared)
	}
	if waits := s.conn.Buffered(); waits > 0 && waits+len(shared) > b.gateway.cfg.OutboxBytes {
		return b.overflow(s)
	}
	if at, ok := b.share(p, f, shared); ok {
		b.pages.Write(s.conn, shared, at)
	} else {
		s.conn.Write(shared)
	}
	return Delivered
}

// The kernel copies what is written, into memory that it takes for every
// connection. From shareBytes on it is cheaper to put the bytes into pages once
// and let the send queues of all receivers refer to them; after shareAfter
// receivers it is likely that there are enough to make up for the putting
// (benchmarks/results/stages.txt).
const (
	shareBytes = 4 << 10
	shareAfter = 16
)

// share tells where a form of packets is in the kernel's pages.
func (b *Bucket) share(p *packets, f form, encoded []byte) (at int, ok bool) {
	if len(encoded) < shareBytes || b.pages == nil {
		return 0, false
	}
	in := &p.pages[f]
	if in.receivers++; in.receivers == shareAfter {
		in.at, in.shared = b.pages.Put(encoded)
	}
	return in.at, in.shared
}

// unshare gives the pages of packets back that nobody is sent any more.
func (b *Bucket) unshare(p *packets) {
	for f := range p.pages {
		in := &p.pages[f]
		if in.shared {
			b.pages.Drop(in.at)
		}
		*in = inPages{}
	}
}

// overflow is the decision about a session whose outbox is full.
func (b *Bucket) overflow(s *Session) Outcome {
	if b.gateway.cfg.Overflow == "close" {
		b.Close(s, SlowConsumer)
	}
	return Slow
}

// reply puts a packet for one session into its outbox. Replies are not
// dropped; a client that asks faster than it reads is closed.
func (b *Bucket) reply(s *Session, h wire.Header, body []byte) {
	if s.state == closed {
		return
	}
	if !b.roomForReply(s, len(body)) {
		return
	}
	buf := b.own(s)
	if s.framing == WebSocket {
		buf = ws.AppendHeader(buf, ws.OpBinary, true, wire.Size(body))
	}
	s.out.buf = wire.AppendPacket(buf, h, body)
	b.touch(s)
}

// roomForReply tells whether n more bytes may wait for a client that asked
// for them; if not, the session has been closed.
func (b *Bucket) roomForReply(s *Session, n int) bool {
	if s.out.size()+s.conn.Buffered()+n > 2*b.gateway.cfg.OutboxBytes {
		b.Close(s, SlowConsumer)
		return false
	}
	return true
}

// Control puts a WebSocket control frame into the outbox, under the bound of
// replies.
func (b *Bucket) Control(s *Session, op ws.Opcode, payload []byte) {
	if s.state == closed || !b.roomForReply(s, len(payload)) {
		return
	}
	s.out.buf = ws.AppendFrame(b.own(s), op, payload)
	b.touch(s)
}

// own returns the session's own buffer with everything that waits in it.
func (b *Bucket) own(s *Session) []byte {
	if s.out.buf == nil {
		s.out.buf = b.takeBuffer()
	}
	if len(s.out.shared) > 0 {
		s.out.buf = append(s.out.buf, s.out.shared...)
		s.out.shared = nil
	}
	return s.out.buf
}

// touch marks a session for the flush at the end of the turn. A session that
// is not live yet keeps its outbox until the auth reply.
func (b *Bucket) touch(s *Session) {
	if !s.out.dirty {
		s.out.dirty = true
		b.dirty = append(b.dirty, s)
	}
}

// flush writes the outboxes that this turn has filled.
func (b *Bucket) flush() {
	for i := 0; i < len(b.dirty); i++ {
		s := b.dirty[i]
		b.dirty[i] = nil
		s.out.dirty = false
		b.flushOne(s)
	}
	b.dirty = b.dirty[:0]
	for i, p := range b.sent {
		b.unshare(p)
		p.reset()
		if len(b.spare) < maxSpare {
			b.spare = append(b.spare, p)
		}
		b.sent[i] = nil
	}
	b.sent = b.sent[:0]
}

func (b *Bucket) flushOne(s *Session) {
	shared, buf := s.out.shared, s.out.buf
	s.out.shared, s.out.buf = nil, nil
	if s.state != closed {
		if len(shared) > 0 {
			s.conn.Write(shared)
		} else if len(buf) > 0 {
			s.conn.Write(buf)
		}
	}
	b.giveBuffer(buf)
}

func (b *Bucket) takeBuffer() []byte {
	if n := len(b.buffers); n > 0 {
		buf := b.buffers[n-1]
		b.buffers = b.buffers[:n-1]
		return buf
	}
	return make([]byte, 0, 256)
}

func (b *Bucket) giveBuffer(buf []byte) {
	if cap(buf) > 0 && cap(buf) <= maxKeptBuffer && len(b.buffers) < 64 {
		b.buffers = append(b.buffers, buf[:0])
	}
}

// takePackets returns an empty run of packets.
func (b *Bucket) takePackets() *packets {
	if n := len(b.spare); n > 0 {
		p := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return p
	}
	return &packets{deflation: &b.gateway.deflation}
}
