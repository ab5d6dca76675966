package logic_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/presence"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// While Redis is away the last snapshot is served, said once, and readiness
// fails; when it is back, so is the truth.
func TestSnapshotOutlivesRedis(t *testing.T) {
	env := logictest.New(t)
	var log lines
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	node := env.Comet(t, presence.NodeInfo{Node: one("c1"), Hostname: "h1", ConnCount: 4, IPCount: 2})
	env.Rooms(t, node, map[string]int32{"live://1": 4})
	logictest.Eventually(t, "the comet is known", func() bool { conns, _ := core.OnlineTotal(); return conns == 4 })
	logictest.Eventually(t, "the room is known", func() bool { return core.OnlineRooms("live", []string{"1"})["1"] == 4 })
	if err := core.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}

	env.Redis.SetError("away")
	logictest.Eventually(t, "the failure is logged", func() bool { return log.count("serving what was known") > 0 })
	if err := core.Ready(t.Context()); err == nil {
		t.Error("ready without Redis")
	}
	failures := env.Metrics.Counter("perseid_presence_errors_total", "Presence calls that failed, by what they were for.",
		"purpose", []string{"connect", "disconnect", "refresh", "leave", "route", "state", "online", "broadcast", "request"})
	const online = 6
	logictest.Eventually(t, "several reads failed", func() bool { return failures.Value(online) > 3 })
	if conns, ips := core.OnlineTotal(); conns != 4 || ips != 2 {
		t.Errorf("total %d %d while Redis is away", conns, ips)
	}
	if got := core.NodesWeighted("web", netip.Addr{}).Nodes; len(got) != 1 || got[0] != "h1" {
		t.Errorf("nodes %v while Redis is away", got)
	}
	if got, err := core.OnlineTop("live", 5); err != nil || len(got) != 1 {
		t.Errorf("top %v, %v while Redis is away", got, err)
	}

	env.Redis.SetError("")
	if err := env.Presence.Release(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	logictest.Eventually(t, "the comet is gone", func() bool { conns, _ := core.OnlineTotal(); return conns == 0 })
	logictest.Eventually(t, "its rooms are gone", func() bool { return core.OnlineRooms("live", []string{"1"})["1"] == 0 })
	logictest.Eventually(t, "the recovery is logged", func() bool { return log.count("can be read again") == 1 })
	if n := log.count("serving what was known"); n != 1 {
		t.Errorf("the failure is logged %d times", n)
	}
}

func TestStartWithoutRedis(t *testing.T) {
	env := logictest.New(t)
	env.Redis.SetError("away")
	core := env.Core(t, nil)
	if err := core.Ready(t.Context()); err == nil {
		t.Error("ready before the first read")
	}
	if got, err := core.OnlineTop("live", 5); err != nil || got == nil || len(got) != 0 {
		t.Errorf("top %v, %v", got, err)
	}
	env.Redis.SetError("")
	env.Comet(t, presence.NodeInfo{Node: one("c1"), ConnCount: 1})
	logictest.Eventually(t, "the comet is known", func() bool { conns, _ := core.OnlineTotal(); return conns == 1 })
	if err := core.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
}

func TestReadyFollowsTheLog(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	if err := core.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	env.Kafka.Close()
	if err := core.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "log: ") {
		t.Errorf("ready without Kafka: %v", err)
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	for range 2 {
		if err := core.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := core.Ready(t.Context()); err == nil {
		t.Error("ready after Close")
	}
	if err := core.Start(t.Context()); err == nil {
		t.Error("started after Close")
	}
}

// Equal counts have one order, whichever logic is asked.
func TestOnlineTopIsDeterministic(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	node := env.Comet(t, presence.NodeInfo{Node: one("c1")})
	env.Rooms(t, node, map[string]int32{"live://b": 1, "live://a": 1, "live2://a": 1, "live://c": 2, "live://zero": 0, "noscheme": 9})
	logictest.Eventually(t, "the rooms are known", func() bool { top, _ := core.OnlineTop("l", 9); return len(top) == 4 })
	top, err := core.OnlineTop("live", 9)
	if err != nil {
		t.Fatal(err)
	}
	want := []logic.RoomCount{{RoomID: "c", Count: 2}, {RoomID: "a", Count: 1}, {RoomID: "a", Count: 1}, {RoomID: "b", Count: 1}}
	for i, w := range want {
		if top[i] != w {
			t.Errorf("place %d: %v, want %v", i, top[i], w)
		}
	}
}
