package clienttest_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
	"github.com/perseid-im/perseid/pkg/wire"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

const authV1 = `{"mid":1,"room_id":"live://1000","platform":"web","accepts":[1000]}`

// exchange sends and reads exactly as many bytes as are wanted.
func exchange(t *testing.T, conn net.Conn, send []byte, want []byte) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(send); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %x (%d bytes, %v), want %x", got[:n], n, err, want)
	}
}

func open(t *testing.T, address string) net.Conn {
	t.Helper()
	_, rest, _ := strings.Cut(address, "://")
	hostPort, _, _ := strings.Cut(rest, "/")
	conn, err := net.Dial("tcp", hostPort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are goim's own.
func TestBytesOfVersion1(t *testing.T) {
	comet := clienttest.NewComet(60)
	defer comet.Close()
	auth := append(unhex(t, "00000053 0010 0001 00000007 00000001"), authV1...)
	authReply := unhex(t, "00000010 0010 0001 00000008 00000001")
	room := unhex(t, "00000012 0010 0001 000003e8 00000000 6869")

	tcp := open(t, comet.TCP)
	exchange(t, tcp, auth, authReply)
	exchange(t, tcp, unhex(t, "00000010 0010 0001 00000002 00000005"), unhex(t, "00000014 0010 0001 00000003 00000005 00000001"))
	if n := comet.PushRoom("live://1000", 1000, "hi"); n != 1 {
		t.Fatalf("pushed to %d", n)
	}
	exchange(t, tcp, nil, room)

	ws := open(t, comet.WebSocket)
	exchange(t, ws, []byte("GET /sub HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"),
		[]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"))
	// A mask of zeros leaves the payload readable.
	exchange(t, ws, append(unhex(t, "82 d3 00000000"), auth...), append(unhex(t, "82 10"), authReply...))
	if n := comet.PushRoom("live://1000", 1000, "hi", "hi"); n != 2 {
		t.Fatalf("pushed to %d", n)
	}
	exchange(t, ws, nil, append(unhex(t, "82 34 00000034 0010 0001 00000009 00000000"), append(room, room...)...))
}

func TestCloseEndsScripts(t *testing.T) {
	entered := make(chan struct{})
	s := clienttest.Serve(func(p *clienttest.Peer) {
		close(entered)
		if _, err := p.Next(); err == nil {
			t.Error("a packet from nowhere")
		}
	})
	open(t, s.TCP)
	<-entered
	s.Close()
}

func TestRefusals(t *testing.T) {
	comet := clienttest.NewComet(60)
	defer comet.Close()
	other := open(t, comet.WebSocket)
	exchange(t, other, []byte("GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), []byte("HTTP/1.1 404 Not Found\r\n"))

	bad := open(t, comet.TCP)
	exchange(t, bad, wire.AppendPacket(nil, wire.Header{Ver: 2, Op: wire.OpAuth, Seq: 1}, []byte("x")), unhex(t, "0000003d 0010 0002 00000008 00000001"))
	if rest, err := io.ReadAll(bad); err != nil || string(rest) != `{"code":3500,"reason":"token: a JSON object"}` {
		t.Errorf("got %q, %v", rest, err)
	}
}
