package hotrooms_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/perseid-im/perseid/internal/hotrooms"
	"github.com/perseid-im/perseid/internal/hotrooms/redishot"
	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline/redistore"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func open(t *testing.T, addr string) *redishot.Store {
	t.Helper()
	cfg := redistore.DefaultConfig()
	cfg.Addr = addr
	cfg.DialTimeout, cfg.ReadTimeout, cfg.WriteTimeout = time.Minute, time.Minute, time.Minute
	s, err := redistore.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return redishot.New(s)
}

func newTracker(t *testing.T, store hotrooms.Store, now func() time.Time, change func(*hotrooms.Config)) *hotrooms.Tracker {
	t.Helper()
	cfg := hotrooms.DefaultConfig()
	cfg.Timeout = time.Minute
	if change != nil {
		change(&cfg)
	}
	tr, err := hotrooms.New(cfg, hotrooms.Deps{Store: store, Logger: slog.New(slog.DiscardHandler), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// naive counts what was said, all of it.
type naive map[string]map[int64]time.Time

func (n naive) note(room string, mid int64, at time.Time) {
	if n[room] == nil {
		n[room] = map[int64]time.Time{}
	}
	if at.After(n[room][mid]) {
		n[room][mid] = at
	}
}

func (n naive) top(now time.Time, window time.Duration, most int) (rooms []hotrooms.Room) {
	for room, speakers := range n {
		count := 0
		for _, at := range speakers {
			if now.Sub(at) < window {
				count++
			}
		}
		if count > 0 {
			rooms = append(rooms, hotrooms.Room{Name: room, Speakers: count})
		}
	}
	slices.SortFunc(rooms, func(a, b hotrooms.Room) int {
		return cmp.Or(cmp.Compare(b.Speakers, a.Speakers), cmp.Compare(a.Name, b.Name))
	})
	return rooms[:min(len(rooms), most)]
}

// Two logics note the same speakers again and again, at once, while both count
// and build: both know the exact ranking in the end.
func TestTwoLogicsCountTogether(t *testing.T) {
	addr := testdeps.Redis(t).Addr
	quick := func(c *hotrooms.Config) {
		c.FlushInterval, c.Interval = 10*time.Millisecond, 100*time.Millisecond
	}
	trackers := []*hotrooms.Tracker{newTracker(t, open(t, addr), time.Now, quick), newTracker(t, open(t, addr), time.Now, quick)}
	for _, tr := range trackers {
		if err := tr.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := tr.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
	}
	const rooms = 130 // more than the ranking
	want := naive{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, tr := range trackers {
		for p := range 2 {
			all.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), uint64(p)))
				for range 10_000 {
					n := rnd.IntN(rooms)
					room, mid := fmt.Sprintf("live://%d", n), int64(rnd.IntN(n+1)+1)
					tr.Note(room, mid, time.Now())
					mu.Lock()
					want.note(room, mid, time.Now())
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	top := want.top(time.Now(), 5*time.Minute, 100)
	deadline := time.After(2 * time.Minute)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for _, tr := range trackers {
		for !slices.Equal(tr.Top(1000).Rooms, top) {
			select {
			case <-poll.C:
			case <-deadline:
				t.Fatalf("got %v\nwant %v", tr.Top(1000).Rooms, top)
			}
		}
	}
	if r := trackers[0].Top(3); len(r.Rooms) != 3 || r.BuiltMS == 0 {
		t.Errorf("three rooms: %+v", r)
	}
}

// clock is that of the trackers and of Redis.
type clock struct {
	now  time.Time
	mini *miniredis.Miniredis
}

func newClock(t *testing.T) *clock {
	c := &clock{now: time.UnixMilli(1_800_000_000_000), mini: miniredis.RunT(t)}
	c.mini.SetTime(c.now)
	return c
}

func (c *clock) pass(d time.Duration) {
	c.now = c.now.Add(d)
	c.mini.SetTime(c.now)
	c.mini.FastForward(d)
}

// Random speaking, time that passes and builds, by two logics in turn, against
// a list of everything that was said.
func TestRankingAgainstAList(t *testing.T) {
	c := newClock(t)
	store := open(t, c.mini.Addr())
	const window, most = time.Minute, 5
	change := func(cfg *hotrooms.Config) { cfg.Window, cfg.Rooms = window, most }
	now := func() time.Time { return c.now }
	trackers := []*hotrooms.Tracker{newTracker(t, store, now, change), newTracker(t, store, now, change)}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	want := naive{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nonEmpty := 0
	for step := range 1500 {
		tr := trackers[rnd.IntN(2)]
		switch n := rnd.IntN(20); {
		case n < 14:
			// Names with braces, too; some of the messages come late.
			room, at := fmt.Sprintf("{live}://%d", rnd.IntN(9)), c.now.Add(-time.Duration(rnd.IntN(70_000))*time.Millisecond)
			if n < 7 {
				room, at = fmt.Sprintf("live://%d", rnd.IntN(9)), c.now
			}
			mid := int64(rnd.IntN(6) + 1)
			tr.Note(room, mid, at)
			if c.now.Sub(at) < window {
				want.note(room, mid, at)
			}
		case n < 17:
			c.pass(time.Duration(rnd.IntN(12_000)) * time.Millisecond)
		default:
			c.pass(6 * time.Second) // nobody holds it
			for _, tr := range trackers {
				must(tr.Flush(t.Context()))
			}
			must(tr.Build(t.Context()))
			for _, tr := range trackers {
				must(tr.Read(t.Context()))
				got := tr.Top(most)
				if top := want.top(c.now, window, most); !slices.Equal(got.Rooms, top) || got.BuiltMS != c.now.UnixMilli() {
					t.Fatalf("step %d: %+v, want %v", step, got, top)
				}
			}
			nonEmpty += len(trackers[0].Top(most).Rooms)
		}
	}
	if nonEmpty < 150 {
		t.Errorf("%d places in all: too quiet to prove anything", nonEmpty)
	}
	// Silence: everything leaves Redis.
	c.pass(2 * window)
	for range 3 {
		c.pass(31 * time.Second)
		must(trackers[0].Build(t.Context()))
	}
	must(trackers[1].Read(t.Context()))
	if r := trackers[1].Top(most); len(r.Rooms) > 0 || r.BuiltMS == 0 {
		t.Errorf("after silence: %+v", r)
	}
	for _, key := range c.mini.Keys() {
		if key != "hot:ranking" && key != "hot:holder" {
			t.Errorf("after silence %s is left", key)
		}
	}
}

// A room leaves the ranking when its speakers are too old, though nobody
// speaks anywhere and the room is not among the highest.
func TestQuietRoomsLeave(t *testing.T) {
	c := newClock(t)
	store := open(t, c.mini.Addr())
	tr := newTracker(t, store, func() time.Time { return c.now }, func(cfg *hotrooms.Config) { cfg.Rooms = 1 })
	step := func() {
		t.Helper()
		if err := tr.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := tr.Build(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for room := range 10 {
		tr.Note(fmt.Sprintf("live://%d", room), 1, c.now)
	}
	c.pass(4 * time.Minute)
	for mid := range 3 {
		tr.Note("live://busy", int64(mid+1), c.now)
	}
	step()
	if names, err := store.Highest(t.Context(), 100); err != nil || len(names) != 11 {
		t.Fatalf("%v %v", names, err)
	}
	c.pass(time.Minute + time.Second)
	step()
	if names, err := store.Highest(t.Context(), 100); err != nil || !slices.Equal(names, []string{"live://busy"}) {
		t.Errorf("%v %v", names, err)
	}
}

// While Redis is away the last ranking is answered, until it is too old; what
// was noted waits, as far as there is room, and is counted afterwards.
func TestStoreIsAway(t *testing.T) {
	c := newClock(t)
	tr := newTracker(t, open(t, c.mini.Addr()), func() time.Time { return c.now }, func(cfg *hotrooms.Config) { cfg.MaxPending = 100 })
	build := func() error {
		for _, do := range []func(context.Context) error{tr.Flush, tr.Build, tr.Read} {
			if err := do(t.Context()); err != nil {
				return err
			}
		}
		return nil
	}
	if r := tr.Top(10); r.BuiltMS != 0 || len(r.Rooms) > 0 {
		t.Errorf("before the first: %+v", r)
	}
	tr.Note("live://1", 1, c.now)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	c.mini.SetError("LOADING it starts")
	for mid := range int64(150) {
		tr.Note("live://2", mid+1, c.now)
	}
	c.pass(10 * time.Second)
	if err := build(); err == nil {
		t.Error("no error")
	}
	tr.Note("live://3", 1, c.now) // no room for it
	if r := tr.Top(10); !slices.Equal(r.Rooms, []hotrooms.Room{{Name: "live://1", Speakers: 1}}) {
		t.Errorf("while it is away: %+v", r)
	}
	c.mini.SetError("")
	if err := build(); err != nil {
		t.Fatal(err)
	}
	if r := tr.Top(10); !slices.Equal(r.Rooms, []hotrooms.Room{{Name: "live://2", Speakers: 100}, {Name: "live://1", Speakers: 1}}) {
		t.Errorf("afterwards: %+v", r)
	}
	c.mini.SetError("LOADING it starts")
	c.pass(5*time.Minute + time.Second)
	if r := tr.Top(10); r.BuiltMS != 0 || len(r.Rooms) > 0 {
		t.Errorf("too old: %+v", r)
	}
}

// One builds; the others take what it built, until it stops.
func TestOneBuilds(t *testing.T) {
	c := newClock(t)
	store := open(t, c.mini.Addr())
	held := 0
	for range 5 {
		ok, err := store.Hold(t.Context(), 4500*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			held++
		}
	}
	if held != 1 {
		t.Errorf("%d hold it", held)
	}
	tr := newTracker(t, store, func() time.Time { return c.now }, nil)
	tr.Note("live://1", 1, c.now)
	for _, want := range []int{0, 1} {
		for _, do := range []func(context.Context) error{tr.Flush, tr.Build, tr.Read} {
			if err := do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r := tr.Top(10); len(r.Rooms) != want {
			t.Errorf("%+v", r)
		}
		c.pass(5 * time.Second)
	}
}

// A room counts to its bound, the newest speakers stay.
func TestSpeakersAreBounded(t *testing.T) {
	store := open(t, testdeps.Redis(t).Addr)
	var speakers []hotrooms.Speaker
	for mid := range int64(30) {
		speakers = append(speakers, hotrooms.Speaker{Mid: mid, Ago: time.Duration(mid) * time.Second})
	}
	counts, err := store.Recount(t.Context(), []hotrooms.Spoken{{Room: "live://1", Speakers: speakers}}, time.Minute, 10)
	if err != nil || counts[0].Speakers != 10 || counts[0].Next <= 45*time.Second || counts[0].Next > 51*time.Second {
		t.Errorf("%+v %v", counts, err)
	}
}

func TestLifecycle(t *testing.T) {
	c := newClock(t)
	tr := newTracker(t, open(t, c.mini.Addr()), func() time.Time { return c.now }, nil)
	if err := tr.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tr.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	tr.Note("live://1", 1, c.now)
	for range 2 {
		if err := tr.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if !c.mini.Exists("spk:{live://1}") {
		t.Error("what was noted before the end is not counted")
	}
	bad := hotrooms.Config{}
	if n := len(bad.Problems()); n != 7 {
		t.Errorf("%d problems", n)
	}
}
