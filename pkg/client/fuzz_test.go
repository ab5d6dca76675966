package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// tape is a connection whose server says what is on it, in pieces, once it has
// heard something, and takes everything.
type tape struct {
	net.Conn
	rest  []byte
	piece int // bytes per read; 0 = all
	heard chan struct{}
	once  sync.Once
}

func newTape(server []byte, piece int) *tape {
	return &tape{rest: bytes.Clone(server), piece: piece, heard: make(chan struct{})}
}

func (c *tape) Read(b []byte) (int, error) {
	<-c.heard
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := len(c.rest)
	if c.piece > 0 {
		n = min(n, c.piece)
	}
	n = copy(b, c.rest[:n])
	c.rest = c.rest[n:]
	return n, nil
}

func (c *tape) Write(b []byte) (int, error) {
	c.once.Do(func() { close(c.heard) })
	return len(b), nil
}

func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }
func (c *tape) Close() error                     { return nil }

// play runs one connection over a tape to its end and tells what came out.
func play(t *testing.T, f framing, ver int16, server []byte, piece int) (trace []string) {
	cfg, _, err := Config{Address: "tcp://fuzz:1", Version: ver, MaxPacketBytes: minPacketLimit, QueueBytes: 1 << 30}.prepared()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := open(ctx, cfg, f, link{nc: newTape(server, piece), deflate: f == overWebSocket})
	if err != nil {
		return []string{err.Error()}
	}
	defer func() { _ = c.Close() }()
	trace = append(trace, fmt.Sprintf("session %+v", c.session))
	size := 0
	for {
		m, err := c.Recv(ctx)
		if err != nil {
			trace = append(trace, err.Error())
			break
		}
		size += len(m.Body) + wire.HeaderLen
		trace = append(trace, fmt.Sprintf("op %d %x", m.Op, m.Body))
	}
	most := len(server)
	if f == overWebSocket {
		most *= 1032 // what deflate can make of a byte
	}
	if size > most {
		t.Fatalf("%d bytes of messages out of %d bytes", size, len(server))
	}
	if ctx.Err() != nil {
		t.Fatal("it did not end")
	}
	return trace
}

// FuzzServerBytes: whatever a server says behind the handshake, the connection
// comes to an end, delivers no more than was sent (and compressed, on WebSocket), and does not care how the
// bytes were cut on the way.
func FuzzServerBytes(f *testing.F) {
	authV2 := wire.AppendPacket(nil, wire.Header{Ver: 2, Op: wire.OpAuthReply, Seq: 1}, []byte(`{"session":"1","mid":1,"key":"k","ver":2,"heartbeat":60}`))
	authV1 := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: wire.OpAuthReply, Seq: 1}, nil)
	refused := wire.AppendPacket(nil, wire.Header{Ver: 2, Op: wire.OpAuthReply, Seq: 1}, []byte(`{"code":3500,"reason":"no"}`))
	push := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: 1000}, []byte("hello"))
	bye := wire.AppendPacket(nil, wire.Header{Ver: 2, Op: wire.OpBye}, []byte(`{"code":3001,"reason":"draining","reconnect":true,"retry_ms":9}`))
	raw := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: wire.OpRaw}, slices.Concat(push, push))
	frame := func(b ...[]byte) []byte { return ws.AppendFrame(nil, ws.OpBinary, slices.Concat(b...)) }

	f.Add(false, true, 3, slices.Concat(authV2, push, push, bye))
	f.Add(false, true, 0, refused)
	f.Add(false, false, 1, slices.Concat(authV1, push, raw))
	f.Add(true, false, 7, slices.Concat(frame(authV1), frame(raw), ws.AppendFrame(nil, ws.OpPing, []byte("p")), ws.AppendClose(nil, 3504, "replaced")))
	f.Add(true, true, 5, slices.Concat(frame(authV2, push), frame(push, push), frame(bye)))
	f.Add(true, true, 2, slices.Concat(frame(authV2), ws.AppendHeader(nil, ws.OpBinary, false, 10), push[:10], ws.AppendFrame(nil, ws.OpContinuation, push[10:])))
	long := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: 1000}, bytes.Repeat([]byte("hello "), 50))
	packed, _ := new(ws.Deflater).AppendFrame(nil, ws.OpBinary, long)
	f.Add(true, true, 9, slices.Concat(frame(authV2), packed, frame(push), packed, packed[:len(packed)-3], frame(push)))
	f.Fuzz(func(t *testing.T, webSocket, v2 bool, piece int, server []byte) {
		if len(server) > 64<<10 {
			return
		}
		framing, ver := overTCP, wire.V1
		if webSocket {
			framing = overWebSocket
		}
		if v2 {
			ver = wire.V2
		}
		whole := play(t, framing, ver, server, 0)
		cut := play(t, framing, ver, server, 1+int(uint(piece)%64))
		if !slices.Equal(whole, cut) {
			t.Fatalf("in one piece:\n%q\nin pieces of %d:\n%q", whole, 1+int(uint(piece)%64), cut)
		}
	})
}

// The seq of a request is never 0, which is what pushes have.
func TestSeqWraps(t *testing.T) {
	c := newConn(Config{}, overTCP, link{nc: newTape(nil, 0)})
	c.seq = 1<<31 - 2
	got := []int32{c.nextSeq(), c.nextSeq(), c.nextSeq()}
	if want := []int32{1<<31 - 1, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Far beyond the point where a doubled pause would overflow.
func TestPauseStaysInRange(t *testing.T) {
	p := pause{Backoff: Backoff{Min: 3, Max: time.Hour}}
	for i := range 200 {
		if wait := p.next(0, 0); wait < 0 || wait > time.Hour || i == 0 && wait > 3 {
			t.Fatalf("pause %d is %s", i, wait)
		}
	}
	if wait := p.next(0, 2*time.Hour); wait != 2*time.Hour {
		t.Errorf("the server asked for 2h, the pause is %s", wait)
	}
}

func TestByeIsClamped(t *testing.T) {
	for body, want := range map[string]time.Duration{
		`{"retry_ms":9223372036854775807}`: maxRetryAfter,
		`{"retry_ms":-5}`:                  0,
		`{"retry_ms":1500}`:                1500 * time.Millisecond,
	} {
		closed, ok := errors.AsType[*CloseError](byeError([]byte(body)))
		if !ok || closed.RetryAfter != want {
			t.Errorf("%s: %+v, want %s", body, closed, want)
		}
	}
}
