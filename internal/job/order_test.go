package job_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

const partitions = 3

// traffic is a set of sessions and the pushes to them.
type traffic struct {
	w          *world
	partitions []*stubPartition
	keys       []string
	mids       []int64
	rooms      []string
	sessions   map[uint64]map[message.Timeline]bool // what each listens to
	comet      map[uint64]string

	mu   sync.Mutex
	sent map[message.Timeline]int
}

// newTraffic connects 24 sessions to the comets in turn; every second one is of
// a user, two of whom share each mid; each is in one of three rooms.
func newTraffic(w *world, comets ...string) *traffic {
	tr := &traffic{
		w: w, sessions: map[uint64]map[message.Timeline]bool{}, comet: map[uint64]string{},
		sent: map[message.Timeline]int{},
	}
	for i := range partitions {
		tr.partitions = append(tr.partitions, newStubPartition(w.t, int32(i)))
	}
	for i := range 24 {
		key, comet := fmt.Sprintf("key-%d", i), comets[i%len(comets)]
		var mid int64
		if i%2 == 0 {
			mid = int64(100 + i/4)
		}
		id := w.connect(comet, key, mid)
		room := fmt.Sprintf("live://%d", i%3)
		w.comets[comet].join(id, room)
		listens := map[message.Timeline]bool{
			message.ToKey(key).Timeline(): true, message.ToRoom(room).Timeline(): true, message.AllTimeline: true,
		}
		if mid != 0 {
			listens[message.ToUser(mid).Timeline()] = true
			tr.mids = append(tr.mids, mid)
		}
		tr.keys, tr.rooms = append(tr.keys, key), append(tr.rooms, room)
		tr.sessions[id], tr.comet[id] = listens, comet
	}
	return tr
}

// push sends one message to a random target; the records of one partition may
// hold several keys and users, each with its own number in its timeline.
func (tr *traffic) push(rng *rand.Rand) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var target message.Target
	switch rng.IntN(10) {
	case 0:
		target = message.ToAll(0)
	case 1, 2, 3:
		target = message.ToRoom(tr.rooms[rng.IntN(len(tr.rooms))])
	case 4, 5:
		target = message.ToUser(tr.mids[rng.IntN(len(tr.mids))])
	default:
		target = message.ToKey(tr.keys[rng.IntN(len(tr.keys))])
	}
	tl := target.Timeline()
	tr.partitions[tl.Partition(partitions)].append(text(tl, tr.sent[tl]), target)
	tr.sent[tl]++
}

// check applies the checker to every session.
func (tr *traffic) check() {
	tr.w.t.Helper()
	for id, listens := range tr.sessions {
		want := map[message.Timeline]int{}
		for tl := range listens {
			want[tl] = tr.sent[tl]
		}
		if err := checkSession(tr.w.comets[tr.comet[id]].bodies(id), want); err != nil {
			tr.w.t.Errorf("session %d on %s: %v", id, tr.comet[id], err)
		}
	}
}

func (tr *traffic) committed() {
	tr.w.t.Helper()
	checkFor(tr.w.t, "committing", func() error {
		for _, p := range tr.partitions {
			if err := p.behind(); err != nil {
				return err
			}
		}
		return nil
	})
}

// misbehave breaks, delays and mutes the comets, and the logics, until stop;
// then all are well again.
func (w *world) misbehave(rng *rand.Rand, stop <-chan struct{}) {
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			for _, c := range w.comets {
				c.set(func() { c.mute, c.delay = 0, 0 })
			}
			w.logics[0].set("")
			return
		}
		for _, c := range w.comets {
			switch rng.IntN(8) {
			case 0:
				c.breakStreams()
			case 1:
				c.set(func() { c.mute = 1 + rng.IntN(3) })
			case 2:
				c.set(func() { c.delay = time.Duration(rng.IntN(3)) * time.Millisecond })
			}
		}
		w.logics[0].set([]string{"", "", "", "break", "error"}[rng.IntN(5)])
	}
}

// repeats is how many pushes reached a comet once more.
func (w *world) repeats() (n int) {
	for _, c := range w.comets {
		c.set(func() { n += c.repeats })
	}
	return n
}

func TestOrderUnderBrokenStreamsAndSlowComets(t *testing.T) {
	w := newWorld(t, "a", "b")
	tr := newTraffic(w, "a", "b")
	cfg := testConfig()
	cfg.LaneWindow, cfg.MaxBatchPushes = 3, 7 // many batches, many of them unanswered
	j := w.job(cfg)
	var workers []*running
	for _, p := range tr.partitions {
		workers = append(workers, j.work(p))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w.misbehave(rand.New(rand.NewPCG(1, 2)), stop)
	}()
	var producers sync.WaitGroup
	deadline := time.Now().Add(patience)
	for i := range 4 {
		producers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			for n := 0; n < 1500 || w.repeats() == 0 && time.Now().Before(deadline); n++ {
				tr.push(rng)
				if n > 1500 || rng.IntN(20) == 0 {
					<-time.After(time.Millisecond) // spreads the pushes over the misbehaviour
				}
			}
		})
	}
	producers.Wait()
	close(stop)
	<-stopped
	tr.committed()
	tr.check()
	if w.repeats() == 0 {
		t.Error("no push was sent again: the streams never broke at a bad moment")
	}
	for _, o := range []job.Outcome{job.NotHere, job.Unreachable, job.Slow, job.Offline} {
		if n := j.dispatched.Value(int(o)); n != 0 {
			t.Errorf("%d targets ended as %v", n, o)
		}
	}
	for _, r := range workers {
		r.revoke()
		if err := r.ended(t); err != nil {
			t.Error(err)
		}
	}
	if n := j.laneBytes.Value(); n != 0 {
		t.Errorf("%d bytes counted in empty lanes", n)
	}
}

// A worker that loses its partition while comets do not answer gives up within
// its budget; the next owner replays. Nothing is doubled, nothing is missing.
func TestRevokeInFlightThenReplayElsewhere(t *testing.T) {
	w := newWorld(t, "a", "b")
	tr := newTraffic(w, "a", "b")
	first, second := w.job(testConfig()), w.job(testConfig())
	rng := rand.New(rand.NewPCG(3, 4))
	var workers []*running
	for _, p := range tr.partitions {
		workers = append(workers, first.work(p))
	}
	for range 500 {
		tr.push(rng)
	}
	checkFor(t, "something committed", func() error {
		if w.comets["a"].bodies(1) == nil {
			return fmt.Errorf("nothing yet")
		}
		return nil
	})
	release := w.comets["b"].hold() // answers nothing from now on
	for range 1500 {
		tr.push(rng)
	}
	checkFor(t, "pushes without an answer", func() (err error) {
		b := w.comets["b"]
		b.set(func() {
			if b.waiting == 0 {
				err = fmt.Errorf("none")
			}
		})
		return err
	})
	for _, r := range workers {
		r.revoke()
	}
	left := 0
	for _, r := range workers {
		r.cancel() // the budget is over
		if r.ended(t) != nil {
			left++
		}
	}
	if left == 0 {
		t.Fatal("nothing was in flight at the revocation")
	}
	for _, p := range tr.partitions {
		workers = append(workers, second.work(p))
	}
	for range 500 {
		tr.push(rng)
	}
	release()
	tr.committed()
	tr.check()
}

// The same with owners that change all the time, one of them a zombie: its
// lanes still hold what it gave up.
func TestOwnersTakeTurns(t *testing.T) {
	w := newWorld(t, "a", "b")
	tr := newTraffic(w, "a", "b")
	cfg := testConfig()
	cfg.MaxBatchPushes = 5
	jobs := []*testJob{w.job(cfg), w.job(cfg)}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w.misbehave(rand.New(rand.NewPCG(5, 6)), stop)
	}()
	rng := rand.New(rand.NewPCG(8, 9))
	for turn := range 20 {
		var workers []*running
		for _, p := range tr.partitions {
			workers = append(workers, jobs[turn%2].work(p))
		}
		for range 200 {
			tr.push(rng)
		}
		for _, r := range workers {
			if rng.IntN(2) == 0 {
				r.cancel() // no budget at all
			}
			r.revoke()
			time.AfterFunc(20*time.Millisecond, r.cancel)
			_ = r.ended(t)
		}
	}
	for _, p := range tr.partitions {
		jobs[0].work(p)
	}
	close(stop)
	<-stopped
	tr.committed()
	tr.check()
}
