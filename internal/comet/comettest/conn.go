package comettest

import (
	"bytes"
	"net/netip"
	"sync"
	"testing"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Loop is an event loop with its bucket, on a goroutine of its own.
type Loop struct {
	Bucket *comet.Bucket
	tasks  chan func()
}

// NewLoop adds a loop to a gateway. It ends with the test.
func NewLoop(t testing.TB, g *comet.Gateway) *Loop {
	t.Helper()
	l := &Loop{tasks: make(chan func(), 4096)}
	var running sync.WaitGroup
	running.Go(func() {
		for fn := range l.tasks {
			fn()
		}
	})
	t.Cleanup(func() { // after the gateway does not use it any more
		if err := g.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		close(l.tasks)
		running.Wait()
	})
	var err error
	if l.Bucket, err = g.NewBucket(l); err != nil {
		t.Fatal(err)
	}
	return l
}

// Execute implements comet.Loop.
func (l *Loop) Execute(fn func()) { l.tasks <- fn }

// Yield implements comet.Loop.
func (l *Loop) Yield() {}

// Pages implements comet.Loop.
func (l *Loop) Pages() comet.Pages { return nil }

// Do runs fn on the loop and waits for its end.
func (l *Loop) Do(fn func()) {
	done := make(chan struct{})
	l.tasks <- func() { defer close(done); fn() }
	<-done
}

// Block stops the loop until release is called.
func (l *Loop) Block() (release func()) {
	stuck, free := make(chan struct{}), make(chan struct{})
	l.tasks <- func() { close(stuck); <-free }
	<-stuck
	return sync.OnceFunc(func() { close(free) })
}

// Conn is a stream connection whose socket takes everything.
type Conn struct {
	t       testing.TB
	loop    *Loop
	session *comet.Session

	mu    sync.Mutex
	out   bytes.Buffer
	ended bool
}

var _ comet.Conn = (*Conn)(nil)

// Open starts a session and authenticates it.
func (l *Loop) Open(t testing.TB, ver int16, token string) *Conn {
	t.Helper()
	c := &Conn{t: t, loop: l}
	l.Do(func() { c.session = l.Bucket.Open(c, comet.Stream, netip.AddrFrom4([4]byte{127, 0, 0, 1})) })
	if c.session == nil {
		t.Fatal("not admitted")
	}
	c.Send(ver, wire.OpAuth, 1, token)
	WaitFor(t, "the auth reply", func() bool { return len(c.Bodies(wire.OpAuthReply)) == 1 })
	return c
}

// Session is the session's id.
func (c *Conn) Session() uint64 { return c.session.ID() }

// Send hands a packet of the client to the session.
func (c *Conn) Send(ver int16, op wire.Op, seq int32, body string) {
	c.loop.Do(func() {
		c.loop.Bucket.Packet(c.session, wire.Packet{Header: wire.Header{Ver: ver, Op: op, Seq: seq}, Body: []byte(body)}, "")
		c.loop.Bucket.Flush()
	})
}

// Bodies are those of the packets with this op, so far.
func (c *Conn) Bodies(op wire.Op) (bodies []string) {
	c.t.Helper()
	for _, p := range c.Packets() {
		if p.Op == op {
			bodies = append(bodies, string(p.Body))
		}
	}
	return bodies
}

// Packets are all that were written so far.
func (c *Conn) Packets() (packets []wire.Packet) {
	c.t.Helper()
	c.mu.Lock()
	out := bytes.Clone(c.out.Bytes())
	c.mu.Unlock()
	for len(out) > 0 {
		p, n, err := wire.Decoder{MaxBody: -1, Extensions: true}.Next(out)
		if err != nil || n == 0 {
			c.t.Fatalf("not whole packets: %x (%v)", out, err)
		}
		packets = append(packets, p)
		out = out[n:]
	}
	return packets
}

// Ended tells whether the session's connection was closed.
func (c *Conn) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// Write implements comet.Conn.
func (c *Conn) Write(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Write(p)
}

// Buffered implements comet.Conn.
func (c *Conn) Buffered() int { return 0 }

// Close implements comet.Conn.
func (c *Conn) Close() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.loop.Bucket.Closed(c.session)
}

// Reset implements comet.Conn.
func (c *Conn) Reset() { c.Close() }

// Resume implements comet.Conn.
func (c *Conn) Resume() {}
