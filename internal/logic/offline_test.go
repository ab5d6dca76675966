package logic_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
)

// whereabouts are users that have a session, or have acked up to a position.
type whereabouts struct {
	presence.Registry
	logic.Timelines
	mu     sync.Mutex
	online map[int64]bool
	acked  map[int64]uint64
}

func (w *whereabouts) Ping(context.Context) error { return nil }

func (w *whereabouts) Locate(_ context.Context, queries []presence.Query) (presence.Located, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := presence.Located{Results: make([][]presence.Location, len(queries))}
	for i, q := range queries {
		for n, mid := range q.Mids {
			if w.online[mid] {
				l.Results[i] = append(l.Results[i], presence.Location{Target: n})
			}
		}
	}
	return l, nil
}

func (w *whereabouts) Cursors(_ context.Context, r timeline.Reader, tls []message.Timeline) ([]timeline.Standing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []timeline.Standing{{UserCursor: timeline.UserCursor{Timeline: tls[0], Epoch: 1, Acked: w.acked[r.Mid]}}}, nil
}

// endpoint fails as often as it is told to.
type endpoint struct {
	mu    sync.Mutex
	fails []error
	calls int
	got   []int64
}

func (e *endpoint) Send(_ context.Context, notices []logic.OfflineNotice) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	if len(e.fails) > 0 {
		err := e.fails[0]
		e.fails = e.fails[1:]
		return err
	}
	for _, n := range notices {
		e.got = append(e.got, n.Mid)
	}
	return nil
}

func (e *endpoint) take() (mids []int64, calls int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	mids, calls = e.got, e.calls
	e.got, e.calls = nil, 0
	return mids, calls
}

func notice(mid int64, seq uint64, body string) logic.OfflineNotice {
	return logic.OfflineNotice{Mid: mid, Position: timeline.Position{Epoch: 1, Seq: seq}, Message: message.Message{Body: []byte(body)}}
}

func startOffline(t *testing.T, cfg logic.OfflineConfig) (*logic.OfflinePush, *endpoint, *whereabouts) {
	e, w := &endpoint{}, &whereabouts{online: map[int64]bool{}, acked: map[int64]uint64{}}
	o, err := logic.NewOfflinePush(cfg, logic.OfflineDeps{Port: e, Presence: w, Timelines: w, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return o, e, w
}

// Who comes back within the grace, or has acked, or whose message has expired,
// is left out; the others come in order and in batches.
func TestOfflineGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := logic.DefaultOfflineConfig()
		cfg.Batch = 2
		o, e, w := startOffline(t, cfg)
		for mid := range int64(6) {
			n := notice(mid+1, 5, "x")
			if mid+1 == 4 {
				n.Message.ExpiresMS = time.Now().Add(time.Second).UnixMilli()
			}
			o.Add(n)
		}
		time.Sleep(cfg.Grace - time.Millisecond)
		synctest.Wait()
		if mids, calls := e.take(); calls != 0 {
			t.Errorf("within the grace: %v", mids)
		}
		w.mu.Lock()
		w.online[1], w.acked[2], w.acked[3] = true, 5, 4
		w.mu.Unlock()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if mids, calls := e.take(); !slices.Equal(mids, []int64{3, 5, 6}) || calls != 2 {
			t.Errorf("%v in %d calls", mids, calls)
		}
		if err := o.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestOfflineRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := logic.DefaultOfflineConfig()
		cfg.Grace, cfg.Attempts, cfg.Backoff = 0, 3, time.Second
		o, e, _ := startOffline(t, cfg)
		broken := errors.New("broken")
		for _, c := range []struct {
			fails []error
			calls int
			sent  bool
		}{
			{[]error{broken, broken}, 3, true},
			{[]error{broken, broken, broken}, 3, false},
			{[]error{fmt.Errorf("no: %w", logic.ErrOfflineRefused)}, 1, false},
		} {
			e.mu.Lock()
			e.fails = c.fails
			e.mu.Unlock()
			o.Add(notice(1, 1, "x"))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if mids, calls := e.take(); calls != c.calls || (len(mids) == 1) != c.sent {
				t.Errorf("%v: %v in %d calls", c.fails, mids, calls)
			}
		}
		if err := o.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What waits is bounded by bytes; closing sends it at once; nothing is taken
// afterwards.
func TestOfflineBoundAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := logic.DefaultOfflineConfig()
		cfg.MaxBytes = 64 << 10
		o, e, _ := startOffline(t, cfg)
		o.Add(notice(1, 1, string(make([]byte, 60<<10))))
		o.Add(notice(2, 1, string(make([]byte, 10<<10))))
		o.Add(notice(3, 1, "x"))
		for range 2 {
			if err := o.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if mids, _ := e.take(); !slices.Equal(mids, []int64{1, 3}) {
			t.Errorf("%v", mids)
		}
		o.Add(notice(4, 1, "x"))
		if mids, _ := e.take(); mids != nil {
			t.Errorf("after Close: %v", mids)
		}
	})
}

// A stored message that asks for it and finds no session is noted for the
// users who have none. Symptom of noting only what is new: no notice at all
// when presence failed after the append; the job asks again, and is answered
// with a repeat.
func TestRouteNotesOffline(t *testing.T) {
	l := newLibrary(t)
	cfg, e := logic.DefaultOfflineConfig(), &endpoint{}
	cfg.Grace = 0
	o, err := logic.NewOfflinePush(cfg, logic.OfflineDeps{Port: e, Presence: l.env.Presence, Timelines: l.store, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	core := l.env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines, d.Offline = l.store, o })
	node := l.env.Comet(t, presence.NodeInfo{Node: one("c1")})
	if _, err := l.env.Presence.Connect(t.Context(), node, []presence.Session{{ID: 1, Mid: 2, Key: "k2"}}); err != nil {
		t.Fatal(err)
	}
	const asked = message.Store | message.OfflinePush
	item := func(offset int64, flags message.Flags, mids ...int64) logic.StoredQuery {
		q := logic.StoredQuery{Query: presence.Query{Mids: mids}, Stored: &timeline.Record{Offset: offset, Message: message.Message{ID: message.ID{15: byte(offset)}, Flags: flags}}}
		for _, mid := range mids {
			q.Stored.Timelines = append(q.Stored.Timelines, message.Inbox(mid))
		}
		return q
	}
	items := []logic.StoredQuery{item(1, asked, 1, 2, 3), item(2, message.Store, 4)}
	l.env.Redis.SetError("away")
	if _, _, err := core.RouteStored(t.Context(), l.fold, items); err == nil {
		t.Fatal("routed without presence")
	}
	l.env.Redis.SetError("")
	if _, full, err := core.RouteStored(t.Context(), l.fold, items); err != nil || full {
		t.Fatal(err, full)
	}
	if err := o.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []int64
	logictest.Eventually(t, "two notices", func() bool {
		mids, _ := e.take()
		got = append(got, mids...)
		return len(got) >= 2
	})
	if err := o.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mids, _ := e.take()
	if got = append(got, mids...); !slices.Equal(got, []int64{1, 3}) {
		t.Errorf("%v", got)
	}
}
