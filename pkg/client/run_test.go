package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
)

// Each connection ends in its own way; Run comes back until it is told not to.
func TestRunReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := client.Config{Address: "tcp://in.memory:1", Backoff: client.Backoff{Min: time.Second, Max: time.Minute}}
		cfg.NetDial = pipes(t, func(n int, p *clienttest.Peer) error {
			if n == 2 {
				auth, err := p.Next()
				return errors.Join(err, p.ReplyJSON(auth, map[string]any{"code": 3101, "reason": "later", "reconnect": true}))
			}
			if err := accept(p, 60); err != nil {
				return err
			}
			join, err := p.Next()
			if err := errors.Join(err, p.ReplyJSON(join, map[string]any{"rooms": []any{map[string]any{"room": "a://b", "ok": true}}}),
				p.Push(1000, fmt.Sprint("message ", n))); err != nil {
				return err
			}
			switch n {
			case 1:
				return p.Bye(clienttest.Bye{Code: 3001, Reason: "draining", Reconnect: true, RetryMS: 5000})
			case 3:
				return nil // closes without a word
			}
			return p.Bye(clienttest.Bye{Code: 3504, Reason: "replaced"})
		})
		var log []string
		var waits []time.Duration
		var next time.Time
		open := cfg.NetDial
		cfg.NetDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if !next.IsZero() && !time.Now().Equal(next) {
				t.Errorf("dialed at %s, told %s", time.Now(), next)
			}
			return open(ctx, network, address)
		}
		connected := 0
		err := client.Run(t.Context(), cfg, client.Handler{
			Connected: func(ctx context.Context, c *client.Conn) error {
				connected++
				_, err := c.Join(ctx, "a://b")
				return err
			},
			Message: func(m client.Message) { log = append(log, string(m.Body)) },
			Disconnected: func(err error, retryIn time.Duration) {
				log = append(log, err.Error())
				waits = append(waits, retryIn)
				next = time.Now().Add(retryIn)
			},
		})
		if got := closeError(t, err); got.Code != 3504 || got.Reconnect {
			t.Errorf("ended by %+v", got)
		}
		want := []string{
			"message 1", `client: closed by the server with code 3001: "draining"`,
			`client: auth refused with code 3101: "later"`,
			"message 3", "client: the server closed the connection without a reason: unexpected EOF",
			"message 4",
		}
		if fmt.Sprint(log) != fmt.Sprint(want) {
			t.Errorf("got\n%q\nwant\n%q", log, want)
		}
		if waits[0] != 5*time.Second {
			t.Errorf("the server asked for 5s, the pause was %s", waits[0])
		}
		if connected != 3 {
			t.Errorf("connected %d times", connected)
		}
	})
}

// No server: the pauses grow up to the longest, spread over their whole range.
func TestRunBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const attempts = 200
		cfg := client.Config{Address: "tcp://in.memory:1", Backoff: client.Backoff{Min: time.Second, Max: 20 * time.Second}}
		away := errors.New("nobody there")
		cfg.NetDial = func(context.Context, string, string) (net.Conn, error) { return nil, away }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var waits []time.Duration
		err := client.Run(ctx, cfg, client.Handler{
			Message: func(client.Message) {},
			Disconnected: func(err error, wait time.Duration) {
				if !errors.Is(err, away) {
					t.Error(err)
				}
				if waits = append(waits, wait); len(waits) == attempts {
					cancel()
				}
			},
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		short, long := 0, 0
		for i, wait := range waits {
			if limit := min(time.Second<<min(i, 10), 20*time.Second); wait > limit {
				t.Errorf("pause %d is %s, more than %s", i, wait, limit)
			}
			if wait < 5*time.Second {
				short++
			}
			if wait > 15*time.Second {
				long++
			}
		}
		// A quarter each is expected; less than a tenth is no chance.
		if short < attempts/10 || long < attempts/10 {
			t.Errorf("of %d pauses up to 20s, %d are below 5s and %d above 15s", attempts, short, long)
		}
	})
}

// A connection that was good makes the next failure the first again.
func TestRunForgetsOldFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := client.Config{Address: "tcp://in.memory:1", Backoff: client.Backoff{Min: time.Millisecond, Max: time.Minute}}
		cfg.NetDial = pipes(t, func(n int, p *clienttest.Peer) error {
			switch {
			case n > 40:
				return errors.Join(accept(p, 60), p.Bye(clienttest.Bye{Code: 3500, Reason: "enough"}))
			case n%10 == 0:
				err := accept(p, 600)
				time.Sleep(2 * time.Minute)
				return err
			}
			return accept(p, 60) // and gone at once
		})
		var waits []time.Duration
		err := client.Run(t.Context(), cfg, client.Handler{
			Message:      func(client.Message) {},
			Disconnected: func(_ error, wait time.Duration) { waits = append(waits, wait) },
		})
		if closeError(t, err).Reason != "enough" {
			t.Error(err)
		}
		for i := 9; i < len(waits); i += 10 {
			if waits[i] > time.Millisecond {
				t.Errorf("pause %d, after a good connection, is %s", i+1, waits[i])
			}
		}
	})
}

func TestRunEnds(t *testing.T) {
	comet := clienttest.NewComet(60)
	t.Cleanup(comet.Close)
	cfg := client.Config{Address: comet.TCP}

	t.Run("by the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(bounded(t))
		defer cancel()
		err := client.Run(ctx, cfg, client.Handler{
			Connected: func(context.Context, *client.Conn) error { cancel(); return nil },
			Message:   func(client.Message) { t.Error("a message after the end") },
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("by Connected", func(t *testing.T) {
		wrong := errors.New("wrong")
		err := client.Run(bounded(t), cfg, client.Handler{
			Connected: func(context.Context, *client.Conn) error { return wrong },
			Message:   func(client.Message) {},
		})
		if !errors.Is(err, wrong) {
			t.Error(err)
		}
	})
	t.Run("by a refusal", func(t *testing.T) {
		cfg := cfg
		cfg.Token = []byte("not JSON")
		err := client.Run(bounded(t), cfg, client.Handler{Message: func(client.Message) {}})
		if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Code != 3500 {
			t.Error(err)
		}
	})
}

// Closing the connection in Connected is how a program asks for another one.
func TestRunAfterCloseInConnected(t *testing.T) {
	comet := clienttest.NewComet(60)
	t.Cleanup(comet.Close)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	connected := 0
	err := client.Run(ctx, client.Config{Address: comet.TCP, Backoff: client.Backoff{Min: 1, Max: 1}}, client.Handler{
		Connected: func(_ context.Context, c *client.Conn) error {
			if connected++; connected < 3 {
				return errors.Join(errors.New("not this one"), c.Close())
			}
			cancel()
			return nil
		},
		Message: func(client.Message) {},
	})
	if !errors.Is(err, context.Canceled) || connected != 3 {
		t.Errorf("connected %d times, ended by %v", connected, err)
	}
}
