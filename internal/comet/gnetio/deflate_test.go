package gnetio

import (
	"bufio"
	"bytes"
	"compress/flate"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	sdk "github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

const offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

// squeeze compresses a message as the standard library does.
func squeeze(message []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err == nil {
		_, err = w.Write(message)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte{0, 0, 0xFF, 0xFF})
}

// rsv1 marks a frame as compressed.
func rsv1(frame []byte) []byte {
	frame[0] |= 0x40
	return frame
}

// squeezed is a compressed message of a client.
func (c *client) squeezed(p []byte) []byte { return rsv1(c.frame(squeeze(p))) }

// deflating is a client that has offered permessage-deflate.
func (f *fixture) deflating() *client {
	f.t.Helper()
	c := f.dial(f.server.WebSocketAddr())
	c.write([]byte(upgradeRequest("/sub", offer)))
	c.upgraded()
	if c.agreed == "" {
		f.t.Fatal("not agreed")
	}
	return c
}

func TestDeflateIsNegotiated(t *testing.T) {
	const yes = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprintf("deflate=%v", on), func(t *testing.T) {
			f := serve(t, func(f *fixture) { f.cfg.Deflate = on })
			for _, c := range []struct{ field, want string }{
				{offer, yes},
				{"sec-websocket-extensions: x-other\r\nSec-WebSocket-Extensions: permessage-deflate;server_max_window_bits=15", yes + "; server_max_window_bits=15"},
				{"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10", ""},
				{"Sec-WebSocket-Extensions: permessage-deflate; unheard_of", ""},
				{"X-Other: permessage-deflate", ""},
			} {
				cl := f.dial(f.server.WebSocketAddr())
				cl.write([]byte(upgradeRequest("/sub", c.field)))
				cl.upgraded()
				want := c.want
				if !on {
					want = ""
				}
				if cl.agreed != want {
					t.Errorf("%s: answered %q, want %q", c.field, cl.agreed, want)
				}
				cl.auth(1, token)
				cl.alive(1)
			}
			cl := f.dial(f.server.WebSocketAddr())
			cl.write([]byte(upgradeRequest("/sub", "Sec-WebSocket-Extensions: permessage-deflate; =")))
			if !on { // nobody looks at it, as ever
				cl.upgraded()
				return
			}
			resp, err := http.ReadResponse(bufio.NewReader(cl.conn), nil)
			if err != nil || resp.StatusCode != http.StatusBadRequest {
				t.Errorf("a list that is none: %+v, %v", resp, err)
			}
		})
	}
}

// Compressed and plain messages of a client, whole and in fragments, byte by
// byte too.
func TestCompressedMessagesIn(t *testing.T) {
	f := serve(t, func(f *fixture) { f.cfg.Deflate = true })
	for _, bytewise := range []bool{false, true} {
		c := f.deflating()
		send := func(p []byte) {
			if !bytewise {
				c.write(p)
				return
			}
			for i := range p {
				c.write(p[i : i+1])
			}
		}
		send(c.squeezed(packet(2, wire.OpAuth, 1, `{"key":"squeezed"}`)))
		if p := c.packet(); p.Op != wire.OpAuthReply {
			t.Fatalf("%+v %q", p.Header, p.Body)
		}
		ops := strings.Repeat("1000,", 300) + "1001"
		whole := squeeze(packet(2, wire.OpSub, 3, ops))
		first, second := rsv1(c.frame(whole[:10])), c.frame(whole[10:])
		first[0], second[0] = 0x42, 0x80
		send(c.squeezed(packet(2, wire.OpSub, 2, ops)))
		send(bytes.Join([][]byte{first, ws.AppendMaskedFrame(nil, ws.OpPing, nil, [4]byte{}), second}, nil))
		send(c.frame(packet(2, wire.OpSub, 4, "7")))
		// The room of the first packet holds up the second one.
		send(c.squeezed(append(packet(2, wire.OpJoin, 5, `{"rooms":["live://1"]}`), packet(2, wire.OpSub, 6, "8")...)))
		c.expect(reply(2, wire.OpSubReply, 2, ops), reply(2, wire.OpSubReply, 3, ops), reply(2, wire.OpSubReply, 4, "7"))
		if p := c.packet(); p.Op != wire.OpJoinReply {
			t.Fatalf("%+v %q", p.Header, p.Body)
		}
		c.expect(reply(2, wire.OpSubReply, 6, "8"))
	}
}

// What is wrong with compressed messages costs one session, with the code of
// the RFC and a counted reason.
func TestBadCompressedMessages(t *testing.T) {
	f := serve(t, func(f *fixture) { f.cfg.Deflate = true })
	neighbour := f.deflating()
	neighbour.auth(1, token)
	frame := func(op ws.Opcode, payload []byte) []byte {
		return rsv1(ws.AppendMaskedFrame(nil, op, payload, [4]byte{1, 2, 3, 4}))
	}
	begun := frame(ws.OpBinary, squeeze(packet(1, 2, 1, "")))
	begun[0] &^= 0x80
	for name, tc := range map[string]struct {
		bytes []byte
		code  uint16
	}{
		"rsv1 on a ping":         {frame(ws.OpPing, nil), ws.CodeProtocolError},
		"rsv1 on a close":        {frame(ws.OpClose, []byte{3, 232}), ws.CodeProtocolError},
		"rsv1 on a continuation": {append(begun, frame(ws.OpContinuation, nil)...), ws.CodeProtocolError},
		"bomb":                   {frame(ws.OpBinary, squeeze(make([]byte, 2<<20))), ws.CodeTooBig},
		"a byte too long":        {frame(ws.OpBinary, squeeze(make([]byte, wire.HeaderLen+wire.MaxBodyV1+1))), ws.CodeTooBig},
		"damaged":                {frame(ws.OpBinary, []byte("no deflate")), ws.CodeInvalidUTF8},
		"text that is none":      {frame(ws.OpText, squeeze([]byte{0xff})), ws.CodeInvalidUTF8},
		"message without packet": {frame(ws.OpBinary, squeeze(nil)), comet.BadFrame.Code()},
		"half a packet":          {frame(ws.OpBinary, squeeze(packet(1, 7, 1, "body")[:18])), comet.BadFrame.Code()},
	} {
		t.Run(name, func(t *testing.T) {
			c, count := f.deflating(), f.ended(comet.BadFrame)
			c.write(tc.bytes)
			checkEnd(t, f, c, comet.BadFrame, count, tc.code)
			c, count = f.deflating(), f.ended(comet.BadFrame)
			c.auth(1, `{"key":"victim"}`)
			c.write(tc.bytes)
			checkEnd(t, f, c, comet.BadFrame, count, tc.code)
			neighbour.alive(1)
		})
	}
	t.Run("not agreed on", func(t *testing.T) {
		c, count := f.websocket(), f.ended(comet.BadFrame)
		c.write(frame(ws.OpBinary, squeeze(packet(1, 7, 1, token))))
		checkEnd(t, f, c, comet.BadFrame, count, ws.CodeProtocolError)
	})
}

// Both versions in a room, with and without compression, and TCP.
func TestRoomInAllForms(t *testing.T) {
	f := serve(t, func(f *fixture) { f.cfg.Deflate = true })
	var members []*client
	for i := range 12 {
		c := []func() *client{f.tcp, f.websocket, f.deflating}[i%3]()
		c.auth(int16(1+i/6), fmt.Sprintf(`{"key":"k%d","room_id":"live://1"}`, i))
		members = append(members, c)
	}
	bodies := []string{strings.Repeat("large and regular ", 40), "small", strings.Repeat("next ", 2000)}
	for _, body := range bodies {
		if r := f.push(toRoom("live://1", 1000, body)); r[0].Delivered != 12 {
			t.Fatalf("%+v", r)
		}
	}
	for i, c := range members {
		for j, p := range c.pushed(len(bodies)) {
			if p.Op != 1000 || string(p.Body) != bodies[j] {
				t.Errorf("member %d: %+v with %d bytes", i, p.Header, len(p.Body))
			}
		}
	}
	// Two large messages, two versions, at most two loops.
	if n := f.count("perseid_deflate_total", "deflated"); n < 4 || n > 8 {
		t.Errorf("%v compressed", n)
	}
}

// The Go SDK offers it through gobwas' dialer.
func TestSDKThatCompresses(t *testing.T) {
	f := serve(t, func(f *fixture) { f.cfg.Deflate = true })
	for _, ver := range []int16{wire.V1, wire.V2} {
		c, err := sdk.Dial(t.Context(), sdk.Config{
			Address: "ws://" + f.server.WebSocketAddr(), Version: ver, Compress: true, Auth: sdk.Auth{Room: "live://1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, body := range []string{longText(), "short", strings.Repeat(longText(), 100)} {
			f.push(toRoom("live://1", 1000, body))
			if m, err := c.Recv(t.Context()); err != nil || string(m.Body) != body {
				t.Fatalf("version %d: %d bytes, %v", ver, len(m.Body), err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		// While it is in the room, pushes are compressed for its version too.
		comettest.WaitFor(t, "it to be gone", func() bool { return f.gateway.Sessions() == 0 })
	}
	if n, m := f.count("perseid_session_deflate_total", ""), f.count("perseid_deflate_total", "deflated"); n != 2 || m != 4 {
		t.Errorf("%v sessions, %v messages", n, m)
	}
}

// Inflaters serve all connections; one that has sent compressed messages and is
// idle holds no more than another.
func TestIdleCompressingConnections(t *testing.T) {
	const n = 200
	f := serve(t, func(f *fixture) { f.cfg.Deflate = true })
	auth := packet(1, wire.OpAuth, 1, fmt.Sprintf(`{"padding":%q}`, strings.Repeat("x", 3000)))
	measure := func(open func() *client, frame func(c *client) []byte) int64 {
		before := heapBytes()
		for range n {
			c := open()
			c.write(frame(c))
			c.expect(reply(1, wire.OpAuthReply, 1, ""))
		}
		return heapBytes() - before
	}
	plainly := func(c *client) []byte { return c.frame(auth) }
	measure(f.websocket, plainly) // what the first ones leave behind
	plain := measure(f.websocket, plainly)
	compressing := measure(f.deflating, func(c *client) []byte { return c.squeezed(auth) })
	if over := (compressing - plain) / n; over > 4096 {
		t.Errorf("a connection holds %d bytes more", over)
	}
}
