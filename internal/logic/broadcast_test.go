package logic_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

type store = presence.Broadcasts

// told is a store that knows one broadcast.
type told struct {
	store
	b presence.Broadcast
}

func (s told) Broadcast(context.Context, message.ID) (presence.Broadcast, bool, error) {
	return s.b, true, nil
}
func (s told) Broadcasts(context.Context) ([]presence.Broadcast, error) {
	return []presence.Broadcast{s.b}, nil
}

func TestBroadcastStates(t *testing.T) {
	env := logictest.New(t)
	now := time.Now()
	nowMS := now.UnixMilli()
	a, b := env.Comet(t, cometNamed("a")), env.Comet(t, cometNamed("b"))
	dead := presence.Node{Name: "a", Incarnation: a.Incarnation + 1}
	share := func(node presence.Node, agoS int64, change func(*presence.Share)) presence.Share {
		s := presence.Share{Node: node, Comets: 2, Speed: 50, Total: 10, UpdatedMS: nowMS - agoS*1000}
		if change != nil {
			change(&s)
		}
		return s
	}
	begun := func(s *presence.Share) { s.StartedMS, s.Delivered, s.Filtered, s.Slow = 7, 3, 2, 1 }
	over := func(s *presence.Share) {
		s.StartedMS, s.Finished, s.Total, s.Delivered = 9, true, 12, 12
	}
	for _, c := range []struct {
		what     string
		canceled int64
		shares   []presence.Share
		state    logic.BroadcastState
		underWay bool
		done     int64
		total    int64
	}{
		{"announced", 0, nil, logic.Waiting, true, 0, 0},
		{"behind others", 0, []presence.Share{share(a, 0, nil)}, logic.Waiting, true, 0, 10},
		{"one of two has begun", 0, []presence.Share{share(a, 0, nil), share(b, 0, begun)}, logic.Running, true, 6, 20},
		{"one of two is done", 0, []presence.Share{share(a, 0, over), share(b, 0, begun)}, logic.Running, true, 18, 22},
		{"the other has not reported", 0, []presence.Share{share(a, 1, over)}, logic.Running, true, 12, 12},
		{"the other never will", 0, []presence.Share{share(a, 31, over)}, logic.Done, false, 12, 12},
		{"both are done", 0, []presence.Share{share(a, 0, over), share(b, 0, over)}, logic.Done, false, 24, 24},
		{"the other died", 0, []presence.Share{share(a, 0, over), share(dead, 20, begun)}, logic.Done, false, 18, 22},
		{"the other is new", 0, []presence.Share{share(a, 0, over), share(dead, 0, begun)}, logic.Running, true, 18, 22},
		{"canceled before it was seen", 1, nil, logic.Canceled, true, 0, 0},
		{"canceled long ago, never seen", 40, nil, logic.Canceled, false, 0, 0},
		{"canceled, one does not know yet", 40, []presence.Share{share(a, 0, over), share(b, 0, begun)}, logic.Canceled, true, 18, 22},
		{"canceled everywhere", 1, []presence.Share{share(a, 0, over), share(b, 0, over)}, logic.Canceled, false, 24, 24},
	} {
		id, err := message.NewID(nowMS-60_000, zeros{})
		if err != nil {
			t.Fatal(err)
		}
		stored := presence.Broadcast{ID: id, Shares: c.shares}
		if c.canceled > 0 {
			stored.CanceledMS = nowMS - c.canceled*1000
		}
		core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
			d.Broadcasts, d.Now = told{b: stored}, func() time.Time { return now }
		})
		p, err := core.Broadcast(t.Context(), id)
		if err != nil || p.State != c.state || p.UnderWay != c.underWay || p.Done() != c.done || p.Total != c.total || p.AcceptedMS != nowMS-60_000 {
			t.Errorf("%s: %+v, %v", c.what, p, err)
		}
		if want := int64(50 * len(c.shares)); p.Speed != want {
			t.Errorf("%s: speed %d, want %d", c.what, p.Speed, want)
		}
		list, err := core.Broadcasts(t.Context())
		if err != nil || (len(list) == 1) != c.underWay {
			t.Errorf("%s: list %v, %v", c.what, list, err)
		}
	}
}

func cometNamed(name string) presence.NodeInfo {
	return presence.NodeInfo{Node: presence.Node{Name: name, Incarnation: 1}, GRPCAddr: name + ":3109"}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func refusedFor(err error) logic.Reason {
	var refusal *logic.Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ""
}

// From accept to cancel: the caller finds the push at once, a comet that
// reports it learns that it is canceled, and so does one that does not.
func TestBroadcastIsCanceled(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	accept := func(target message.Target) message.ID {
		t.Helper()
		id, err := core.Accept(t.Context(), 1000, 0, []byte("x"), []message.Target{message.ToUser(1), target})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	refresh := func(name string, shares ...presence.Share) []message.ID {
		t.Helper()
		answer, err := core.Refresh(t.Context(), logic.Refresh{Info: cometNamed(name), Shares: shares})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Canceled
	}
	for _, id := range []message.ID{accept(message.ToAll(0)), accept(message.ToRoom("a://b"))} {
		if _, err := core.Broadcast(t.Context(), id); refusedFor(err) != logic.UnknownPush {
			t.Errorf("a push without a speed: %v", err)
		}
		if _, err := core.CancelBroadcast(t.Context(), id); refusedFor(err) != logic.UnknownPush {
			t.Errorf("cancel of a push without a speed: %v", err)
		}
	}
	id := accept(message.ToAll(100))
	if p, err := core.Broadcast(t.Context(), id); err != nil || p.State != logic.Waiting || p.Speed != 100 {
		t.Fatalf("at once: %+v, %v", p, err)
	}
	share := presence.Share{ID: id, Comets: 1, Speed: 100, StartedMS: 5, Total: 10, Delivered: 4}
	if got := refresh("a", share); len(got) != 0 {
		t.Errorf("canceled are %v", got)
	}
	canceled, err := core.CancelBroadcast(t.Context(), id)
	if err != nil || canceled.State != logic.Canceled || !canceled.UnderWay || canceled.Delivered != 4 {
		t.Fatalf("cancel: %+v, %v", canceled, err)
	}
	if again, err := core.CancelBroadcast(t.Context(), id); err != nil || again != canceled {
		t.Errorf("the second cancel: %+v, %v, the first %+v", again, err, canceled)
	}
	share.Finished, share.Canceled = true, 6
	for _, got := range [][]message.ID{refresh("a", share), refresh("b")} {
		if !slices.Equal(got, []message.ID{id}) {
			t.Errorf("a comet is told %v", got)
		}
	}
	if p, err := core.Broadcast(t.Context(), id); err != nil || p.State != logic.Canceled || p.UnderWay || p.Canceled != 6 || p.Total != 10 {
		t.Errorf("at the end: %+v, %v", p, err)
	}

	done := accept(message.ToAll(100))
	refresh("a", presence.Share{ID: done, Comets: 1, StartedMS: 5, Finished: true, Total: 1, Delivered: 1})
	if p, err := core.CancelBroadcast(t.Context(), done); err != nil || p.State != logic.Done || p.CanceledMS != 0 {
		t.Errorf("cancel of one that is done: %+v, %v", p, err)
	}
}

// Without presence pushes are accepted all the same, and questions fail.
func TestBroadcastsWithoutPresence(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	env.Redis.SetError("LOADING")
	defer env.Redis.SetError("")
	id, err := core.Accept(t.Context(), 1000, 0, []byte("x"), []message.Target{message.ToAll(100)})
	if err != nil {
		t.Fatal(err)
	}
	_, read := core.Broadcast(t.Context(), id)
	_, list := core.Broadcasts(t.Context())
	_, cancel := core.CancelBroadcast(t.Context(), id)
	for what, err := range map[string]error{"read": read, "list": list, "cancel": cancel} {
		if !errors.Is(err, logic.ErrPresenceAway) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
