package job_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

func committed(t *testing.T, p *stubPartition) {
	t.Helper()
	checkFor(t, "committing", p.behind)
}

// one starts a job with one worker on one partition.
func (w *world) one(cfg job.Config) (*testJob, *stubPartition, *running) {
	j, p := w.job(cfg), newStubPartition(w.t, 0)
	return j, p, j.work(p)
}

// waitQueued waits until the lanes hold the first n messages of text("k:k", i).
func (j *testJob) waitQueued(n int) {
	j.t.Helper()
	want := int64(0)
	for i := range n {
		want += int64(len(text("k:k", i).Body)) + 8 + 128 // one session, and what a push takes itself
	}
	checkFor(j.t, "queued", func() error {
		if b := j.laneBytes.Value(); b != want {
			return fmt.Errorf("%d bytes wait, want %d", b, want)
		}
		return nil
	})
}

// lanesOpen waits until the job's lanes to the comets are open and their room
// indexes known.
func (w *world) lanesOpen(lanes int, comets ...*stubComet) {
	w.t.Helper()
	for _, c := range comets {
		checkFor(w.t, "lanes", func() error { return errors.Join(c.open(lanes), c.indexed(1)) })
	}
}

// A comet that restarted under its name and address, while logic still lists
// the earlier life: its sessions are gone, and the record must not wait for the
// dispatch timeout to learn it.
func TestAnotherIncarnationAtTheAddress(t *testing.T) {
	w := newWorld(t, "a")
	a := w.comets["a"]
	w.connect("a", "k", 0)
	j, p, _ := w.one(testConfig())
	w.lanesOpen(4, a)
	a.restart()
	p.append(text("k:k", 0), message.ToKey("k"))
	committed(t, p)
	j.wantOutcomes(map[job.Outcome]uint64{job.NotHere: 1})

	// The new life takes its lease and gets its own messages, not old ones.
	w.presence.lease(a)
	id := w.connect("a", "k", 0)
	p.append(text("k:k", 0), message.ToKey("k"))
	committed(t, p)
	if err := checkSession(a.bodies(id), map[message.Timeline]int{"k:k": 1}); err != nil {
		t.Error(err)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.NotHere: 1, job.Delivered: 1})
}

// F-003.3: goim's only consumer hung for ever when a removed comet's queue was
// full, because nobody read the queue any more. F-003.4: its pushes vanished.
func TestCometLeavesWhileItsQueueIsFull(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.connect("a", "ka", 0)
	kb := w.connect("b", "kb", 0)
	cfg := testConfig()
	cfg.LaneQueueBytes = 64 << 10
	j, p, r := w.one(cfg)
	a := w.comets["a"]
	w.lanesOpen(4, a)
	defer a.hold()()
	big := message.Message{Op: 1, Body: []byte(strings.Repeat("x", 20<<10))}
	const n = 10
	for range n {
		p.append(big, message.ToKey("ka"))
	}
	checkFor(t, "a full lane", func() error {
		if b := j.laneBytes.Value(); b < 3*20<<10 {
			return fmt.Errorf("%d bytes wait", b)
		}
		return nil
	})
	w.presence.release(a)
	checkFor(t, "left", func() error { return a.open(1) }) // else its targets are unreachable, perhaps
	a.stop()                                               // kill -9: the streams break, nobody answers
	p.append(text("k:kb", 0), message.ToKey("kb"))
	committed(t, p)
	if err := checkSession(w.comets["b"].bodies(kb), map[message.Timeline]int{"k:kb": 1}); err != nil {
		t.Error(err)
	}
	if got := j.dispatched.Value(int(job.NotHere)) + j.dispatched.Value(int(job.Offline)); got != n {
		t.Errorf("%d targets without the comet, want %d", got, n)
	}
	r.revoke()
	if err := r.ended(t); err != nil {
		t.Error(err)
	}
	if b := j.laneBytes.Value(); b != 0 {
		t.Errorf("%d bytes still counted", b)
	}
}

// A comet whose lease ended while its stream is well still gets what is queued.
func TestLeaveFinishesWhatIsQueued(t *testing.T) {
	w := newWorld(t, "a")
	a := w.comets["a"]
	id := w.connect("a", "k", 0)
	j, p, _ := w.one(testConfig())
	w.lanesOpen(4, a)
	release := a.hold()
	for i := range 20 {
		p.append(text("k:k", i), message.ToKey("k"))
	}
	j.waitQueued(20)
	w.presence.release(a)
	checkFor(t, "idle lanes", func() error { return a.open(1) }) // three of four had nothing left
	release()
	committed(t, p)
	checkFor(t, "streams closed", func() error { return a.open(0) })
	if err := checkSession(a.bodies(id), map[message.Timeline]int{"k:k": 20}); err != nil {
		t.Error(err)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 20})
}

// A lease that ended and came back: the lanes of the earlier time finish before
// new ones open. With both open at once, pushes would reach the comet out of
// order, and the late ones would be taken for repeats and lost.
func TestLeaseComesBackWhileLanesFinish(t *testing.T) {
	w := newWorld(t, "a")
	a := w.comets["a"]
	id := w.connect("a", "k", 0)
	j, p, _ := w.one(testConfig())
	w.lanesOpen(4, a)
	release := a.hold()
	for i := range 10 {
		p.append(text("k:k", i), message.ToKey("k"))
	}
	j.waitQueued(10)
	w.presence.release(a)
	checkFor(t, "left", func() error { return a.open(1) })
	a.holdNoMore() // a second stream for the lane would overtake the first
	w.presence.lease(a)
	for i := range 10 {
		p.append(text("k:k", 10+i), message.ToKey("k"))
	}
	j.waitQueued(20)
	release()
	committed(t, p)
	if err := checkSession(a.bodies(id), map[message.Timeline]int{"k:k": 20}); err != nil {
		t.Error(err)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 20})
}

// F-003.6, F-003.7: goim divided by the number of comets, and kept the old list
// when the new one was empty.
func TestZeroCometsIsAState(t *testing.T) {
	w := newWorld(t)
	j, p, _ := w.one(testConfig())
	p.append(text("r:sys://all", 0), message.ToAll(100))
	p.append(text("r:live://1", 0), message.ToRoom("live://1"))
	p.append(text("k:k", 0), message.ToKey("k"), message.ToUser(7))
	committed(t, p)
	j.wantOutcomes(map[job.Outcome]uint64{job.Offline: 2})

	a := w.comet("a")
	id := w.connect("a", "k", 7)
	p.append(text("k:k", 0), message.ToKey("k"))
	p.append(text("r:sys://all", 0), message.ToAll(100))
	committed(t, p)
	want := map[message.Timeline]int{"k:k": 1, message.AllTimeline: 1}
	if err := checkSession(a.bodies(id), want); err != nil {
		t.Error(err)
	}

	w.presence.release(a)
	checkFor(t, "streams closed", func() error { return a.open(0) })
	p.append(text("r:sys://all", 1), message.ToAll(1))
	committed(t, p)
	if err := checkSession(a.bodies(id), want); err != nil {
		t.Error(err)
	}
}

// The real stream of a comet that does not answer is cut after the dispatch
// timeout, and opened again by itself when it does.
func TestSilentCometIsReachedAgain(t *testing.T) {
	w := newWorld(t, "a")
	w.connect("a", "ka", 0)
	cfg := testConfig()
	cfg.DispatchTimeout = time.Second
	j, p, _ := w.one(cfg)
	a := w.comets["a"]
	w.lanesOpen(4, a)
	release := a.hold()
	for i := range 5 {
		p.append(text("k:ka", i), message.ToKey("ka"))
	}
	committed(t, p)
	j.wantOutcomes(map[job.Outcome]uint64{job.Unreachable: 5})
	release()
	id := w.connect("a", "ka", 0)
	// A stalled lane gives a push little time: on a busy machine more than one
	// may be needed.
	checkFor(t, "the lane is open again", func() error {
		p.append(text("k:ka", 0), message.ToKey("ka"))
		committed(t, p)
		if j.dispatched.Value(int(job.Delivered)) == 0 || len(a.bodies(id)) == 0 {
			return errors.New("unreachable still")
		}
		return nil
	})
}

// One that is listed and refuses connections or streams.
func TestRefusingCometIsUnreachable(t *testing.T) {
	for name, refuse := range map[string]func(*stubComet){
		"connections": (*stubComet).stop,
		"streams":     func(c *stubComet) { c.set(func() { c.refuse = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "a")
			refuse(w.comets["a"])
			w.connect("a", "k", 0)
			cfg := testConfig()
			cfg.DispatchTimeout = 200 * time.Millisecond
			j, p, _ := w.one(cfg)
			p.append(text("k:k", 0), message.ToKey("k"))
			p.append(text("r:live://1", 0), message.ToRoom("live://1"))
			p.append(text("r:sys://all", 0), message.ToAll(0))
			committed(t, p)
			j.wantOutcomes(map[job.Outcome]uint64{job.Unreachable: 3})
		})
	}
}

// Several lanes are full at once: each gets the rest when it has room.
func TestSeveralFullLanes(t *testing.T) {
	w := newWorld(t, "a", "b")
	cfg := testConfig()
	cfg.LaneQueueBytes = 64 << 10
	j, p := w.job(cfg), newStubPartition(t, 0)
	release := []func(){w.comets["a"].hold(), w.comets["b"].hold()}
	keys := map[string]uint64{"ka": w.connect("a", "ka", 0), "kb": w.connect("b", "kb", 0)}
	for i := range 10 { // all in one batch
		for key := range keys {
			m := text(message.ToKey(key).Timeline(), i)
			m.Body = append(m.Body, []byte("|"+strings.Repeat("x", 20<<10))...)
			p.append(m, message.ToKey(key))
		}
	}
	j.work(p)
	checkFor(t, "two full lanes", func() error {
		if b := j.laneBytes.Value(); b < 6*20<<10 {
			return fmt.Errorf("%d bytes wait", b)
		}
		return nil
	})
	for _, f := range release {
		f()
	}
	committed(t, p)
	for key, id := range keys {
		c := w.comets[key[1:]]
		var bodies []string
		for _, body := range c.bodies(id) {
			bodies = append(bodies, body[:strings.LastIndex(body, "|")])
		}
		if err := checkSession(bodies, map[message.Timeline]int{message.ToKey(key).Timeline(): 10}); err != nil {
			t.Error(err)
		}
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 20})
}

// A push that is larger than a lane's whole queue goes out alone.
func TestPushLargerThanTheQueue(t *testing.T) {
	w := newWorld(t, "a")
	id := w.connect("a", "k", 0)
	cfg := testConfig()
	cfg.LaneQueueBytes, cfg.MaxBatchBytes = 64<<10, 1<<10
	_, p, _ := w.one(cfg)
	body := strings.Repeat("x", 300<<10)
	for range 3 {
		p.append(message.Message{Op: 1, Body: []byte(body)}, message.ToKey("k"))
	}
	committed(t, p)
	if got := w.comets["a"].bodies(id); len(got) != 3 || got[2] != body {
		t.Errorf("%d messages arrived", len(got))
	}
}

// A target that the comet says nothing about is not silently done.
func TestAnswerWithoutOutcomes(t *testing.T) {
	w := newWorld(t, "a")
	w.connect("a", "k", 0)
	w.comets["a"].set(func() { w.comets["a"].forget = true })
	j, p, _ := w.one(testConfig())
	p.append(text("k:k", 0), message.ToKey("k"))
	committed(t, p)
	j.wantOutcomes(map[job.Outcome]uint64{job.Unreachable: 1})
}

// The topic was made anew while the job runs: lanes go on under its identity,
// and low offsets are not repeats.
func TestTopicMadeAnew(t *testing.T) {
	w := newWorld(t, "a")
	id := w.connect("a", "k", 0)
	j, p, r := w.one(testConfig())
	for i := range 10 {
		p.append(text("k:k", i), message.ToKey("k"))
	}
	committed(t, p)
	r.revoke()
	if err := r.ended(t); err != nil {
		t.Fatal(err)
	}
	p2 := newStubPartition(t, 0)
	p2.log = "push/2"
	j.work(p2)
	for i := range 10 {
		p2.append(text("k:k", 10+i), message.ToKey("k"))
	}
	committed(t, p2)
	if err := checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"k:k": 20}); err != nil {
		t.Error(err)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 20})
}
