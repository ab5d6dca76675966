package comet

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// turns is a bucket whose turns are taken by hand, with the rooms of the writes
// in their order.
type turns struct {
	t     *testing.T
	f     *fixture
	b     *Bucket
	order []string
}

// withTurns runs a test on the loop of a bucket with turns of 64 writes.
func withTurns(t *testing.T, fn func(*turns)) {
	f := newFixture(t, 1, func(c *Config) { c.TurnWrites = 64 })
	f.g.maxSessions = 1000
	w := &turns{t: t, f: f, b: f.buckets[0]}
	f.on(w.b, func() {
		fn(w)
		for _, r := range w.b.rooms {
			r.rested, r.due = time.Time{}, time.Time{}
			w.b.hasten(r, time.Now())
		}
		for w.b.fresh.len()+w.b.walking.len()+len(w.b.resting) > 0 {
			w.turn()
		}
		for i := range w.b.slots {
			if s := w.b.slots[i].s; s != nil {
				w.b.Closed(s)
			}
		}
	})
}

func (w *turns) member(room string) *guest {
	g := &guest{t: w.t}
	g.session = w.b.Open(g, Stream, netip127())
	g.session.state, g.session.ver = live, 1
	w.b.join(g.session, room)
	var wrote func()
	wrote = func() {
		w.order = append(w.order, room)
		g.onWrite = wrote
	}
	g.onWrite = wrote
	return g
}

// room makes a room with members and returns its name.
func (w *turns) room(name string, members int) string {
	for range members {
		w.member(name)
	}
	return name
}

func (w *turns) push(room string, body []byte) {
	d := &Delivery{Pushes: []Push{{Op: 1, Room: room, Body: body}}, Results: make([]PushResult, 1), done: make(chan struct{})}
	d.hold()
	w.b.pushRoom(w.b.rooms[room], d, 0)
	d.release()
}

// turn returns how many writes each room got.
func (w *turns) turn() map[string]int {
	w.order = w.order[:0]
	w.b.walkAll()
	w.b.flush()
	n := map[string]int{}
	for _, room := range w.order {
		n[room]++
	}
	return n
}

// A room that gets a push while the round of a big one is under way has it in
// the next turn, before the big one's share; and however many small rooms get
// pushes all the time, about half of the writes are the big one's, also while
// other rooms rest.
func TestASmallRoomDoesNotWaitForABigOne(t *testing.T) {
	withTurns(t, func(w *turns) {
		const small = 50
		body := make([]byte, 4)
		big := w.room(roomOne, 400)
		var others []string
		for i := range 4 {
			others = append(others, w.room(fmt.Sprintf("live://small-%d", i), small))
		}
		w.push(big, body)
		if n := w.turn(); n[big] != 64 {
			t.Errorf("alone: %v, want 64 writes", n)
		}
		w.push(others[0], body)
		if n := w.turn(); n[others[0]] != small || n[big] != 64-small || w.order[0] != others[0] {
			t.Errorf("%v, %s first; want all %d of the small room, and then the big one", n, w.order[0], small)
		}
		for i := range 5 {
			name := w.room(fmt.Sprintf("live://resting-%d", i), 1)
			w.b.rooms[name].rested = time.Now().Add(time.Hour)
			w.push(name, body)
		}
		all := map[string]int{}
		for range 6 {
			for _, name := range others {
				if !w.b.rooms[name].listed {
					w.push(name, body)
				}
			}
			for room, n := range w.turn() {
				all[room] += n
			}
		}
		if n := all[big]; n < 6*64*4/10 || n > 6*64*7/10 {
			t.Errorf("%v in 6 turns of 64: %d are the big room's", all, n)
		}
	})
}

// What counts is writes, not rooms: pushes to many tiny rooms do not wait for a
// share of the big one each.
func TestTinyRoomsShareATurn(t *testing.T) {
	withTurns(t, func(w *turns) {
		body := make([]byte, 4)
		big := w.room(roomOne, 400)
		w.push(big, body)
		w.turn()
		for i := range 60 {
			w.push(w.room(fmt.Sprintf("live://tiny-%d", i), 1), body)
		}
		if n := w.turn(); len(n) != 61 || n[big] != 4 || slices.Index(w.order, big) != 60 {
			t.Errorf("%d rooms and %d writes of the big one, which begin at %d; want all 60 tiny ones first", len(n), n[big], slices.Index(w.order, big))
		}
	})
}

// Large runs are written at once, but not before the small ones of that turn.
// Who is in both rooms gets both, each once.
func TestSmallRunsLeaveBeforeLargeOnes(t *testing.T) {
	withTurns(t, func(w *turns) {
		large := make([]byte, shareBytes)
		big, small := w.room(roomOne, 100), w.room("live://2", 10)
		both := w.member(big)
		w.b.join(both.session, small)
		w.push(big, large)
		w.turn()
		w.push(small, []byte{0, 0, 0, 1})
		if n := w.turn(); slices.Index(w.order, big) < 10 || n[small] != 10 {
			t.Errorf("%v: the first of the big room is number %d; want all of the small room before", n, slices.Index(w.order, big))
		}
		for w.b.walking.len() > 0 {
			w.turn()
		}
		slices.Sort(both.got)
		if !slices.Equal(both.got, []int{0, 1}) {
			t.Errorf("a member of both got %v", both.got)
		}
	})
}

// Symptom: the loop looked at no socket for long. Cause: a turn took 64 batches
// of pushes, however many sessions they were to.
func TestATurnTakesABoundedNumberOfTargets(t *testing.T) {
	f := newFixture(t, 1, nil)
	b := f.buckets[0]
	c := f.connect(b, 1, `{"mid":1,"key":"a","accepts":[1]}`)
	entered, release := make(chan struct{}), make(chan struct{})
	b.post(func(*Bucket) { close(entered); <-release })
	<-entered
	const batches, targets = 8, 1000
	var all []*Delivery
	for range batches {
		to := make([]uint64, targets)
		for i := range to {
			to[i] = c.session.id
		}
		all = append(all, f.dispatch(Push{Op: 1, Sessions: to, Body: []byte{1}}))
	}
	if _, bytes := b.pushes.Len(); bytes < batches*targets*unitBytes {
		t.Errorf("%d bytes wait in the mailbox, of %d targets", bytes, batches*targets)
	}
	writes := 0 // a session has one a turn
	c.mu.Lock()
	c.onWrite = func() { writes++ }
	c.mu.Unlock()
	close(release)
	for _, d := range all {
		f.result(d)
	}
	f.on(b, func() {
		// Five batches reach the bound, three are left.
		if got := len(c.bodies(t, 1)); writes != 2 || got != batches*targets {
			t.Errorf("%d of %d pushes in %d turns, want 2", got, batches*targets, writes)
		}
	})
}
