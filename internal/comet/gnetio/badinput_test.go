package gnetio

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// clientHello is how a TLS client begins.
const clientHello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "0123456789abcdef0123456789abcdef"

// checkEnd waits for the end of the connection and for its count.
func checkEnd(t *testing.T, f *fixture, c *client, why comet.Reason, count float64, wantCode uint16) {
	t.Helper()
	before, how := c.end()
	if len(before) != 0 {
		t.Errorf("got packets %+v", before)
	}
	if want := fmt.Sprintf("close %d ", wantCode); wantCode != 0 && !strings.HasPrefix(how, want) {
		t.Errorf("ended with %q, want %q", how, want)
	}
	comettest.WaitFor(t, "the count of "+why.String(), func() bool { return f.ended(why) == count+1 })
}

func TestBadPackets(t *testing.T) {
	transports(t, nil, func(t *testing.T, f *fixture, dial func() *client) {
		neighbour := dial()
		neighbour.auth(1, `{"key":"neighbour","room_id":"live://1"}`)
		header := func(packLen, headerLen uint32) string {
			return fmt.Sprintf("%08x %04x 0001 00000002 00000001", packLen, headerLen&0xffff)
		}
		for name, tc := range map[string]struct {
			hex string
			why comet.Reason
		}{
			"packLen 0":            {header(0, 16), comet.BadFrame},
			"packLen 15":           {header(15, 16), comet.BadFrame},
			"packLen -1":           {header(0xffffffff, 16), comet.BadFrame},
			"packLen -2^31":        {header(0x80000000, 16), comet.BadFrame}, // goim: overflows
			"packLen 2^31-1":       {header(0x7fffffff, 16), comet.BadFrame},
			"packLen 4113":         {header(4113, 16), comet.BadFrame},
			"packLen 65553":        {header(65553, 16), comet.BadFrame},
			"headerLen 0":          {header(16, 0), comet.BadFrame},
			"headerLen 15":         {header(16, 15), comet.BadFrame},
			"headerLen 17":         {header(17, 17) + "00", comet.BadFrame},
			"headerLen -1":         {header(16, 0xffff), comet.BadFrame},
			"heartbeat first":      {header(16, 16), comet.NotAuthenticated},
			"auth without a body":  {"00000010 0010 0001 00000007 00000001", comet.BadToken},
			"auth that is no JSON": {"00000014 0010 0001 00000007 00000001 7b7b7b7b", comet.BadToken},
		} {
			t.Run(name, func(t *testing.T) {
				c, count := dial(), f.ended(tc.why)
				code := tc.why.Code()
				if !c.isWS {
					code = 0
				}
				c.write(c.frame(unhex(t, tc.hex)))
				checkEnd(t, f, c, tc.why, count, code)
				if tc.why == comet.BadFrame && name != "packLen 65553" { // the same after auth
					for _, ver := range []int16{1, 2} {
						if ver == 2 && (name == "headerLen 17" || name == "packLen 4113") {
							continue // allowed there
						}
						c, count := dial(), f.ended(tc.why)
						c.auth(ver, `{"key":"victim"}`)
						c.write(c.frame(unhex(t, tc.hex)))
						if before, _ := c.end(); len(before) != int(ver)-1 {
							t.Errorf("version %d got %+v", ver, before)
						}
						comettest.WaitFor(t, "the count", func() bool { return f.ended(tc.why) == count+1 })
					}
				}
				neighbour.alive(1)
			})
		}
	})
}

func TestStrangersOnTheTCPPort(t *testing.T) {
	f := serve(t, nil)
	neighbour := f.tcp()
	neighbour.auth(1, token)
	for name, bytes := range map[string]string{
		"TLS":       clientHello,
		"HTTP":      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"WebSocket": upgradeRequest("/sub"),
		"SSH":       "SSH-2.0-OpenSSH_9.2\r\n",
		"zeros":     strings.Repeat("\x00", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			c, count := f.tcp(), f.ended(comet.BadFrame)
			c.write([]byte(bytes))
			checkEnd(t, f, c, comet.BadFrame, count, 0)
			neighbour.alive(1)
		})
	}
}

func TestBadHandshakes(t *testing.T) {
	f := serve(t, nil)
	neighbour := f.websocket()
	neighbour.auth(1, token)
	for name, tc := range map[string]struct {
		bytes  string
		status int
	}{
		"TLS":              {clientHello, http.StatusBadRequest},
		"goim packets":     {string(packet(1, wire.OpAuth, 1, token)), http.StatusBadRequest},
		"wrong path":       {upgradeRequest("/other"), http.StatusNotFound},
		"path in a path":   {upgradeRequest("/sub/"), http.StatusNotFound},
		"no upgrade":       {"GET /sub HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusUpgradeRequired},
		"POST":             {strings.Replace(upgradeRequest("/sub"), "GET", "POST", 1), http.StatusMethodNotAllowed},
		"HTTP/1.0":         {strings.Replace(upgradeRequest("/sub"), "HTTP/1.1", "HTTP/1.0", 1), http.StatusHTTPVersionNotSupported},
		"version 8":        {strings.Replace(upgradeRequest("/sub"), "Version: 13", "Version: 8", 1), http.StatusUpgradeRequired},
		"body":             {upgradeRequest("/sub", "Content-Length: 5") + "hello", http.StatusBadRequest},
		"head without end": {upgradeRequest("/sub", "X: "+strings.Repeat("x", maxHandshakeBytes)), http.StatusRequestHeaderFieldsTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			c, count := f.dial(f.server.WebSocketAddr()), f.ended(comet.BadFrame)
			c.write([]byte(tc.bytes))
			resp, err := http.ReadResponse(c.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
			}
			comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.BadFrame) == count+1 })
			neighbour.alive(1)
		})
	}
}

func TestBadWebSocketFrames(t *testing.T) {
	f := serve(t, nil)
	neighbour := f.websocket()
	neighbour.auth(1, token)
	masked := func(op ws.Opcode, first byte, payload []byte) []byte {
		out := ws.AppendMaskedFrame(nil, op, payload, [4]byte{1, 2, 3, 4})
		out[0] = first
		return out
	}
	for name, tc := range map[string]struct {
		bytes []byte
		code  uint16
	}{
		"not masked":             {ws.AppendFrame(nil, ws.OpBinary, packet(1, 2, 1, "")), ws.CodeProtocolError},
		"reserved bit":           {masked(ws.OpBinary, 0xC2, packet(1, 2, 1, "")), ws.CodeProtocolError},
		"reserved opcode":        {masked(ws.OpBinary, 0x83, packet(1, 2, 1, "")), ws.CodeProtocolError},
		"continuation":           {masked(ws.OpBinary, 0x80, packet(1, 2, 1, "")), ws.CodeProtocolError},
		"fragmented ping":        {masked(ws.OpPing, 0x09, []byte("x")), ws.CodeProtocolError},
		"text that is none":      {masked(ws.OpText, 0x81, []byte{0xff, 0xfe}), ws.CodeInvalidUTF8},
		"message too big":        {masked(ws.OpBinary, 0x82, make([]byte, 4113)), ws.CodeTooBig},
		"length of 2^63":         {[]byte("\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00"), ws.CodeProtocolError},
		"close with half a code": {masked(ws.OpClose, 0x88, []byte{3}), ws.CodeProtocolError},
		"close with code 1005":   {masked(ws.OpClose, 0x88, []byte{0x03, 0xed}), ws.CodeProtocolError},
		"message without packet": {masked(ws.OpBinary, 0x82, nil), comet.BadFrame.Code()},
		"half a packet":          {masked(ws.OpBinary, 0x82, packet(1, 7, 1, "body")[:18]), comet.BadFrame.Code()},
	} {
		t.Run(name, func(t *testing.T) {
			c, count := f.websocket(), f.ended(comet.BadFrame)
			c.write(tc.bytes)
			checkEnd(t, f, c, comet.BadFrame, count, tc.code)
			c, count = f.websocket(), f.ended(comet.BadFrame)
			c.auth(1, `{"key":"victim"}`)
			c.write(tc.bytes)
			checkEnd(t, f, c, comet.BadFrame, count, tc.code)
			neighbour.alive(1)
		})
	}
}

// drip writes the beginning of p, one byte after each tick of the server.
func drip(c *client, p []byte) func() {
	return func() {
		c.write(p[:1])
		p = p[1:]
	}
}

// Everything up to the auth reply has one deadline, however busy the client
// looks.
func TestSlowHandshake(t *testing.T) {
	const timeout = time.Minute
	var step func(time.Duration)
	f := serve(t, func(f *fixture) { step = f.stopClock(); f.cfg.HandshakeTimeout = timeout })
	neighbour := f.tcp()
	neighbour.auth(1, token)
	upgraded := func() *client {
		c := f.dial(f.server.WebSocketAddr())
		c.write([]byte(upgradeRequest("/sub")))
		c.upgraded()
		return c
	}
	opened := func() float64 {
		return f.count("perseid_session_opened_total", "tcp") + f.count("perseid_session_opened_total", "websocket")
	}
	silent := func(*client) func() { return func() {} }
	for name, tc := range map[string]struct {
		dial func() *client
		act  func(*client) (once func())
		how  string
	}{
		"silent TCP":                  {f.tcp, silent, "eof"},
		"silent before the upgrade":   {func() *client { return f.dial(f.server.WebSocketAddr()) }, silent, "eof"},
		"silent after the upgrade":    {upgraded, silent, "close 3011 handshake_timeout"},
		"byte by byte on TCP":         {f.tcp, func(c *client) func() { return drip(c, packet(1, wire.OpAuth, 1, token)) }, "eof"},
		"byte by byte in the upgrade": {func() *client { return f.dial(f.server.WebSocketAddr()) }, func(c *client) func() { return drip(c, []byte(upgradeRequest("/sub"))) }, "eof"},
		"byte by byte in a frame":     {upgraded, func(c *client) func() { return drip(c, c.frame(packet(1, wire.OpAuth, 1, token))) }, "close 3011 handshake_timeout"},
		"pings only": {upgraded, func(c *client) func() {
			return func() { c.write(ws.AppendMaskedFrame(nil, ws.OpPing, nil, [4]byte{})) }
		}, "close 3011 handshake_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			count, before := f.ended(comet.HandshakeTimeout), opened()
			c := tc.dial()
			comettest.WaitFor(t, "the session", func() bool { return opened() == before+1 })
			act := tc.act(c)
			const steps = 10
			for range steps - 1 { // a tick apart: the server reads them one by one, as a rule
				act()
				<-time.After(110 * time.Millisecond)
				step(timeout / steps)
			}
			act()
			if f.ended(comet.HandshakeTimeout) != count {
				t.Error("ended before its time")
			}
			step(timeout/steps + time.Second)
			comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.HandshakeTimeout) == count+1 })
			for {
				if !c.isWS {
					if _, how := c.end(); how != tc.how && how != "reset" {
						t.Errorf("ended with %q", how)
					}
					break
				}
				ev, err := c.event()
				if err != nil {
					t.Fatalf("no close frame: %v", err)
				}
				if ev.Kind == ws.KindClose {
					if how := fmt.Sprintf("close %d %s", ev.Code, ev.Reason); how != tc.how {
						t.Errorf("ended with %q", how)
					}
					break
				}
			}
		})
	}
	neighbour.alive(1)
}

// A peer that is gone without a word ends with its heartbeat; one that only
// shut its writing side down ends at once.
func TestHalfOpen(t *testing.T) {
	var step func(time.Duration)
	transports(t, func(f *fixture) { step = f.stopClock(); f.logic.Heartbeat = time.Minute }, func(t *testing.T, f *fixture, dial func() *client) {
		for _, ver := range []int16{1, 2} {
			c, count := dial(), f.ended(comet.HeartbeatTimeout)
			c.auth(ver, token)
			step(61 * time.Second)
			before, how := c.end()
			if c.isWS && how != "close 3010 heartbeat_timeout" || len(before) != int(ver)-1 {
				t.Errorf("version %d: %+v %s", ver, before, how)
			}
			comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.HeartbeatTimeout) == count+1 })
		}
		c := dial()
		c.auth(1, token)
		if err := c.conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if before, how := c.end(); len(before) != 0 || how != "eof" {
			t.Errorf("%+v %s", before, how)
		}
		comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.PeerClosed) == 1 })
		comettest.WaitFor(t, "logic to hear of all", func() bool { return f.logic.Disconnected() == 3 })
	})
}
