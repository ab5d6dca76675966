package comet

import (
	"testing"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Symptom: a comet of 100,000 sessions did not answer for seconds when many
// pushes to all with an op that few accept had been queued. Cause: only writes
// were counted against the bounds of a turn, so one turn walked all of them
// over the whole table.
func TestATurnPassesOverABoundedNumberOfSlots(t *testing.T) {
	withTurns(t, func(w *turns) {
		const sessions, pushes = 1000, 20
		var gone []*guest
		for i := range sessions {
			g := w.member(roomOne)
			g.session.accepts = []wire.Op{5}
			if i%2 == 0 {
				gone = append(gone, g)
			}
		}
		for _, g := range gone { // half of the slots are empty
			w.b.Closed(g.session)
		}
		d := &Delivery{Pushes: make([]Push, pushes), Results: make([]PushResult, pushes), done: make(chan struct{})}
		d.hold()
		for i := range d.Pushes {
			d.Pushes[i] = Push{Op: 1, All: true, Body: []byte("x")}
			w.b.pushAll(d, i)
		}
		d.release()
		const most = 64 * passShare // TurnWrites is 64
		passed := func() int {
			n := (pushes - len(w.b.alls)) * sessions
			if len(w.b.alls) > 0 {
				n += w.b.alls[0].next
			}
			return n
		}
		took := 0
		for last := 0; len(w.b.alls) > 0; took++ {
			more := w.b.walkAll()
			w.b.flush()
			if n := passed() - last; n == 0 || n > most {
				t.Errorf("turn %d passed over %d slots, at most %d are allowed", took, n, most)
				return
			}
			if last = passed(); !more && len(w.b.alls) > 0 {
				t.Error("no other turn is asked for")
				return
			}
		}
		if took > 3*sessions*pushes/most {
			t.Errorf("%d turns for %d slots", took, sessions*pushes)
		}
		<-d.Done()
		for i, r := range d.Results {
			if r.Counts != (Counts{Filtered: sessions / 2}) {
				t.Errorf("push %d: %+v", i, r.Counts)
			}
		}
	})
}

// A pace is one of deliveries: who does not accept the op takes nothing of it,
// however many they are.
func TestPassedSlotsTakeNothingOfAPace(t *testing.T) {
	withTurns(t, func(w *turns) {
		for i := range 900 {
			op := wire.Op(5)
			if i%100 == 99 {
				op = 1
			}
			w.member(roomOne).session.accepts = []wire.Op{op}
		}
		d := &Delivery{Pushes: []Push{{Op: 1, All: true, Body: make([]byte, 4), Speed: 50}}, Results: make([]PushResult, 1), done: make(chan struct{})}
		w.b.pushAll(d, 0) // 5 a tick
		for range 10 {
			w.b.walkAll()
		}
		if len(w.b.alls) != 1 || w.b.alls[0].counts != (Counts{Delivered: 5, Filtered: 495}) {
			t.Errorf("%d walks after the first tick; want one with 5 delivered", len(w.b.alls))
			return
		}
		w.b.nowMS += wheelTickMS
		w.b.paceAlls()
		for range 10 {
			w.b.walkAll()
		}
		w.b.flush()
		if len(w.b.alls) != 0 {
			t.Errorf("after the second tick: %+v, want its end", w.b.alls[0].counts)
		}
	})
}

// Symptom: a panic in the walk of a push to all ended the process, and all of
// its sessions. Cause: only the walks of rooms were protected.
func TestAPanicInAPushToAllEndsThatPush(t *testing.T) {
	withTurns(t, func(w *turns) {
		members := []*guest{w.member(roomOne), w.member(roomOne), w.member(roomOne)}
		for _, m := range members {
			m.session.accepts = []wire.Op{1}
		}
		d := &Delivery{Pushes: make([]Push, 2), Results: make([]PushResult, 2), done: make(chan struct{})}
		for i := range d.Pushes {
			d.Pushes[i] = Push{Op: 1, All: true, Body: make([]byte, 4)}
			w.b.pushAll(d, i)
		}
		w.f.panics = 1
		conn := members[1].session.conn
		members[1].session.conn = nil // a write to it panics
		w.b.walkAll()
		members[1].session.conn = conn
		w.turn()
		if len(w.b.alls) != 0 || w.b.backlog != 0 {
			t.Errorf("%d walks are left, %d bytes", len(w.b.alls), w.b.backlog)
		}
		if got := d.Results[0].Counts; got != (Counts{Delivered: 1, NotHere: 2}) {
			t.Errorf("the push: %+v", got)
		}
		if got := d.Results[1].Counts; got != (Counts{Delivered: 3}) {
			t.Errorf("the push behind it: %+v", got)
		}
	})
}
