package client_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
	"github.com/perseid-im/perseid/pkg/wire"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// patience is how long anything may take before a test fails.
const patience = time.Minute

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// way is one combination of transport and version.
type way struct {
	webSocket bool
	ver       int16
}

func (w way) String() string {
	return fmt.Sprintf("%s v%d", map[bool]string{false: "tcp", true: "ws"}[w.webSocket], w.ver)
}

func (w way) address(s *clienttest.Server) string {
	if w.webSocket {
		return s.WebSocket
	}
	return s.TCP
}

func eachWay(t *testing.T, test func(*testing.T, way)) {
	for _, w := range []way{{false, 1}, {false, 2}, {true, 1}, {true, 2}} {
		t.Run(w.String(), func(t *testing.T) { test(t, w) })
	}
}

// script starts a server whose handler must end without an error, unless the
// test ends first.
func script(t testing.TB, handle func(p *clienttest.Peer) error) *clienttest.Server {
	s := clienttest.Serve(func(p *clienttest.Peer) {
		if err := handle(p); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(s.Close)
	return s
}

// accept answers the auth packet as version 1 and 2 do.
func accept(p *clienttest.Peer, heartbeat int64) error {
	auth, err := p.Next()
	switch {
	case err != nil:
		return err
	case auth.Op != wire.OpAuth:
		return fmt.Errorf("op %d instead of auth", auth.Op)
	case auth.Ver < wire.V2:
		return p.Reply(auth, nil)
	}
	return p.ReplyJSON(auth, map[string]any{"session": "5e55", "mid": 7, "key": "k", "ver": 2, "heartbeat": heartbeat, "node": "n1"})
}

// untilClosed waits for the client to go.
func untilClosed(p *clienttest.Peer) error {
	for {
		if _, err := p.Next(); err != nil {
			return nil
		}
	}
}

func dial(t testing.TB, cfg client.Config) *client.Conn {
	t.Helper()
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, patience)
	c, err := client.Dial(bounded(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func expect(t testing.TB, c *client.Conn, op wire.Op, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		m, err := c.Recv(bounded(t))
		if err != nil {
			t.Fatalf("waiting for %.40q: %v", body, err)
		}
		if m.Op != op || string(m.Body) != body {
			t.Fatalf("got op %d %.40q, want op %d %.40q", m.Op, m.Body, op, body)
		}
	}
}

// expectEnd returns the error that ended the connection.
func expectEnd(t testing.TB, c *client.Conn) error {
	t.Helper()
	ctx := bounded(t)
	m, err := c.Recv(ctx)
	if err == nil {
		t.Fatalf("got op %d %.40q, want the end", m.Op, m.Body)
	}
	if ctx.Err() != nil {
		t.Fatal("the connection did not end")
	}
	return err
}

func closeError(t testing.TB, err error) client.CloseError {
	t.Helper()
	closed, ok := errors.AsType[*client.CloseError](err)
	if !ok {
		t.Fatalf("got %v, want a CloseError", err)
	}
	return *closed
}

func mention(t testing.TB, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not mention %q", err, word)
		}
	}
}

// pipes is a network without sockets, for tests in a bubble: each dial is given
// to a script.
func pipes(t testing.TB, handle func(n int, p *clienttest.Peer) error) func(context.Context, string, string) (net.Conn, error) {
	n := 0
	return func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		n++
		number := n
		go func() {
			defer there.Close()
			p, err := clienttest.NewPeer(there, false)
			if err == nil {
				err = handle(number, p)
			}
			if err != nil {
				t.Errorf("server, connection %d: %v", number, err)
			}
		}()
		return here, nil
	}
}
