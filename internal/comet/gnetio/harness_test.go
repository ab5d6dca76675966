package gnetio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// patience is how long a test waits for what must come: the machine may stand
// still for seconds. A connection of a client may take lifetime.
const (
	patience = time.Minute
	lifetime = 5 * patience
)

// stopClock makes the clock of the deadlines one that stands still but for the
// steps of the test, so that nobody meets a deadline who is only held up. Steps
// count with the next tick, which comes by itself.
func (f *fixture) stopClock() (step func(time.Duration)) {
	begin, moved := time.Now(), new(atomic.Int64)
	f.clock = func() time.Time { return begin.Add(time.Duration(moved.Load())) }
	return func(d time.Duration) { moved.Add(int64(d)) }
}

// fixture is a server on loopback with a gateway behind it.
type fixture struct {
	t       testing.TB
	cfg     comet.Config
	net     Config
	clock   func() time.Time // of deadlines
	logic   *comettest.Logic
	metrics *obs.Metrics
	gateway *comet.Gateway
	server  *Server
	pages   func() comet.Pages // nil: those of the server
	ran     chan error
	panics  float64 // expected
	offset  int64
}

// serve starts a server on two loops; change may alter everything before.
func serve(t testing.TB, change func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, cfg: comettest.Config(), net: DefaultConfig(), clock: time.Now, metrics: obs.NewMetrics(), ran: make(chan error, 1),
		logic: &comettest.Logic{Heartbeat: time.Hour}, // most clients of the tests send none
	}
	f.net.TCP, f.net.WebSocket, f.net.Loops = "127.0.0.1:0", "127.0.0.1:0", 2
	maxSessions := 20_000
	if change != nil {
		change(f)
	}
	if f.cfg.MaxSessions > 0 {
		maxSessions = f.cfg.MaxSessions
	}
	log := comettest.Log(t)
	f.gateway = comettest.StartAt(t, f.clock, f.cfg, maxSessions, f.logic, f.metrics, log)
	var err error
	if f.server, err = New(f.net, f.gateway, log); err != nil {
		t.Fatal(err)
	}
	if f.pages != nil {
		f.server.pages = f.pages
	}
	go func() { f.ran <- f.server.Run() }()
	t.Cleanup(func() {
		f.stop()
		if n := f.count("perseid_panics_total", ""); n != f.panics {
			t.Errorf("%v panics on the loops, want %v", n, f.panics)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.server.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.server.Stop(ctx); err != nil {
		f.t.Error(err)
	}
	select {
	case err := <-f.ran:
		if err != nil {
			f.t.Error(err)
		}
		f.ran <- nil
	case <-ctx.Done():
		f.t.Error("Run goes on after Stop")
	}
}

func (f *fixture) count(name, label string) float64 {
	f.t.Helper()
	return comettest.Count(f.t, f.metrics, name, label)
}

func (f *fixture) ended(why comet.Reason) float64 {
	f.t.Helper()
	return f.count("perseid_session_closed_total", why.String())
}

// lane is where the test's pushes come from.
func lane() comet.Lane { return comet.Lane{Log: "push/1", Lanes: 1} }

// dispatch sends pushes as one batch.
func (f *fixture) dispatch(pushes ...comet.Push) *comet.Delivery {
	f.t.Helper()
	for i := range pushes {
		f.offset++
		pushes[i].Offset = f.offset
	}
	d, err := f.gateway.Dispatch(f.t.Context(), lane(), pushes)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

// push sends pushes as one batch and waits for the results.
func (f *fixture) push(pushes ...comet.Push) []comet.PushResult {
	f.t.Helper()
	d := f.dispatch(pushes...)
	select {
	case <-d.Done():
	case <-time.After(patience):
		f.t.Fatal("a push has no result")
	}
	return d.Results
}

func toRoom(room string, op wire.Op, body string) comet.Push {
	return comet.Push{Room: room, Op: op, Body: []byte(body)}
}

// transports runs a test on both listeners.
func transports(t *testing.T, change func(*fixture), test func(*testing.T, *fixture, func() *client)) {
	for _, name := range []string{"tcp", "websocket"} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, change)
			if name == "tcp" {
				test(t, f, f.tcp)
			} else {
				test(t, f, f.websocket)
			}
		})
	}
}

// client is one end of a connection that knows packets and frames.
type client struct {
	t      testing.TB
	conn   *net.TCPConn
	br     *bufio.Reader
	isWS   bool
	reader ws.Reader
	agreed string // Sec-WebSocket-Extensions of the answer
	in     []byte // read from the socket, not decoded yet
	rest   []byte // packets of a message behind the one that packet returned
}

func (f *fixture) tcp() *client {
	f.t.Helper()
	return f.dial(f.server.TCPAddr())
}

func (f *fixture) dial(addr string) *client {
	f.t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(lifetime)); err != nil {
		f.t.Fatal(err)
	}
	return &client{t: f.t, conn: conn.(*net.TCPConn), br: bufio.NewReader(conn)}
}

// upgradeRequest is the opening handshake of RFC 6455's example.
func upgradeRequest(path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: comet\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" +
		strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

func (f *fixture) websocket() *client {
	f.t.Helper()
	c := f.dial(f.server.WebSocketAddr())
	c.write([]byte(upgradeRequest("/sub")))
	c.upgraded()
	return c
}

// upgraded reads the answer of the handshake.
func (c *client) upgraded() {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		c.t.Fatalf("handshake: %s %v", resp.Status, resp.Header)
	}
	c.isWS = true
	c.reader.InitClient(64 << 20)
	if c.agreed = resp.Header.Get("Sec-WebSocket-Extensions"); c.agreed != "" {
		c.reader.AllowDeflate()
	}
}

func (c *client) write(p []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(p); err != nil {
		c.t.Fatal(err)
	}
}

// frame is how a message of the client stands on its transport.
func (c *client) frame(p []byte) []byte {
	if c.isWS {
		return ws.AppendMaskedFrame(nil, ws.OpBinary, p, [4]byte{1, 2, 3, 4})
	}
	return p
}

func packet(ver int16, op wire.Op, seq int32, body string) []byte {
	return wire.AppendPacket(nil, wire.Header{Ver: ver, Op: op, Seq: seq}, []byte(body))
}

func (c *client) send(ver int16, op wire.Op, seq int32, body string) {
	c.t.Helper()
	c.write(c.frame(packet(ver, op, seq, body)))
}

// auth authenticates and reads the reply.
func (c *client) auth(ver int16, token string) wire.Packet {
	c.t.Helper()
	c.send(ver, wire.OpAuth, 1, token)
	p := c.packet()
	if p.Op != wire.OpAuthReply || p.Seq != 1 {
		c.t.Fatalf("auth reply %+v %q", p.Header, p.Body)
	}
	return p
}

// event is the next frame of the server, or how the connection ended.
func (c *client) event() (ws.Event, error) {
	for {
		ev, n, err := c.reader.Next(c.in)
		if err != nil {
			c.t.Fatalf("the server's frames: %v", err)
		}
		ev.Payload = bytes.Clone(ev.Payload)
		c.in = c.in[n:]
		if n > 0 && ev.Kind != ws.KindNone {
			return ev, nil
		}
		if n == 0 {
			if err := c.fill(); err != nil {
				return ws.Event{}, err
			}
		}
	}
}

func (c *client) fill() error {
	buf := make([]byte, 64<<10)
	n, err := c.br.Read(buf)
	c.in = append(c.in, buf[:n]...)
	return err
}

// next is the next packet, an op 9 wrapper included, or how the connection
// ended: io.EOF, or a closeError.
func (c *client) next() (wire.Packet, error) {
	d := wire.Decoder{MaxBody: -1, Extensions: true}
	for {
		from := &c.in
		if c.isWS {
			from = &c.rest
		}
		p, n, err := d.Next(*from)
		if err != nil {
			c.t.Fatalf("the server's packets: %v", err)
		}
		if n > 0 {
			p.Body = bytes.Clone(p.Body)
			*from = (*from)[n:]
			return p, nil
		}
		if !c.isWS {
			if err := c.fill(); err != nil {
				return p, err
			}
			continue
		}
		if len(c.rest) > 0 {
			c.t.Fatalf("a message ends inside a packet: %x", c.rest)
		}
		ev, err := c.event()
		switch {
		case err != nil:
			return p, err
		case ev.Kind == ws.KindClose:
			return p, closeError{ev.Code, ev.Reason}
		case ev.Kind == ws.KindMessage:
			var i ws.Inflater
			if ev, err = i.Message(ev, 64<<20); err != nil {
				c.t.Fatal(err)
			}
			c.rest = ev.Payload
		}
	}
}

type closeError struct {
	code   uint16
	reason string
}

func (e closeError) Error() string { return fmt.Sprintf("close frame %d %s", e.code, e.reason) }

func (c *client) packet() wire.Packet {
	c.t.Helper()
	p, err := c.next()
	if err != nil {
		c.t.Fatalf("instead of a packet: %v", err)
	}
	return p
}

// expect reads packets and compares them.
func (c *client) expect(want ...wire.Packet) {
	c.t.Helper()
	for i, w := range want {
		p := c.packet()
		if p.Header != w.Header || !bytes.Equal(p.Body, w.Body) {
			c.t.Fatalf("packet %d: %+v %q, want %+v %q", i, p.Header, p.Body, w.Header, w.Body)
		}
	}
}

func reply(ver int16, op wire.Op, seq int32, body string) wire.Packet {
	return wire.Packet{Header: wire.Header{Ver: ver, Op: op, Seq: seq}, Body: []byte(body)}
}

// pushed are the next n pushes of the application, unwrapped from op 9.
func (c *client) pushed(n int) (out []wire.Packet) {
	c.t.Helper()
	for len(out) < n {
		p := c.packet()
		if p.Op != wire.OpRaw {
			out = append(out, p)
			continue
		}
		for body := p.Body; len(body) > 0; {
			inner, taken, err := wire.Decoder{MaxBody: -1}.Next(body)
			if err != nil || taken == 0 {
				c.t.Fatalf("op 9 with %x: %v", body, err)
			}
			out = append(out, inner)
			body = body[taken:]
		}
	}
	return out
}

// bytes reads exactly what the hex digits (blanks are ignored) say.
func (c *client) bytes(want string) {
	c.t.Helper()
	w, err := hex.DecodeString(strings.ReplaceAll(want, " ", ""))
	if err != nil {
		c.t.Fatal(err)
	}
	got := make([]byte, len(w))
	if n, err := io.ReadFull(c.br, got); err != nil {
		c.t.Fatalf("got %x, %v; want %x", got[:n], err, w)
	}
	if !bytes.Equal(got, w) {
		c.t.Fatalf("got %x, want %x", got, w)
	}
}

// end reads to the end of the connection and returns the packets before it
// and how it ended: "eof", "reset" or "close CODE REASON".
func (c *client) end() (before []wire.Packet, how string) {
	c.t.Helper()
	for {
		p, err := c.next()
		switch ce := (closeError{}); {
		case err == nil:
			before = append(before, p)
		case errors.As(err, &ce):
			return before, fmt.Sprintf("close %d %s", ce.code, ce.reason)
		case errors.Is(err, io.EOF):
			return before, "eof"
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return before, "reset"
		default:
			c.t.Fatalf("the connection does not end: %v", err)
		}
	}
}

// alive checks that the session answers.
func (c *client) alive(ver int16) {
	c.t.Helper()
	c.send(ver, wire.OpHeartbeat, 4711, "")
	for {
		p := c.packet()
		if p.Op == wire.OpHeartbeatReply && p.Seq == 4711 {
			return
		}
	}
}
