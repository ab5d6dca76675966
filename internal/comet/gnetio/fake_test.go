package gnetio

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"

	"github.com/panjf2000/gnet/v2"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/internal/obs"
)

// fakeLoop is a gnet event loop on a goroutine of its own: the callbacks of
// its connections and what is given to Execute run there, one at a time.
type fakeLoop struct {
	gnet.EventLoop
	tasks chan func()
}

func (l *fakeLoop) Execute(ctx context.Context, r gnet.Runnable) error {
	l.tasks <- func() { _ = r.Run(ctx) }
	return nil
}

func (l *fakeLoop) Close(c gnet.Conn) error {
	c.(*fakeConn).close()
	return nil
}

// do runs fn on the loop.
func (l *fakeLoop) do(fn func()) {
	done := make(chan struct{})
	l.tasks <- func() { defer close(done); fn() }
	<-done
}

// fakeConn is a connection with the buffers of gnet: what a callback leaves is
// there at the next one, at another address.
type fakeConn struct {
	gnet.Conn
	loop   *fakeLoop
	server *Server
	ctx    any
	local  *net.TCPAddr
	in     []byte
	peeked []byte // what Peek lent
	out    bytes.Buffer
	closed bool
	peek   func() // before Peek
}

func (c *fakeConn) EventLoop() gnet.EventLoop { return c.loop }
func (c *fakeConn) LocalAddr() net.Addr       { return c.local }
func (c *fakeConn) RemoteAddr() net.Addr      { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711} }
func (c *fakeConn) Context() any              { return c.ctx }
func (c *fakeConn) SetContext(v any)          { c.ctx = v }
func (c *fakeConn) SetLinger(int) error       { return nil }
func (c *fakeConn) InboundBuffered() int      { return len(c.in) }
func (c *fakeConn) OutboundBuffered() int     { return 0 }
func (c *fakeConn) Fd() int                   { return -1 }

func (c *fakeConn) Peek(int) ([]byte, error) {
	if c.peek != nil {
		c.peek()
	}
	c.spoil()
	c.peeked = bytes.Clone(c.in)
	return c.peeked[:len(c.peeked):len(c.peeked)], nil
}

// spoil makes use of lent bytes after their time visible.
func (c *fakeConn) spoil() {
	for i := range c.peeked {
		c.peeked[i] = 0xA5
	}
}

func (c *fakeConn) Discard(n int) (int, error) {
	if c.closed || n > len(c.in) {
		panic("Discard of what is not there")
	}
	if n <= 0 { // all
		n = len(c.in)
	}
	c.in = c.in[n:]
	return n, nil
}

func (c *fakeConn) Write(p []byte) (int, error) {
	if c.closed {
		panic("Write after the end")
	}
	return c.out.Write(p)
}

func (c *fakeConn) close() {
	if c.closed {
		return
	}
	c.closed = true
	c.server.OnClose(c, nil)
	c.ctx, c.in = nil, nil
}

// traffic is a read event with p, on the loop.
func (c *fakeConn) traffic(p []byte) {
	if c.closed {
		return
	}
	c.in = append(c.in, p...)
	if c.server.OnTraffic(c) == gnet.Close {
		c.close()
	}
	c.spoil()
}

// fakeServer is a server without an engine, on one fake loop.
type fakeServer struct {
	*Server
	loop    *fakeLoop
	logic   *comettest.Logic
	metrics *obs.Metrics
	panics  *obs.Counter
}

func newFakeServer(t testing.TB) *fakeServer {
	t.Helper()
	f := &fakeServer{logic: &comettest.Logic{}, metrics: obs.NewMetrics(), loop: &fakeLoop{tasks: make(chan func(), 4096)}}
	var running sync.WaitGroup
	running.Go(func() {
		for fn := range f.loop.tasks {
			fn()
		}
	})
	t.Cleanup(func() { // after the gateway's end
		close(f.loop.tasks)
		running.Wait()
		f.closeYielders()
	})
	f.panics = f.metrics.PlainCounter("perseid_panics_total", "")
	cfg := comet.DefaultConfig()
	cfg.MaxRooms, cfg.Deflate = 4, true
	g := comettest.Start(t, cfg, 1000, f.logic, f.metrics, comettest.Log(t))
	net := DefaultConfig()
	net.TCP, net.WebSocket = "127.0.0.1:0", "127.0.0.1:0"
	var err error
	if f.Server, err = New(net, g, comettest.Log(t)); err != nil {
		t.Fatal(err)
	}
	return f
}

// open is an accepted connection.
func (f *fakeServer) open(websocket bool) *fakeConn {
	c := &fakeConn{loop: f.loop, server: f.Server, local: net.TCPAddrFromAddrPort(f.tcp)}
	if websocket {
		c.local = net.TCPAddrFromAddrPort(f.ws)
	}
	f.loop.do(func() {
		if _, action := f.OnOpen(c); action == gnet.Close {
			c.close()
		}
	})
	return c
}

// A panic while bytes are handled costs the session that they came from.
func TestPanicCostsOneConnection(t *testing.T) {
	f := newFakeServer(t)
	victim, neighbour := f.open(false), f.open(true)
	victim.peek = func() { panic("the buffer is broken") }
	f.loop.do(func() {
		victim.traffic(packet(1, 7, 1, token))
		neighbour.traffic([]byte(upgradeRequest("/sub")))
	})
	if !victim.closed || neighbour.closed || !bytes.HasPrefix(neighbour.out.Bytes(), []byte("HTTP/1.1 101 ")) {
		t.Errorf("victim closed %v, neighbour closed %v after %q", victim.closed, neighbour.closed, neighbour.out.Bytes())
	}
	if n := f.panics.Value(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
	if n := comettest.Count(t, f.metrics, "perseid_session_closed_total", comet.Internal.String()); n != 1 {
		t.Errorf("%v closed as internal", n)
	}
	f.loop.do(neighbour.close)
}
