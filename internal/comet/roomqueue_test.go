package comet

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomQueue(t *testing.T) {
	var q roomQueue
	in, out := 0, 0
	rooms := make([]Room, 1000)
	for step := range 5000 {
		if in < len(rooms) && (q.len() == 0 || step%5 < 3) {
			q.push(&rooms[in])
			in++
			continue
		}
		if q.len() == 0 {
			break
		}
		if first := q.first(); first != &rooms[out] || q.pop() != first {
			t.Fatalf("room %d is not the first", out)
		}
		out++
	}
	if out != len(rooms) || q.len() != 0 || cap(q.rooms) > len(rooms) {
		t.Errorf("%d of %d came out, %d are left, in a slice of %d", out, len(rooms), q.len(), cap(q.rooms))
	}
}

// Symptom: with thousands of rooms in their merge windows each turn of the loop
// was long. Cause: a turn looked at each of them, and copied the list each time.
func TestRoomsThatRestAreNotLookedAt(t *testing.T) {
	withTurns(t, func(w *turns) {
		now := time.Now()
		var resting []*Room
		for i := range 100 {
			name := w.room(fmt.Sprintf("live://%d", i), 1)
			r := w.b.rooms[name]
			r.rested = now.Add(time.Hour + time.Duration((i*37)%100)*time.Minute)
			w.push(name, []byte{0, 0, 0, 0})
			resting = append(resting, r)
		}
		w.turn()
		if w.b.fresh.len()+w.b.walking.len() > 0 || len(w.b.resting) != len(resting) {
			t.Fatalf("%d and %d rooms are walked, %d rest", w.b.fresh.len(), w.b.walking.len(), len(w.b.resting))
		}
		// They go on in the order in which their rests end.
		w.b.rouse(now.Add(time.Hour + 49*time.Minute + time.Second))
		if w.b.walking.len() != 50 || len(w.b.resting) != 50 {
			t.Fatalf("half of the time: %d go on, %d rest", w.b.walking.len(), len(w.b.resting))
		}
		if rooms := w.b.walking.rooms; !slices.IsSortedFunc(rooms, func(a, b *Room) int { return a.rested.Compare(b.rested) }) {
			t.Error("not in the order of their rests")
		}
		// Whoever need not rest any more goes on, from anywhere in the heap.
		for i, r := range resting {
			if r.restsAt > 0 && i%2 == 0 {
				r.rested = time.Time{}
				w.b.hasten(r, time.Now())
			}
		}
		before := len(w.b.resting)
		w.b.rouse(time.Now())
		for _, r := range w.b.resting {
			if r.rested.IsZero() {
				t.Error("a room that need not rest is not roused")
			}
		}
		if len(w.b.resting) == before {
			t.Error("nobody was roused")
		}
	})
}

// Symptom: a room with a merge window of 200 ms that got a push with the same
// conflation key every 100 ms never got any. Cause: the push that took the place
// of the one that waited opened the window anew.
func TestConflationDoesNotHoldAWindowOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, func(c *Config) { c.MergeWindows = []string{"live=200ms"} })
		c := f.connect(f.buckets[0], 1, inRoomOne("a"))
		var last *Delivery
		for i := range 20 {
			last = f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte{byte(i)}, Conflate: "score"})
			time.Sleep(90 * time.Millisecond) // on the clock of synctest
		}
		f.result(last)
		if got := c.bodies(t, 1); len(got) < 5 || got[len(got)-1] != string([]byte{19}) {
			t.Errorf("%d of 20 pushes in 1.8 s came, with a window of 200 ms", len(got))
		}
	})
}

// Symptom: a room in a merge window of 5 s kept the loop from pushes to
// everybody else. Cause: what waited in it filled the loop's backlog, and only
// the end of the window made space.
func TestAFullWindowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, func(c *Config) {
			c.MergeWindows = []string{"live=5s"}
			c.RoundBytes, c.BacklogBytes = 16<<10, 64<<10
		})
		f.connect(f.buckets[0], 1, inRoomOne("a"))
		other := f.connect(f.buckets[0], 1, `{"mid":2,"key":"b"}`)
		began := time.Now()
		for range 100 {
			f.dispatch(Push{Op: 1, Room: roomOne, Body: make([]byte, 1000)})
		}
		f.result(f.dispatch(Push{Op: 1, Sessions: []uint64{other.session.id}, Body: []byte("hi")}))
		if took := time.Since(began); took >= time.Second {
			t.Errorf("a push to somebody else took %s", took)
		}
	})
}

// Symptom: a push with a conflation key took long in a room that was far behind.
// Cause: all that waited was looked through for its key, though none had it.
func TestConflationKeys(t *testing.T) {
	withTurns(t, func(w *turns) {
		r := w.b.rooms[w.room(roomOne, 200)]
		push := func(key string) *Delivery {
			d := &Delivery{Pushes: []Push{{Op: 1, Room: roomOne, Body: make([]byte, 4), Conflate: key}}, Results: make([]PushResult, 1), done: make(chan struct{})}
			d.hold()
			w.b.pushRoom(r, d, 0)
			d.release()
			return d
		}
		keys := func() []string {
			var all []string
			for k := range r.keys {
				all = append(all, k)
			}
			slices.Sort(all)
			return all
		}
		push("")
		push("a")
		push("b")
		if got := keys(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("keys %q", got)
		}
		w.turn() // under way
		push("a")
		push("a") // takes the place of one that waits
		push("c")
		if got := keys(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("keys %q", got)
		}
		for r.busy() {
			w.turn()
		}
		if got := keys(); len(got) > 0 {
			t.Errorf("keys %q, and no pushes", got)
		}
		again := push("a")
		for r.busy() {
			w.turn()
		}
		if got := again.Results[0].Counts; got.Delivered != 200 {
			t.Errorf("%+v", got)
		}
	})
}

// Symptom: a panic in the walk of a room came back in every turn, for ever.
// Cause: the room stayed where the next turn would walk it.
func TestAPanicInAWalkEndsItsPushes(t *testing.T) {
	withTurns(t, func(w *turns) {
		room, other := w.room(roomOne, 3), w.room("live://2", 1)
		r := w.b.rooms[room]
		d := &Delivery{Pushes: []Push{{Op: 1, Room: room, Body: make([]byte, 4), Conflate: "k"}}, Results: make([]PushResult, 1), done: make(chan struct{})}
		d.hold()
		w.b.pushRoom(r, d, 0)
		d.release()
		w.f.panics = 1
		r.members[1].next = 1000 // a push that there is not
		w.push(other, make([]byte, 4))
		if n := w.turn(); n[other] != 1 {
			t.Errorf("%v: the other room has no push", n)
		}
		w.turn()
		if n := w.b.gateway.stats.panics.Value(); n != 1 {
			t.Errorf("%v panics", n)
		}
		if got := d.Results[0].Counts; got.NotHere != 3 || r.busy() || r.bytes != 0 || w.b.backlog != 0 || len(r.keys) != 0 {
			t.Errorf("%+v, %d bytes in the room, %d on the loop", got, r.bytes, w.b.backlog)
		}
		w.push(room, []byte{0, 0, 0, 1})
		if n := w.turn(); n[room] != 3 {
			t.Errorf("%v: the room gets no more pushes", n)
		}
	})
}
