// Package comettest has what the tests of comet's adapters share: a logic that
// knows goim's tokens, a gateway on it, and a reader of counters. It is
// imported by tests only.
package comettest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
)

// Logic is comet.Logic in memory. It accepts every token of goim's form, as
// goim does. The hooks are set before the gateway uses it.
type Logic struct {
	// OnConnect runs before a call is answered; an error fails the call.
	OnConnect func([]comet.ConnectItem) error
	// Heartbeat is what sessions are told; 0 = a minute.
	Heartbeat time.Duration
	// Rooms are the cluster's counts that every refresh is answered with.
	Rooms map[string]int32
	// Canceled are the pushes to all that every refresh says are canceled.
	Canceled []message.ID
	NothingStored

	mu           sync.Mutex
	sessions     map[string]uint64 // by key
	items        map[uint64]comet.ConnectItem
	disconnected map[uint64]comet.SessionRef
	left         bool
}

var _ comet.Logic = (*Logic)(nil)

// Connect implements comet.Logic.
func (l *Logic) Connect(_ context.Context, _ comet.Node, items []comet.ConnectItem) ([]comet.ConnectResult, error) {
	if l.OnConnect != nil {
		if err := l.OnConnect(items); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions == nil {
		l.sessions, l.items = map[string]uint64{}, map[uint64]comet.ConnectItem{}
	}
	heartbeat := l.Heartbeat
	if heartbeat == 0 {
		heartbeat = time.Minute
	}
	out := make([]comet.ConnectResult, len(items))
	for i, it := range items {
		var token struct {
			Mid     int64   `json:"mid"`
			Key     string  `json:"key"`
			Room    string  `json:"room_id"`
			Accepts []int32 `json:"accepts"`
		}
		if err := json.Unmarshal(it.Token, &token); err != nil {
			out[i] = comet.ConnectResult{Code: comet.BadToken.Code(), Reason: "bad token"}
			continue
		}
		if token.Key == "" {
			token.Key = fmt.Sprintf("key-%x", it.Session)
		}
		out[i] = comet.ConnectResult{
			Mid: token.Mid, Key: token.Key, Room: token.Room, Accepts: token.Accepts,
			HeartbeatMS: heartbeat.Milliseconds(), Replaced: l.sessions[token.Key],
		}
		l.sessions[token.Key] = it.Session
		l.items[it.Session] = it
	}
	return out, nil
}

// Disconnect implements comet.Logic.
func (l *Logic) Disconnect(_ context.Context, _ comet.Node, refs []comet.SessionRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disconnected == nil {
		l.disconnected = map[uint64]comet.SessionRef{}
	}
	for _, r := range refs {
		l.disconnected[r.Session] = r
		if l.sessions[r.Key] == r.Session {
			delete(l.sessions, r.Key)
		}
	}
	return nil
}

// Refresh implements comet.Logic.
func (l *Logic) Refresh(context.Context, comet.Node, comet.Refresh) (comet.RefreshReply, error) {
	return comet.RefreshReply{Rooms: l.Rooms, Canceled: l.Canceled}, nil
}

// Leave implements comet.Logic.
func (l *Logic) Leave(context.Context, comet.Node) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = true
	return nil
}

// Session is the session that has the key; 0 = none.
func (l *Logic) Session(key string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions[key]
}

// Sessions are all sessions that have a key.
func (l *Logic) Sessions() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.sessions)
}

// Item is what a session connected with.
func (l *Logic) Item(session uint64) comet.ConnectItem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.items[session]
}

// Disconnected is the number of sessions that were taken back.
func (l *Logic) Disconnected() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.disconnected)
}

// Left tells whether the node has given up its lease.
func (l *Logic) Left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left
}

// Node is the comet that Start makes.
func Node() comet.Node { return comet.Node{Name: "comet-1", Incarnation: 7} }

// patience is how long what must come may take: the machine may stand still for
// seconds.
const patience = time.Minute

// Config is a configuration whose deadlines are far off: a test that is held up
// must not meet them.
func Config() comet.Config {
	cfg := comet.DefaultConfig()
	cfg.HandshakeTimeout = 5 * time.Minute
	cfg.LogicTimeout = time.Minute
	cfg.JoinTimeout = 10 * time.Second
	return cfg
}

// Start makes a gateway that ends with the test.
func Start(t testing.TB, cfg comet.Config, maxSessions int, logic comet.Logic, metrics *obs.Metrics, log *slog.Logger) *comet.Gateway {
	t.Helper()
	return StartAt(t, time.Now, cfg, maxSessions, logic, metrics, log)
}

// StartAt is Start with another clock of the deadlines.
func StartAt(t testing.TB, clock func() time.Time, cfg comet.Config, maxSessions int, logic comet.Logic, metrics *obs.Metrics, log *slog.Logger) *comet.Gateway {
	t.Helper()
	g, err := comet.New(cfg, Node(), comet.NodeInfo{}, maxSessions, comet.Deps{Logic: logic, Log: log, Metrics: metrics, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Log writes to the test's output, until the test ends.
func Log(t testing.TB) *slog.Logger {
	w := &output{w: t.Output()}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type output struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w = io.Discard
}

// Count is the value of a counter or gauge; label is the value of its one
// label, "" if it has none.
func Count(t testing.TB, m *obs.Metrics, name, label string) float64 {
	t.Helper()
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, v := range f.GetMetric() {
			if label == "" || (len(v.GetLabel()) == 1 && v.GetLabel()[0].GetValue() == label) {
				return v.GetCounter().GetValue() + v.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s{%s}", name, label)
	return 0
}

// WaitFor fails the test when ok does not become true within a minute.
func WaitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
