package gnetio

import (
	"bytes"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// session plays data to a connection in pieces whose sizes are in cuts, waits
// for what the session waits for, and checks what came back.
func (f *fakeServer) session(t *testing.T, websocket bool, data, cuts []byte) {
	t.Helper()
	c := f.open(websocket)
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if i < len(cuts) {
			n = min(n, int(cuts[i]))
		}
		piece := data[:n]
		data = data[n:]
		f.loop.do(func() { c.traffic(piece) })
		for deadline := time.Now().Add(patience); ; {
			waits, session := false, (*comet.Session)(nil)
			f.loop.do(func() {
				if conn, ok := c.ctx.(*connection); ok {
					session = conn.session
					waits = session.Paused() && !session.Closed() && i%3 != 2 // sometimes the next bytes come before the answer
				}
			})
			if !waits {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("session %x waits for ever", session.ID())
			}
		}
	}
	f.loop.do(func() {
		if conn, ok := c.ctx.(*connection); ok {
			if limit := conn.session.MaxMessage() + maxHandshakeBytes; len(c.in) > limit {
				t.Errorf("%d bytes are kept for a session, at most %d", len(c.in), limit)
			}
		}
		c.close()
	})
	if websocket {
		checkFrames(t, c.out.Bytes())
	} else {
		checkPackets(t, c.out.Bytes())
	}
	if n := f.panics.Value(); n != 0 {
		t.Fatalf("%d panics", n)
	}
}

// checkPackets fails when a stream of the server is no run of whole packets.
func checkPackets(t *testing.T, out []byte) {
	t.Helper()
	for len(out) > 0 {
		_, n, err := wire.Decoder{MaxBody: -1, Extensions: true}.Next(out)
		if err != nil || n == 0 {
			t.Fatalf("the answer is no packet: %x (%v)", out, err)
		}
		out = out[n:]
	}
}

// checkFrames fails when the server's answer is neither a refusal in HTTP nor
// an upgrade with whole frames of whole packets, nothing behind a close frame.
func checkFrames(t *testing.T, out []byte) {
	t.Helper()
	if len(out) == 0 {
		return
	}
	head, out, ok := bytes.Cut(out, []byte("\r\n\r\n"))
	if !ok || !bytes.HasPrefix(head, []byte("HTTP/1.1 ")) {
		t.Fatalf("the answer is no HTTP: %q", head)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		return
	}
	var r ws.Reader
	r.InitClient(16 << 20)
	for ended := false; len(out) > 0; {
		ev, n, err := r.Next(out)
		if err != nil || n == 0 || ended {
			t.Fatalf("the answer is no frame: %x (%v, after a close frame: %v)", out, err, ended)
		}
		if ev.Kind == ws.KindMessage {
			checkPackets(t, ev.Payload)
		}
		ended = ev.Kind == ws.KindClose
		out = out[n:]
	}
}

func FuzzStreamSession(f *testing.F) {
	auth := packet(1, wire.OpAuth, 1, token)
	auth2 := packet(2, wire.OpAuth, 1, `{"key":"k","room_id":"live://1","accepts":[1]}`)
	f.Add(bytes.Join([][]byte{auth, packet(1, 2, 2, ""), packet(1, 12, 3, "live://2"), packet(1, 14, 4, "1,2"), packet(1, 16, 5, "1"), packet(1, 9, 6, "")}, nil), []byte{5, 100, 3})
	f.Add(bytes.Join([][]byte{auth2, packet(2, 2, 2, ""), packet(2, 22, 3, `{"rooms":["a://b","c://d"]}`), packet(2, 24, 4, `{"rooms":["a://b"]}`), packet(2, 18, 5, "{}"), packet(2, 1000, 6, "x")}, nil), []byte{255, 1})
	f.Add(append(auth2, "\x00\x00\x00\x14\x00\x12\x00\x02\x00\x00\x00\x02\x00\x00\x00\x09eeee"...), []byte{})
	f.Add([]byte(clientHello), []byte{1, 1, 1, 1, 1})
	f.Add(packet(1, 2, 1, ""), []byte{})
	f.Add(append(auth, packet(1, 12, 3, "\xff\xfe")...), []byte{})
	s := newFakeServer(f)
	f.Fuzz(func(t *testing.T, data, cuts []byte) { s.session(t, false, data, cuts) })
}

func FuzzWebSocketSession(f *testing.F) {
	masked := func(op ws.Opcode, p []byte) []byte { return ws.AppendMaskedFrame(nil, op, p, [4]byte{1, 2, 3, 4}) }
	up := []byte(upgradeRequest("/sub", "Cookie: a=b"))
	auth := masked(ws.OpBinary, packet(1, wire.OpAuth, 1, token))
	both := append(packet(2, wire.OpAuth, 1, `{"key":"k"}`), packet(2, wire.OpJoin, 2, `{"rooms":["a://b"]}`)...)
	fragment := append(masked(ws.OpBinary, packet(1, 2, 1, "")[:7]), masked(ws.OpContinuation, packet(1, 2, 1, "")[7:])...)
	fragment[0] &^= 0x80
	f.Add(bytes.Join([][]byte{up, auth, masked(ws.OpPing, []byte("p")), fragment, masked(ws.OpClose, []byte{3, 232})}, nil), []byte{200, 3, 90})
	f.Add(bytes.Join([][]byte{up, masked(ws.OpBinary, append(both, packet(2, 2, 3, "")...)), masked(ws.OpText, packet(2, 1000, 4, "text")), masked(3, nil)}, nil), []byte{})
	f.Add(bytes.Join([][]byte{up, auth, masked(ws.OpBinary, make([]byte, 5000))}, nil), []byte{255, 255})
	deflating := []byte(upgradeRequest("/sub", offer))
	broken := rsv1(masked(ws.OpBinary, packet(1, 2, 1, "")))
	f.Add(bytes.Join([][]byte{deflating, rsv1(masked(ws.OpBinary, squeeze(packet(2, wire.OpAuth, 1, token)))), masked(ws.OpPing, nil), rsv1(masked(ws.OpText, squeeze(packet(2, 2, 2, "")))), broken}, nil), []byte{200, 200, 7})
	f.Add([]byte(clientHello), []byte{1})
	f.Add([]byte("GET /other HTTP/1.1\r\nHost: x\r\n\r\n"), []byte{})
	f.Add(packet(1, wire.OpAuth, 1, token), []byte{})
	s := newFakeServer(f)
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		if len(data) > 0 && data[0]&0x80 != 0 { // most inputs begin behind the handshake
			data = append(bytes.Clone(up), data...)
		}
		s.session(t, true, data, cuts)
	})
}
