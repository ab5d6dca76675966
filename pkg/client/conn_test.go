package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

func TestEveryWay(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		comet := clienttest.NewComet(60)
		t.Cleanup(comet.Close)
		c := dial(t, client.Config{
			Address: w.address(comet.Server), Version: w.ver,
			Auth: client.Auth{Mid: 42, Key: "alice", Room: "live://1", Platform: "test", Accepts: []wire.Op{1000}},
		})
		ctx := bounded(t)

		want := client.Session{Ver: 1, Mid: 42, Key: "alice"}
		if w.ver == 2 {
			want = client.Session{ID: "1", Ver: 2, Mid: 42, Key: "alice", Heartbeat: time.Minute, Node: "comet-test"}
		}
		if got := c.Session(); got != want {
			t.Errorf("session %+v, want %+v", got, want)
		}

		big := strings.Repeat("larger than any client may send ", 20_000)
		comet.PushKey("alice", 1000, "to key", "", "more")
		comet.PushMid(42, 1000, "to mid")
		comet.PushMid(42, 1001, "not accepted")
		comet.PushAll(1000, big)
		expect(t, c, 1000, "to key", "", "more", "to mid", big)
		comet.PushRoom("live://1", 1001, "room members get every op")
		expect(t, c, 1001, "room members get every op")

		if online, err := c.Heartbeat(ctx); err != nil || online != 1 {
			t.Errorf("heartbeat: %d, %v", online, err)
		}
		if err := c.Sub(ctx, 1001, -5); err != nil {
			t.Error(err)
		}
		if n := comet.PushAll(-5, "accepted now"); n != 1 {
			t.Errorf("pushed to %d", n)
		}
		expect(t, c, -5, "accepted now")
		if err := c.Unsub(ctx, -5); err != nil {
			t.Error(err)
		}
		if n := comet.PushAll(-5, "not any more"); n != 0 {
			t.Errorf("pushed to %d", n)
		}
		if err := c.ChangeRoom(ctx, "live://2"); err != nil {
			t.Error(err)
		}
		if a, b := comet.PushRoom("live://1", 1000, "x"), comet.PushRoom("live://2", 1000, "moved"); a != 0 || b != 1 {
			t.Errorf("in the rooms: %d and %d, want 0 and 1", a, b)
		}
		expect(t, c, 1000, "moved")
		rooms(t, w, c, comet)
	})
}

func rooms(t *testing.T, w way, c *client.Conn, comet *clienttest.Comet) {
	ctx := bounded(t)
	joined, err := c.Join(ctx, "live://2", "nonsense", "live://3")
	if w.ver < 2 {
		if !errors.Is(err, client.ErrVersion) {
			t.Errorf("join in version 1: %v, %v", joined, err)
		}
		return
	}
	want := []client.RoomResult{{Room: "live://2", OK: true}, {Room: "nonsense", Code: 400, Reason: "a room is type://id"}, {Room: "live://3", OK: true}}
	if err != nil || fmt.Sprint(joined) != fmt.Sprint(want) {
		t.Errorf("join: %v, %v, want %v", joined, err, want)
	}
	comet.PushRoom("live://3", 1000, "third")
	expect(t, c, 1000, "third")
	if left, err := c.Leave(ctx, "live://3"); err != nil || len(left) != 1 || !left[0].OK {
		t.Errorf("leave: %v, %v", left, err)
	}
	if a, b := comet.PushRoom("live://2", 1000, "stayed"), comet.PushRoom("live://3", 1000, "x"); a != 1 || b != 0 {
		t.Errorf("in the rooms: %d and %d, want 1 and 0", a, b)
	}
	expect(t, c, 1000, "stayed")
}

func TestRawToken(t *testing.T) {
	got := make(chan string, 1)
	s := script(t, func(p *clienttest.Peer) error {
		auth, err := p.Next()
		if err != nil {
			return err
		}
		got <- string(auth.Body)
		return p.Reply(auth, nil)
	})
	dial(t, client.Config{Address: s.TCP, Version: 1, Token: []byte("opaque"), Auth: client.Auth{Mid: 1}})
	if token := <-got; token != "opaque" {
		t.Errorf("token %q", token)
	}
}

func TestAuthRefused(t *testing.T) {
	refusal := map[string]any{"code": 3101, "reason": "presence is away, reconnect", "reconnect": true}
	s := script(t, func(p *clienttest.Peer) error {
		auth, err := p.Next()
		if err != nil {
			return err
		}
		if err := p.ReplyJSON(auth, refusal); err != nil {
			return err
		}
		_ = p.Bye(clienttest.Bye{Code: 3101, Reconnect: true}) // the client may have gone
		return nil
	})
	for _, address := range []string{s.TCP, s.WebSocket} {
		_, err := client.Dial(bounded(t), client.Config{Address: address})
		refused, ok := errors.AsType[*client.RefusedError](err)
		want := client.RefusedError{Op: wire.OpAuth, Code: 3101, Reason: "presence is away, reconnect", Reconnect: true}
		if !ok || *refused != want {
			t.Errorf("%s: got %v, want %v", address, err, &want)
		}
	}
}

// goim answers a bad auth packet by closing the socket.
func TestAuthRefusedSilently(t *testing.T) {
	s := script(t, func(p *clienttest.Peer) error {
		_, err := p.Next()
		return err
	})
	_, err := client.Dial(bounded(t), client.Config{Address: s.TCP, Version: 1})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	mention(t, err, "auth", "closed the connection without a reason")
}

func TestByeBeforeTheAuthReply(t *testing.T) {
	s := script(t, func(p *clienttest.Peer) error {
		if _, err := p.Next(); err != nil {
			return err
		}
		return p.Bye(clienttest.Bye{Code: 3001, Reason: "draining", Reconnect: true, RetryMS: 250, Node: "n"})
	})
	_, err := client.Dial(bounded(t), client.Config{Address: s.WebSocket})
	want := client.CloseError{Code: 3001, Reason: "draining", Reconnect: true, RetryAfter: 250 * time.Millisecond, Node: "n"}
	if got := closeError(t, err); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A goim server takes a packet of version 2 for one of version 1.
func TestServerOfVersion1(t *testing.T) {
	for _, reply := range []string{"", `{"ver":1,"session":"1"}`} {
		s := script(t, func(p *clienttest.Peer) error {
			auth, err := p.Next()
			if err != nil {
				return err
			}
			return p.Reply(auth, []byte(reply))
		})
		if _, err := client.Dial(bounded(t), client.Config{Address: s.TCP}); !errors.Is(err, client.ErrVersion) {
			t.Errorf("reply %q: %v", reply, err)
		}
	}
}

// What was pushed before the bye comes out before it.
func TestBye(t *testing.T) {
	for _, w := range []way{{false, 2}, {true, 2}, {true, 1}} {
		t.Run(w.String(), func(t *testing.T) {
			s := script(t, func(p *clienttest.Peer) error {
				return errors.Join(accept(p, 60), p.Push(1000, "a", "b"), p.Push(1000, "c"),
					p.Bye(clienttest.Bye{Code: 3504, Reason: "replaced", Node: "n1"}))
			})
			c := dial(t, client.Config{Address: w.address(s), Version: w.ver})
			expect(t, c, 1000, "a", "b", "c")
			got := closeError(t, expectEnd(t, c))
			want := client.CloseError{Code: 3504, Reason: "replaced", Node: "n1"}
			if w.ver == 1 {
				want.Node = "" // a close frame has no place for it
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if err := c.Sub(bounded(t), 1); closeError(t, err) != want {
				t.Errorf("a request afterwards: %v", err)
			}
			if again := closeError(t, expectEnd(t, c)); again != want {
				t.Errorf("the second time: %+v", again)
			}
		})
	}
}

func TestServerGoesWithoutAWord(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		s := script(t, func(p *clienttest.Peer) error { return errors.Join(accept(p, 60), p.Push(1000, "last")) })
		c := dial(t, client.Config{Address: w.address(s), Version: w.ver})
		expect(t, c, 1000, "last")
		if err := expectEnd(t, c); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}

// The first request gives up; its late reply, a reply to nobody and one with
// the wrong op must not be taken for the answer to the second, nor for pushes.
func TestRepliesAreMatchedBySeq(t *testing.T) {
	arrived, gaveUp := make(chan struct{}), make(chan struct{})
	s := script(t, func(p *clienttest.Peer) error {
		if err := accept(p, 60); err != nil {
			return err
		}
		first, err1 := p.Next()
		close(arrived)
		<-gaveUp
		second, err2 := p.Next()
		nobody, wrongOp := second, second
		nobody.Seq += 1000
		wrongOp.Op = wire.OpSub
		return errors.Join(err1, err2,
			p.ReplyJSON(nobody, map[string]int{"online": 1}),
			p.ReplyJSON(wrongOp, map[string]int{"online": 2}),
			p.Push(1000, "push"),
			p.ReplyJSON(second, map[string]int{"online": 3}),
			p.ReplyJSON(first, map[string]int{"online": 4}),
			p.Push(1000, "end"),
			untilClosed(p))
	})
	c := dial(t, client.Config{Address: s.TCP})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := c.Heartbeat(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := c.Recv(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	close(gaveUp)
	if online, err := c.Heartbeat(bounded(t)); err != nil || online != 3 {
		t.Errorf("got %d, %v", online, err)
	}
	expect(t, c, 1000, "push", "end")
}

func TestRequestRefused(t *testing.T) {
	s := script(t, func(p *clienttest.Peer) error {
		err := accept(p, 60)
		for _, reply := range []string{`{"code":400,"reason":"bad rooms"}`, `{"rooms":[]}`, `[`} {
			request, nextErr := p.Next()
			err = errors.Join(err, nextErr, p.Reply(request, []byte(reply)))
		}
		return errors.Join(err, untilClosed(p))
	})
	c := dial(t, client.Config{Address: s.TCP})
	ctx := bounded(t)
	_, err := c.Join(ctx, "a")
	refused, ok := errors.AsType[*client.RefusedError](err)
	if want := (client.RefusedError{Op: wire.OpJoin, Code: 400, Reason: "bad rooms"}); !ok || *refused != want {
		t.Errorf("got %v, want %v", err, &want)
	}
	_, err = c.Leave(ctx, "a")
	mention(t, err, "leave", "0 rooms instead of 1")
	_, err = c.Heartbeat(ctx)
	mention(t, err, "heartbeat reply")
	// Nothing is sent for these.
	if got, err := c.Join(ctx); got != nil || err != nil {
		t.Error(got, err)
	}
	if err := c.Sub(ctx); err != nil {
		t.Error(err)
	}
	mention(t, c.ChangeRoom(ctx, strings.Repeat("x", wire.MaxBodyV2+1)), "change room", "allowed is 65536")
}

func TestClose(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		s := script(t, func(p *clienttest.Peer) error {
			err := accept(p, 60)
			_ = p.Push(1000, "unread") // the client may have gone
			return errors.Join(err, untilClosed(p))
		})
		c := dial(t, client.Config{Address: w.address(s), Version: w.ver})
		waiting := make(chan error, 1)
		go func() { waiting <- c.Sub(bounded(t), 1) }()
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		for range 2 {
			if err := expectEnd(t, c); !errors.Is(err, client.ErrClosed) {
				t.Error(err)
			}
		}
		if err := <-waiting; !errors.Is(err, client.ErrClosed) {
			t.Error(err)
		}
	})
}

// The reader waits for room in the queue when the connection is closed.
func TestCloseWithAFullQueue(t *testing.T) {
	stuck := make(chan struct{})
	s := script(t, func(p *clienttest.Peer) error {
		err := accept(p, 60)
		body := strings.Repeat("x", 64<<10)
		for pushed := 0; err == nil && p.Push(1000, body) == nil; pushed++ {
			if pushed == 3 {
				close(stuck)
			}
		}
		return err
	})
	c := dial(t, client.Config{Address: s.TCP, QueueBytes: 1})
	<-stuck
	_ = c.Close()
	if err := expectEnd(t, c); !errors.Is(err, client.ErrClosed) {
		t.Error(err)
	}
}

func TestConfigProblems(t *testing.T) {
	_, err := client.Dial(t.Context(), client.Config{
		Address: "http://x", Version: 3, DialTimeout: -1, Heartbeat: 1, MaxPacketBytes: 5, QueueBytes: -1,
		Backoff: client.Backoff{Min: 2, Max: 1}, Token: make([]byte, 4097),
	})
	mention(t, err, `"http://x"`, "Version = 3", "DialTimeout", "Heartbeat", "MaxPacketBytes", "QueueBytes", "Backoff", "4097 bytes")
	for _, address := range []string{"", "127.0.0.1:3101", "tcp://host", "tcp://host:1/sub", "ws://", "%"} {
		if _, err := client.Dial(t.Context(), client.Config{Address: address}); err == nil {
			t.Errorf("address %q was taken", address)
		}
	}
	mention(t, client.Run(t.Context(), client.Config{Address: "tcp://h:1"}, client.Handler{}), "Handler.Message")
}

func TestDialFailures(t *testing.T) {
	comet := clienttest.NewComet(60)
	t.Cleanup(comet.Close)
	_, err := client.Dial(bounded(t), client.Config{Address: strings.TrimSuffix(comet.WebSocket, "sub") + "other"})
	mention(t, err, "dial", "404")

	synctest.Test(t, func(t *testing.T) {
		silent := pipes(t, func(_ int, p *clienttest.Peer) error { return untilClosed(p) })
		began := time.Now()
		_, err := client.Dial(t.Context(), client.Config{Address: "tcp://in.memory:1", NetDial: silent, DialTimeout: 3 * time.Second})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		mention(t, err, "auth")
	})
}

// A WebSocket address without a path means /sub; headers reach the server.
func TestWebSocketHandshake(t *testing.T) {
	cookie := make(chan string, 1)
	s := script(t, func(p *clienttest.Peer) error {
		cookie <- p.Handshake.Cookie
		return errors.Join(accept(p, 60), untilClosed(p))
	})
	dial(t, client.Config{Address: strings.TrimSuffix(s.WebSocket, "/sub"), Header: http.Header{"Cookie": {"sid=1"}}})
	if got := <-cookie; got != "sid=1" {
		t.Errorf("cookie %q", got)
	}
}

func TestTLS(t *testing.T) {
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	t.Cleanup(certificates.Close)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		p, err := clienttest.NewPeer(conn, true)
		if err == nil {
			err = errors.Join(accept(p, 60), p.Push(1000, "secret"), untilClosed(p))
		}
		served <- err
	}()
	roots := x509.NewCertPool()
	roots.AddCert(certificates.Certificate())
	c := dial(t, client.Config{Address: "wss://" + listener.Addr().String() + "/sub", TLS: &tls.Config{RootCAs: roots}})
	expect(t, c, 1000, "secret")
	_ = c.Close()
	if err := errors.Join(<-served, listener.Close()); err != nil {
		t.Error(err)
	}
}

// Frames that come in one read with the answer to the handshake are not lost.
func TestEarlyFrames(t *testing.T) {
	s := script(t, func(p *clienttest.Peer) error { return errors.Join(accept(p, 60), untilClosed(p)) })
	c := dial(t, client.Config{Address: s.WebSocket, NetDial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &eager{Conn: conn}, err
	}})
	expect(t, c, 1000, "early")
}

// eager puts a push behind the answer to the handshake.
type eager struct {
	net.Conn
	done bool
}

func (e *eager) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if !e.done && bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
		e.done = true
		push := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: 1000}, []byte("early"))
		n += copy(b[n:], ws.AppendFrame(nil, ws.OpBinary, push))
	}
	return n, err
}
