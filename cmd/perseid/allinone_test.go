package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/app"
	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/wire"
)

// allInOne runs everything in this process; stop ends it.
func allInOne(t *testing.T) (addrs map[string]string, stop func()) {
	leakcheck.Check(t)
	cfg := app.DefaultAllInOneConfig()
	cfg.DataDir = t.TempDir()
	cfg.TCP, cfg.WebSocket, cfg.HTTP, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	a, err := app.NewAllInOne(cfg, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx); close(ended) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("perseid ended with %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-a.Ready():
		return a.Addrs(), stop
	case err := <-ended:
		t.Fatalf("perseid ended with %v", err)
	case <-time.After(3 * patience):
		t.Fatal("perseid is not ready")
	}
	return nil, nil
}

// What the help texts promise, against the real thing, over every transport
// and version.
func TestCommandsTogether(t *testing.T) {
	addrs, _ := allInOne(t)
	for i, way := range [][]string{
		{"-tcp", addrs["tcp"]}, {"-tcp", addrs["tcp"], "-ver", "1"},
		{"-ws", "ws://" + addrs["ws"] + "/sub"}, {"-ws", "ws://" + addrs["ws"] + "/sub", "-ver", "1"},
	} {
		t.Run(strings.Join(way, " "), func(t *testing.T) {
			key, room := fmt.Sprint("key-", i), fmt.Sprint("live://", i)
			l := listen(t, append(way, "-key", key, "-room", room, "-count", "2")...)
			l.stderr.await(t, "connected ")
			if len(way) == 2 {
				l.stderr.await(t, "joined room="+room)
			}
			code, stdout, stderr := push(t, "", "-http", addrs["http"], "-key", key, "-key", "nobody", "to key")
			if code != exitOK || !strings.HasPrefix(stdout, "msg_id=") || !strings.HasSuffix(stdout, "\nkey="+key+" online\nkey=nobody offline\n") {
				t.Errorf("push: exit code %d, %q, %q", code, stdout, stderr)
			}
			l.stdout.await(t, "to key")
			if code, _, stderr := push(t, "", "-http", addrs["http"], "-room", room, "-op", "5", "to room"); code != exitOK {
				t.Errorf("push: exit code %d, %q", code, stderr)
			}
			l.wantCode(t, exitOK)
			if got := lines(t, l.stdout.String()); strings.Join(got, "|") != "1000 to key|5 to room" {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("a refused push", func(t *testing.T) {
		code, stdout, stderr := push(t, "", "-http", addrs["http"], "-room", "lobby", "x")
		if code != exitFailed || stdout != "" || !strings.Contains(stderr, "HTTP status 400, bad_target: ") {
			t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
		}
	})
}

// The SDK against a real comet: every request, a refusal, and the bye of a
// node that stops.
func TestClientAgainstARealComet(t *testing.T) {
	addrs, stop := allInOne(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var conns []*client.Conn
	for _, cfg := range []client.Config{
		{Address: "tcp://" + addrs["tcp"], Version: 1}, {Address: "tcp://" + addrs["tcp"], Version: 2},
		{Address: "ws://" + addrs["ws"], Version: 1}, {Address: "ws://" + addrs["ws"], Version: 2},
	} {
		cfg.Auth, cfg.DialTimeout = client.Auth{Mid: 7, Room: "live://1", Accepts: []wire.Op{1000}}, patience
		c, err := client.Dial(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		if online, err := c.Heartbeat(ctx); err != nil || online < 1 {
			t.Errorf("%s v%d: heartbeat: %d, %v", cfg.Address, cfg.Version, online, err)
		}
		if err := errors.Join(c.Sub(ctx, 1001, 1002), c.Unsub(ctx, 1002), c.ChangeRoom(ctx, ""), c.ChangeRoom(ctx, "live://2")); err != nil {
			t.Errorf("%s v%d: %v", cfg.Address, cfg.Version, err)
		}
		if cfg.Version == 2 {
			joinAndLeave(ctx, t, c)
		}
	}
	big := strings.Repeat("larger than a client may send ", 3000)
	for _, p := range [][]string{{"-mid", "7", "-op", "1001", "sub"}, {"-room", "live://2", big}} {
		if code, _, stderr := push(t, "", append([]string{"-http", addrs["http"]}, p...)...); code != exitOK {
			t.Fatalf("push: %s", stderr)
		}
	}
	for _, c := range conns {
		seen := map[string]bool{}
		for range 2 { // the two have different timelines: any order
			m, err := c.Recv(ctx)
			if err != nil {
				t.Fatal(err)
			}
			seen[fmt.Sprint(m.Op, " ", string(m.Body))] = true
		}
		if !seen["1001 sub"] || !seen["1000 "+big] {
			t.Errorf("%+v: got %d other messages", c.Session(), len(seen))
		}
	}

	_, err := client.Dial(ctx, client.Config{Address: "tcp://" + addrs["tcp"], Token: []byte("no JSON")})
	if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Code != 3500 || refused.Reconnect {
		t.Errorf("a bad token: %v", err)
	}

	stop()
	for i, c := range conns {
		_, err := c.Recv(ctx)
		closed, ok := errors.AsType[*client.CloseError](err)
		if i == 0 { // goim on TCP has no words for it
			if ok {
				t.Errorf("version 1 on TCP: %v", err)
			}
			continue
		}
		if !ok || closed.Code != 3001 || !closed.Reconnect || c.Session().Ver == 2 && closed.RetryAfter == 0 {
			t.Errorf("connection %d: %v, %+v", i, err, closed)
		}
	}
}

func joinAndLeave(ctx context.Context, t *testing.T, c *client.Conn) {
	t.Helper()
	joined, err := c.Join(ctx, "live://3", "lobby")
	if err != nil || len(joined) != 2 || !joined[0].OK || joined[1].OK || joined[1].Code != 400 {
		t.Errorf("join: %+v, %v", joined, err)
	}
	left, err := c.Leave(ctx, "live://3")
	if err != nil || len(left) != 1 || !left[0].OK {
		t.Errorf("leave: %+v, %v", left, err)
	}
}
