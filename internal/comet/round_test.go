package comet

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// holdRoom makes the first round of the room wait, so that what is pushed next
// meets in the rounds behind it. The answer lets it go.
func (f *fixture) holdRoom(b *Bucket, key string) (release func()) {
	f.on(b, func() { b.rooms[key].rested = time.Now().Add(time.Hour) })
	return func() {
		f.on(b, func() {
			b.rooms[key].rested = time.Time{}
			b.wake()
		})
	}
}

func (f *fixture) dispatch(pushes ...Push) *Delivery {
	f.t.Helper()
	for i := range pushes {
		f.offset++
		pushes[i].Offset = f.offset
	}
	d, err := f.g.Dispatch(f.t.Context(), f.lane, pushes)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

const roomOne = "live://1"

func inRoomOne(key string) string { return fmt.Sprintf(`{"key":%q,"room_id":%q}`, key, roomOne) }

func TestConflationKeepsTheLatestThatWaits(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, inRoomOne("a"))
	f.connect(f.buckets[0], 1, inRoomOne("b"))
	release := f.holdRoom(f.buckets[0], roomOne)
	score := func(body string) Push {
		return Push{Op: 1000, Room: roomOne, Body: []byte(body), Conflate: "score"}
	}
	d := f.dispatch(score("1:0"), Push{Op: 1000, Room: roomOne, Body: []byte("goal")}, score("2:0"),
		Push{Op: 1000, Room: roomOne, Body: []byte("clock"), Conflate: "clock"}, score("2:1"))
	release()
	results := f.result(d)
	if got, want := c.bodies(t, 1000), []string{"goal", "clock", "2:1"}; !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
	for i, want := range []Counts{{Conflated: 2}, {Delivered: 2}, {Conflated: 2}, {Delivered: 2}, {Delivered: 2}} {
		if results[i].Counts != want {
			t.Errorf("push %d: %+v, want %+v", i, results[i].Counts, want)
		}
	}
	if n := f.g.stats.outcomes.Value(int(Conflated)); n != 4 {
		t.Errorf("%d counted as conflated, want 4", n)
	}
	// Nothing waits: the next of the key is a message of its own.
	f.result(f.dispatch(score("3:1")))
	if got := c.bodies(t, 1000); got[len(got)-1] != "3:1" || f.buckets[0].backlog != 0 {
		t.Errorf("delivered %q, backlog %d", got, f.buckets[0].backlog)
	}
}

func TestLikesDoNotPushOutAGift(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.RoundBytes, c.OutboxBytes = 1024, 4096 })
	c := f.connect(f.buckets[0], 1, inRoomOne("a"))
	release := f.holdRoom(f.buckets[0], roomOne)
	var pushes []Push
	for range 100 {
		pushes = append(pushes, Push{Op: 1, Room: roomOne, Body: make([]byte, 84), Class: Low})
	}
	pushes = append(pushes, Push{Op: 2, Room: roomOne, Body: make([]byte, 84)}, // opens the second round
		Push{Op: 3, Room: roomOne, Body: make([]byte, 84), Class: High})
	d := f.dispatch(pushes...)
	release()
	var likes, dropped uint32
	for _, r := range f.result(d)[:100] {
		likes += r.Delivered
		dropped += r.Slow
	}
	if likes == 0 || likes > 12 || likes+dropped != 100 {
		t.Errorf("%d likes delivered and %d dropped of 100; one round takes 10", likes, dropped)
	}
	var ops []wire.Op
	for _, p := range c.packets(t) {
		if p.Op == 2 || p.Op == 3 {
			ops = append(ops, p.Op)
		}
	}
	if want := []wire.Op{3, 2}; !slices.Equal(ops, want) {
		t.Errorf("the others came as %v, want %v: high goes with the next round", ops, want)
	}
}

// A session that is behind gets a round without what may be left out.
func TestLowPushesYieldToASlowSession(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.RoundBytes, c.OutboxBytes, c.Overflow = 2048, 8192, "drop" })
	slow := f.connect(f.buckets[0], 1, inRoomOne("slow"))
	well := f.connect(f.buckets[0], 1, inRoomOne("well"))
	slow.mu.Lock()
	slow.waits = 3000 // above a quarter of the outbox
	slow.mu.Unlock()
	release := f.holdRoom(f.buckets[0], roomOne)
	d := f.dispatch(Push{Op: 5, Room: roomOne, Body: []byte("gift")}, Push{Op: 6, Room: roomOne, Body: []byte("like"), Class: Low},
		Push{Op: 5, Room: roomOne, Body: []byte("gift 2")})
	release()
	results := f.result(d)
	if got := slow.bodies(t, 5); !slices.Equal(got, []string{"gift", "gift 2"}) || len(slow.bodies(t, 6)) != 0 {
		t.Errorf("the slow one got %q and %d likes", got, len(slow.bodies(t, 6)))
	}
	if got := well.bodies(t, 6); len(got) != 1 {
		t.Errorf("its neighbour got %d likes", len(got))
	}
	for i, want := range []Counts{{Delivered: 2}, {Delivered: 1, Slow: 1}, {Delivered: 2}} {
		if results[i].Counts != want {
			t.Errorf("push %d: %+v, want %+v", i, results[i].Counts, want)
		}
	}
}

func TestMergeWindowGathersMessagesOfItsType(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.MergeWindows = []string{"live=10s"} })
	windowed := f.connect(f.buckets[0], 1, inRoomOne("a"))
	other := f.connect(f.buckets[0], 1, `{"key":"b","room_id":"chat://1"}`)
	waits := f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte("first")})
	f.result(f.dispatch(Push{Op: 1, Room: "chat://1", Body: []byte("at once")}))
	if got := other.bodies(t, 1); len(got) != 1 {
		t.Fatalf("a room without a window got %q", got)
	}
	if got := windowed.bodies(t, 1); len(got) != 0 {
		t.Fatalf("%q came within the window", got)
	}
	writes := 0
	windowed.mu.Lock()
	windowed.onWrite = func() { writes++ }
	windowed.mu.Unlock()
	f.result(f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte("urgent"), Class: High}))
	f.result(waits)
	if got := windowed.bodies(t, 1); !slices.Equal(got, []string{"first", "urgent"}) || writes != 1 {
		t.Errorf("%q in %d writes, want both in one", got, writes)
	}
}

// The end of a window, and of a rest, comes by itself.
func TestARoomThatRestsGoesOnByItself(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.MergeWindows = []string{"live=5ms"} })
	c := f.connect(f.buckets[0], 1, inRoomOne("a"))
	for i := range 5 {
		f.on(f.buckets[0], func() { f.buckets[0].rooms[roomOne].rested = time.Now().Add(3 * time.Millisecond) })
		f.result(f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte{byte(i)}}))
	}
	if got := c.bodies(t, 1); len(got) != 5 {
		t.Errorf("%d of 5 came", len(got))
	}
}

func TestMergeWindowsAreChecked(t *testing.T) {
	for _, bad := range []string{"", "live", "live=", "live=0s", "live=1us", "live=11s", "=1s", "live=x"} {
		if _, err := mergeWindows([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := mergeWindows([]string{"a=1s", "a=2s"}); err == nil {
		t.Error("a type was taken twice")
	}
	got, err := mergeWindows([]string{"live=50ms", "chat=1s"})
	if err != nil || got["live"] != 50*time.Millisecond || got["chat"] != time.Second {
		t.Errorf("%v, %v", got, err)
	}
}

// What meets in one turn leaves in one write, also from two rooms and a push
// to the session itself.
func TestRoomsAndUnicastOfATurnAreOneWrite(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 2, `{"key":"a","room_id":"live://1","accepts":[1000]}`)
	f.send(c, 2, wire.OpJoin, 2, `{"rooms":["live://2"]}`)
	waitFor(t, "the join", func() bool { return len(c.bodies(t, wire.OpJoinReply)) == 1 })
	writes := 0
	c.mu.Lock()
	c.onWrite = func() { writes++ }
	c.mu.Unlock()
	f.result(f.dispatch(Push{Op: 1000, Sessions: []uint64{c.session.id}, Body: []byte("for one")},
		Push{Op: 1000, Room: roomOne, Body: []byte("one")}, Push{Op: 1000, Room: "live://2", Body: []byte("two")}))
	if got := c.bodies(t, 1000); !slices.Equal(got, []string{"for one", "one", "two"}) || writes != 1 {
		t.Errorf("%q in %d writes, want all three in one", got, writes)
	}
}
