package logic_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// library is a core with stored messages, and the worker that appends them.
type library struct {
	*logic.Core
	env   *logictest.Env
	store *timeline.Store
	fold  timeline.Fold
	off   int64
}

func newLibrary(t *testing.T) *library {
	t.Helper()
	l := &library{env: logictest.New(t)}
	cfg := timeline.DefaultConfig()
	store, err := timeline.NewStore(cfg, timelinetest.NewWindow(), timelinetest.NewArchive(), timeline.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	l.store = store
	l.Core = l.env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines = store })
	if l.fold, err = store.TakeFence(t.Context(), timeline.Partition{Log: "push/1", Generation: 1}, 1, nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *library) add(t *testing.T, tl message.Timeline, sender int64, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		id, err := message.NewID(1, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		m := message.Message{ID: id, Op: 1000, Kind: message.Chat, Sender: sender, Flags: message.Store | message.Unread, Body: []byte(body)}
		if _, err := l.store.Append(t.Context(), timeline.Batch{Fold: l.fold, Records: []timeline.Record{{Offset: l.off, Message: m, Timelines: []message.Timeline{tl}}}}); err != nil {
			t.Fatal(err)
		}
		l.off++
	}
}

func bodies(p timeline.Page) (out []string) {
	for _, e := range p.Entries {
		out = append(out, string(e.Message.Body))
	}
	return out
}

func TestSyncOfASession(t *testing.T) {
	l := newLibrary(t)
	l.add(t, message.Inbox(7), 9, "a", "b", "c")
	l.add(t, "r:live://1", 9, "room")
	seven := timeline.Reader{Mid: 7, Rooms: []message.Timeline{"r:live://1"}}

	pages, err := l.Sync(t.Context(), seven, []timeline.Cursor{
		{Timeline: message.Inbox(7)}, {Timeline: message.Inbox(8)}, {Timeline: "r:live://1"}, {Timeline: "r:live://2"}, {Timeline: "k:x"},
	}, timeline.Limit{Entries: 2})
	if err != nil || len(pages) != 5 {
		t.Fatalf("%v, %v", pages, err)
	}
	if got := fmt.Sprint(bodies(pages[0]), pages[0].HasMore, pages[0].Next, bodies(pages[2])); got != "[a b] true 2 [room]" {
		t.Error(got)
	}
	for _, i := range []int{1, 3, 4} {
		if p := logic.ProblemOf(pages[i].Err); p.Code != logic.CodeForbidden {
			t.Errorf("page %d: %+v", i, pages[i])
		}
	}

	// A session without a user is not the backend, whose mid is 0.
	for _, mid := range []int64{0, -1} {
		pages, err = l.Sync(t.Context(), timeline.Reader{Mid: mid, Rooms: seven.Rooms}, []timeline.Cursor{{Timeline: message.Inbox(7)}, {Timeline: "r:live://1"}}, timeline.Limit{})
		if err != nil || pages[0].Err == nil || len(pages[0].Entries) > 0 || len(pages[1].Entries) != 1 {
			t.Errorf("mid %d: %+v, %v", mid, pages, err)
		}
		if _, err := l.History(t.Context(), timeline.Reader{Mid: mid}, timeline.Part{Timeline: message.Inbox(7)}, timeline.Limit{}); logic.ProblemOf(err).Code != logic.CodeForbidden {
			t.Errorf("history of mid %d: %v", mid, err)
		}
		if _, err := l.Ack(t.Context(), timeline.Reader{Mid: mid}, []timeline.Cursor{{Timeline: message.Inbox(7), After: 1}}); logic.ProblemOf(err).Code != logic.CodeForbidden {
			t.Errorf("ack of mid %d: %v", mid, err)
		}
	}
	if _, err := l.Sync(t.Context(), seven, make([]timeline.Cursor, timeline.MaxCursors+1), timeline.Limit{}); logic.ProblemOf(err).Code != logic.CodeBadRequest {
		t.Errorf("too many cursors: %v", err)
	}

	// Without cursors: from where the user stands.
	if _, err := l.Ack(t.Context(), seven, []timeline.Cursor{{Timeline: message.Inbox(7), Epoch: pages[0].Epoch, After: 0}, {Timeline: message.Inbox(7), Epoch: timeline.FirstEpoch, After: 2}}); err != nil {
		t.Fatal(err)
	}
	pages, err = l.Sync(t.Context(), seven, nil, timeline.Limit{})
	if err != nil || len(pages) != 2 || fmt.Sprint(bodies(pages[0]), bodies(pages[1])) != "[c] [room]" {
		t.Errorf("%+v, %v", pages, err)
	}

	page, err := l.History(t.Context(), seven, timeline.Part{Timeline: message.Inbox(7), At: timeline.Before, Seq: 3}, timeline.Limit{Entries: 1})
	if err != nil || fmt.Sprint(bodies(page)) != "[b]" {
		t.Errorf("history %+v, %v", page, err)
	}
	tops, stored, err := l.Tops(t.Context(), []message.Timeline{"r:live://1", "k:x", "r:live://none", message.Inbox(7)})
	if err != nil || !stored || len(tops) != 2 || tops[0].Seq != 1 || tops[1].Seq != 3 {
		t.Errorf("tops %+v, %v, %v", tops, stored, err)
	}
}

func TestReadIsEchoed(t *testing.T) {
	l := newLibrary(t)
	l.add(t, message.Inbox(7), 9, "a", "b", "c")
	seven := timeline.Reader{Mid: 7}
	at := timeline.Cursor{Timeline: message.Inbox(7), Epoch: timeline.FirstEpoch, After: 2}
	for _, moved := range []bool{true, false} {
		s, err := l.Read(t.Context(), seven, at)
		if err != nil || s.Read != 2 || s.Acked != 2 || s.Unread != 1 || s.Moved != moved {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	records := l.env.Records(t)
	if len(records) != 1 || records[0].Operation != 27 || records[0].Mids[0] != 7 || string(records[0].Msg) != `{"tl":"u:7","epoch":1,"seq":2}` {
		t.Errorf("echo %v", records)
	}
}

func TestConnectTellsWhatASessionReads(t *testing.T) {
	l := newLibrary(t)
	l.add(t, message.Inbox(7), 9, "a", "b")
	l.add(t, "r:group://1", 9, "g")
	if err := l.store.Join(t.Context(), "r:group://1", []timeline.Member{{Mid: 7}}); err != nil {
		t.Fatal(err)
	}
	node := l.env.Comet(t, presence.NodeInfo{Node: one("c1")})
	token := `{"mid":7,"room_id":"live://1","resume":[{"tl":"u:7","epoch":1,"after":1},{"tl":"nonsense","after":1}]}`
	v1, v2 := item(1, token), item(2, token)
	v2.Ver = 2
	got := l.Connect(t.Context(), node, []logic.ConnectItem{v1, v2})
	if got[0].Code != 0 || got[0].Rooms != nil || got[0].Tops != nil || got[0].Resume != nil {
		t.Errorf("version 1: %+v", got[0])
	}
	if s := fmt.Sprint(got[1].Rooms, got[1].Tops, got[1].Resume); s != "[group://1] [{u:7 {1 2}} {r:group://1 {1 1}}] [{u:7 1 1}]" {
		t.Errorf("version 2: %s", s)
	}
}

func TestPublish(t *testing.T) {
	l := newLibrary(t)
	if err := l.store.Join(t.Context(), "r:group://1", []timeline.Member{{Mid: 7}}); err != nil {
		t.Fatal(err)
	}
	chat := logic.Publishing{Mid: 7, To: "u:8", Op: 1000, ClientID: "c1", Payload: []byte("hi")}
	change := func(f func(*logic.Publishing)) logic.Publishing { p := chat; f(&p); return p }
	got := l.Publish(t.Context(), []logic.Publishing{
		chat,
		chat,
		change(func(p *logic.Publishing) { p.To = "r:group://1" }),
		change(func(p *logic.Publishing) { p.Kind = message.Signal; p.ClientID = "" }),
		change(func(p *logic.Publishing) { p.To = "r:group://2" }),
		change(func(p *logic.Publishing) { p.To = "r:sys://all" }),
		change(func(p *logic.Publishing) { p.To = "k:x" }),
		change(func(p *logic.Publishing) { p.Mid = 0 }),
		change(func(p *logic.Publishing) { p.Op = 31 }),
		change(func(p *logic.Publishing) { p.Kind = message.Revoke }),
		change(func(p *logic.Publishing) { p.FlagsSet = 1 << 30 }),
		change(func(p *logic.Publishing) { p.Payload = make([]byte, 2<<20) }),
		change(func(p *logic.Publishing) { p.To = "u:7" }), // to oneself
	})
	for i, want := range []uint32{0, 0, 0, 0, 403, 400, 400, 403, 400, 400, 400, 413, 400} {
		if got[i].Code != want {
			t.Errorf("%d: %+v, want code %d", i, got[i], want)
		}
	}
	if got[0].ID != got[1].ID || got[0].ID != message.DeriveID("c:7", "c1") || got[0].ID == got[3].ID {
		t.Errorf("ids %v", got[:4])
	}
	// Two times to the receiver and the own inbox, the group, the signal.
	count := map[string]int{}
	for _, r := range l.env.Records(t) {
		count[fmt.Sprint(r.Mids, r.Room, " from ", r.Sender, " kind ", r.Kind)]++
	}
	if s := fmt.Sprint(count); s != "map[[7] from 7 kind 1:2 [8] from 7 kind 1:2 [8] from 7 kind 4:1 []group://1 from 7 kind 1:1]" {
		t.Error(s)
	}
}

func TestNothingStored(t *testing.T) {
	core := logictest.New(t).Core(t, nil)
	_, err := core.Sync(t.Context(), timeline.Reader{Mid: 7}, nil, timeline.Limit{})
	if logic.ProblemOf(err).Code != logic.CodeNoStore {
		t.Error(err)
	}
	if _, stored, err := core.Tops(t.Context(), []message.Timeline{"u:7"}); stored || err != nil {
		t.Error(stored, err)
	}
	if got := core.Publish(t.Context(), []logic.Publishing{{Mid: 7, To: "u:8", Op: 1000}}); got[0].Code != logic.CodeNoStore {
		t.Errorf("%+v", got)
	}
}

// broken panics where the rooms of users are read.
type broken struct{ logic.Timelines }

func (broken) RoomsOf(context.Context, int64, message.Timeline, int) ([]timeline.Membership, error) {
	panic("broken")
}

// Symptom: a panic while rooms were read ended the whole logic. Cause: they are
// read in goroutines of their own, where the transport does not catch it.
func TestPanicInRoomsCostsItsSession(t *testing.T) {
	l := newLibrary(t)
	core := l.env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines = broken{l.store} })
	v2 := item(1, `{"mid":7}`)
	v2.Ver = 2
	got := core.Connect(t.Context(), one("c1"), []logic.ConnectItem{v2, item(2, `{"mid":8}`)})
	if got[0].Code != logic.CodeUnavailable || got[1].Code != 0 {
		t.Errorf("%+v", got)
	}
}

// roomless cannot read the rooms of users.
type roomless struct{ logic.Timelines }

func (roomless) RoomsOf(context.Context, int64, message.Timeline, int) ([]timeline.Membership, error) {
	return nil, errors.New("SQL is away")
}

// Symptom: while SQL was away, users whose clients tried to connect counted as
// online, got no offline push, and lost the key of the session that they had, for
// half an hour. Cause: a session was recorded before its rooms were read; when
// they could not be read it was turned away, and nobody removed it.
func TestTurnedAwaySessionsAreNotRecorded(t *testing.T) {
	l := newLibrary(t)
	core := l.env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines = roomless{l.store} })
	node := l.env.Comet(t, presence.NodeInfo{Node: one("c1")})
	before, away := item(1, `{"mid":7,"key":"k"}`), item(2, `{"mid":7,"key":"k"}`)
	away.Ver = 2
	if got := core.Connect(t.Context(), node, []logic.ConnectItem{before}); got[0].Code != 0 {
		t.Fatalf("%+v", got)
	}
	got := core.Connect(t.Context(), node, []logic.ConnectItem{away, item(3, `{"mid":8}`)})
	if got[0].Code != logic.CodeUnavailable || got[0].Key != "" || got[1].Code != 0 {
		t.Errorf("%+v", got)
	}
	routed, err := core.Route(t.Context(), []presence.Query{{Keys: []string{"k"}}, {Mids: []int64{7}}, {Mids: []int64{8}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint64{1, 1, 3} {
		if at := routed.Results[i].Locations; len(at) != 1 || at[0].Session != want {
			t.Errorf("query %d: %+v, want session %d", i, at, want)
		}
	}
}

// undecided is a policy that answers nobody.
type undecided struct{}

func (undecided) MayPublish(ctx context.Context, _ logic.Publishing) error {
	<-ctx.Done()
	return ctx.Err()
}

// Symptom: while SQL hung, a message to a room that its sender is a member of was
// answered only when the call of the comet ended, with the messages of others in
// the same call. Cause: the policy, which asks SQL, had no deadline of its own.
func TestPolicyHasADeadline(t *testing.T) {
	l := newLibrary(t)
	core := l.env.Core(t, func(c *logic.Config, d *logic.Deps) {
		c.TimelineTimeout, d.Timelines, d.Policy = 100*time.Millisecond, l.store, undecided{}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // that of the call
	defer cancel()
	got := core.Publish(ctx, []logic.Publishing{{Mid: 7, To: "r:group://1", Op: 1000}})
	if got[0].Code != logic.CodeRetry || ctx.Err() != nil {
		t.Errorf("%+v, %v", got, ctx.Err())
	}
}
