package client_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// handshake answers the next connection with these extensions, then with
// frames behind the auth reply, and waits for the end.
func handshake(t *testing.T, extensions string, frames ...[]byte) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			var in []byte
			block := make([]byte, 4096)
			for {
				n, err := conn.Read(block)
				if err != nil {
					return err
				}
				in = append(in, block[:n]...)
				h, n, err := ws.ParseHandshake(in, 4096)
				if err != nil {
					return err
				}
				if n == 0 {
					continue
				}
				if accepted, err := ws.AcceptDeflate(h.Extensions); err != nil || accepted != agreed {
					return fmt.Errorf("the offer %q: %q, %w", h.Extensions, accepted, err)
				}
				if _, err := conn.Write(ws.AppendUpgradeWith(nil, h, extensions)); err != nil {
					return err
				}
				// Symptom: Dial failed for what a frame behind the auth reply had.
				// Cause: both came before the client had asked, so the reply was
				// no answer.
				if _, err := conn.Read(block); err != nil {
					return nil // the client does not take the answer
				}
				out := ws.AppendFrame(nil, ws.OpBinary, wire.AppendPacket(nil, wire.Header{Ver: 1, Op: wire.OpAuthReply, Seq: 1}, nil))
				for _, f := range frames {
					out = append(out, f...)
				}
				if _, err := conn.Write(out); err != nil {
					return err
				}
				for {
					if _, err := conn.Read(block); err != nil {
						return nil // the client has gone
					}
				}
			}
		}()
	}()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return "ws://" + l.Addr().String()
}

func TestCompressedPushes(t *testing.T) {
	body := strings.Repeat("hello ", 100)
	push := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: 1000}, []byte(body))
	wrapped := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: wire.OpRaw}, push)
	compressed, ok := new(ws.Deflater).AppendFrame(nil, ws.OpBinary, wrapped)
	if !ok {
		t.Fatal("not compressed")
	}
	plain := ws.AppendFrame(nil, ws.OpBinary, wrapped)
	bomb, _ := new(ws.Deflater).AppendFrame(nil, ws.OpBinary, make([]byte, 2<<20))

	address := handshake(t, agreed, compressed, plain, compressed, bomb)
	c, err := client.Dial(bounded(t), client.Config{Address: address, Version: wire.V1, Compress: true, MaxPacketBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if m, err := c.Recv(bounded(t)); err != nil || string(m.Body) != body || m.Op != 1000 {
			t.Fatalf("%d %q, %v", m.Op, m.Body, err)
		}
	}
	if _, err := c.Recv(bounded(t)); err == nil || !strings.Contains(err.Error(), "message too big") {
		t.Errorf("a bomb: %v", err)
	}
}

// Without an agreement a compressed message is an error, and an agreement that
// was not offered is one too.
func TestCompressionThatWasNotAgreedOn(t *testing.T) {
	compressed, _ := new(ws.Deflater).AppendFrame(nil, ws.OpBinary, make([]byte, 1000))
	c, err := client.Dial(bounded(t), client.Config{Address: handshake(t, "", compressed), Version: wire.V1, Compress: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Recv(bounded(t)); err == nil || !strings.Contains(err.Error(), "reserved bit") {
		t.Errorf("got %v", err)
	}
	for _, answer := range []string{"permessage-deflate", "permessage-deflate; client_no_context_takeover", agreed + "; unheard_of", "x-other"} {
		c, err := client.Dial(bounded(t), client.Config{Address: handshake(t, answer), Version: wire.V1, Compress: true})
		if err == nil {
			_ = c.Close()
			t.Errorf("%q was taken", answer)
		}
	}
}

// Nothing is offered unasked.
func TestNoOfferByDefault(t *testing.T) {
	s := script(t, func(p *clienttest.Peer) error {
		if p.Handshake.Extensions != "" {
			t.Errorf("offered %q", p.Handshake.Extensions)
		}
		if err := accept(p, 60); err != nil {
			return err
		}
		return untilClosed(p)
	})
	c, err := client.Dial(bounded(t), client.Config{Address: s.WebSocket})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
