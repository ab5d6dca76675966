package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// startAllInOne runs the all-in-one on free ports until the test ends.
func startAllInOne(t *testing.T, changes ...func(*AllInOneConfig)) map[string]string {
	t.Helper()
	cfg := DefaultAllInOneConfig()
	cfg.DataDir = t.TempDir()
	cfg.TCP, cfg.WebSocket, cfg.HTTP, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	for _, change := range changes {
		change(&cfg)
	}
	a, err := NewAllInOne(cfg, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the process ended with %v", err)
			}
		case <-time.After(60 * time.Second):
			t.Error("the process did not stop")
		}
	})
	select {
	case <-a.Ready():
	case err := <-ended:
		t.Fatalf("ended before it was ready: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("not ready")
	}
	return a.Addrs()
}

// goimClient is a client of version 1 over TCP, by the bytes.
type goimClient struct {
	t    *testing.T
	conn net.Conn
	buf  []byte
}

func dialGoim(t *testing.T, addr, token string) *goimClient {
	t.Helper()
	// The comet hangs up on a client that was paused for the handshake timeout.
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c := &goimClient{t: t, conn: conn}
		c.send(wire.OpAuth, 1, token)
		p, err := c.read()
		if err != nil && time.Now().Before(deadline) {
			continue
		}
		if err != nil || p.Op != wire.OpAuthReply || p.Seq != 1 || len(p.Body) != 0 {
			t.Fatalf("auth reply %+v, %v", p, err)
		}
		return c
	}
}

func (c *goimClient) send(op wire.Op, seq int32, body string) {
	c.t.Helper()
	if _, err := c.conn.Write(wire.AppendPacket(nil, wire.Header{Ver: 1, Op: op, Seq: seq}, []byte(body))); err != nil {
		c.t.Fatal(err)
	}
}

func (c *goimClient) next() wire.Packet {
	c.t.Helper()
	p, err := c.read()
	if err != nil {
		c.t.Fatalf("while waiting for a packet: %v", err)
	}
	return p
}

func (c *goimClient) read() (wire.Packet, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return wire.Packet{}, err
	}
	for {
		p, n, err := wire.Decoder{MaxBody: -1}.Next(c.buf)
		if err != nil {
			return p, err
		}
		if n > 0 {
			p.Body = bytes.Clone(p.Body)
			c.buf = c.buf[n:]
			return p, nil
		}
		chunk := make([]byte, 4096)
		n, err = c.conn.Read(chunk)
		if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
			return p, err
		}
		c.buf = append(c.buf, chunk[:n]...)
	}
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(body, "{") {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// A goim client over TCP is pushed to by key, user, room and everybody,
// through the whole pipeline of one process.
func TestAllInOne(t *testing.T) {
	addrs := startAllInOne(t)
	c := dialGoim(t, addrs["tcp"], `{"mid":42,"key":"k42","room_id":"live://1000","platform":"ios","accepts":[1000]}`)
	base := "http://" + addrs["http"]
	for i, path := range []string{
		"/goim/push/keys?operation=1000&keys=k42",
		"/goim/push/mids?operation=1000&mids=42",
		"/goim/push/room?operation=1001&type=live&room=1000",
		"/goim/push/all?operation=1000",
	} {
		body := fmt.Sprintf("message %d", i)
		if status, answer := post(t, base+path, body); status != 200 || answer != `{"code":0,"message":""}` {
			t.Fatalf("%s: %d %s", path, status, answer)
		}
		if p := c.next(); string(p.Body) != body || p.Ver != 1 || p.Seq != 0 {
			t.Fatalf("%s: got %+v %q", path, p.Header, p.Body)
		}
	}
	status, answer := post(t, base+"/v1/push", `{"op":1000,"body":"hello","targets":[{"mid":42},{"key":"nobody"}]}`)
	if status != 202 || !strings.Contains(answer, `"online"`) || !strings.Contains(answer, `"offline"`) {
		t.Fatalf("/v1/push: %d %s", status, answer)
	}
	if p := c.next(); string(p.Body) != "hello" {
		t.Fatalf("got %+v", p)
	}
}
