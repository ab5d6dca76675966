package comet

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
)

// crowd connects n sessions, in turn on all loops; every fifth does not accept
// op 1.
func (f *fixture) crowd(n int) []*testConn {
	f.t.Helper()
	conns := make([]*testConn, n)
	for i := range conns {
		op := 1
		if i%5 == 4 {
			op = 2
		}
		conns[i] = f.connect(f.buckets[i%len(f.buckets)], 1, fmt.Sprintf(`{"key":"%d","accepts":[%d]}`, i, op))
	}
	return conns
}

func pushesOfOp1(t *testing.T, conns []*testConn) (n int) {
	for _, c := range conns {
		n += len(c.bodies(t, 1))
	}
	return n
}

// reportedShare is what logic was told last about a push.
func (f *fixture) reportedShare(id message.ID) (last Share) {
	f.logic.mu.Lock()
	defer f.logic.mu.Unlock()
	for _, r := range f.logic.refreshes {
		for _, s := range r.Shares {
			if s.ID == id {
				last = s
			}
		}
	}
	return last
}

func (f *fixture) waitShare(id message.ID, what string, ok func(Share) bool) {
	f.t.Helper()
	waitFor(f.t, what, func() bool { return ok(f.reportedShare(id)) })
}

func (f *fixture) cancel(ids ...message.ID) {
	f.logic.mu.Lock()
	defer f.logic.mu.Unlock()
	f.logic.canceled = append(f.logic.canceled, ids...)
}

func quickShares(c *Config) { c.LeaseInterval = 100 * time.Millisecond }

func TestProgressOfPushToAll(t *testing.T) {
	f := newFixture(t, 2, quickShares)
	conns := f.crowd(40)
	id := message.ID{1}
	if r := f.push(Push{Op: 1, Body: []byte("x"), All: true, Speed: 100, Comets: 3, ID: id}); r.Counts != (Counts{}) {
		t.Errorf("answer %+v", r)
	}
	// Of both loops: an earlier report may have been made between them.
	f.waitShare(id, "the first step", func(s Share) bool { return s.Delivered == 10 })
	if s := f.reportedShare(id); s.Finished || s.Comets != 3 || s.Speed != 100 || s.StartedMS != f.clock().UnixMilli() || s.Total != 40 {
		t.Errorf("first report %+v", s)
	}
	for range 10 {
		f.advance(100 * time.Millisecond)
	}
	f.waitShare(id, "the end", func(s Share) bool { return s.Finished })
	if s := f.reportedShare(id); s.Total != 40 || s.Delivered != 32 || s.Filtered != 8 || s.Slow != 0 || s.Canceled != 0 {
		t.Errorf("last report %+v", s)
	}
	if n := pushesOfOp1(t, conns); n != 32 {
		t.Errorf("%d sessions got it", n)
	}
	waitFor(t, "it to be forgotten", func() bool { return !f.g.broadcasts.busy() })
}

// A cancel ends a walk in its middle and one that has not begun, the one
// behind them goes on at once, and all that is not delivered is counted.
func TestCancelPushToAll(t *testing.T) {
	f := newFixture(t, 2, quickShares)
	conns := f.crowd(40)
	first, second, third := message.ID{1}, message.ID{2}, message.ID{3}
	for _, id := range []message.ID{first, second} {
		f.push(Push{Op: 1, Body: []byte("x"), All: true, Speed: 100, ID: id})
	}
	f.push(Push{Op: 1, Body: []byte("y"), All: true, Speed: 1_000_000, ID: third})
	got := pushesOfOp1(t, conns)
	f.waitShare(first, "the first step", func(s Share) bool { return int(s.Delivered) == got })
	f.cancel(first, second)
	for _, id := range []message.ID{first, second, third} {
		f.waitShare(id, "the end", func(s Share) bool { return s.Finished })
	}
	one, two, three := f.reportedShare(first), f.reportedShare(second), f.reportedShare(third)
	if int(one.Delivered) != got || one.Delivered+one.Canceled != 32 || one.Filtered != 8 || one.Total != 40 {
		t.Errorf("the one under way: %+v, %d were delivered", one, got)
	}
	if two.StartedMS != 0 || two.Delivered != 0 || two.Canceled != 32 || two.Filtered != 8 || two.Total != 40 {
		t.Errorf("the one that waited: %+v", two)
	}
	if three.Delivered != 32 || three.Canceled != 0 {
		t.Errorf("the one behind: %+v", three)
	}
	if n := pushesOfOp1(t, conns); n != got+32 {
		t.Errorf("%d pushes, want %d", n, got+32)
	}
	if n := f.g.stats.outcomes.Value(int(Canceled)); n != uint64(one.Canceled+two.Canceled) {
		t.Errorf("%d counted as canceled", n)
	}
	for i, b := range f.buckets {
		f.on(b, func() {
			if b.paced != 0 || len(b.alls) != 0 {
				t.Errorf("loop %d has %d bytes in %d walks left", i, b.paced, len(b.alls))
			}
		})
	}
}

// One that is canceled before it comes reaches nobody, and its answer says so.
func TestCancelBeforePushToAllComes(t *testing.T) {
	f := newFixture(t, 2, quickShares)
	conns := f.crowd(10)
	id := message.ID{1}
	f.cancel(id)
	waitFor(t, "the cancel", func() bool { return f.g.broadcasts.isCanceled(id) })
	if r := f.push(Push{Op: 1, Body: []byte("x"), All: true, Speed: 100, ID: id}); r.Counts != (Counts{Filtered: 2, Canceled: 8}) {
		t.Errorf("answer %+v", r)
	}
	f.waitShare(id, "the report", func(s Share) bool { return s.Finished && s.Canceled == 8 && s.Filtered == 2 && s.Total == 10 })
	if n := pushesOfOp1(t, conns); n != 0 {
		t.Errorf("%d sessions got it", n)
	}
	// An id has no power over what has no speed.
	if r := f.push(Push{Op: 1, Body: []byte("x"), All: true, ID: id}); r.Delivered != 8 {
		t.Errorf("without a speed: %+v", r)
	}
}

// What has no room is told as slow; and a report that logic did not take is
// made again.
func TestSharesAreReportedUntilTaken(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.BacklogBytes = 64 << 10; quickShares(c) })
	f.crowd(5)
	f.logic.mu.Lock()
	f.logic.fail = errors.New("presence is away")
	f.logic.mu.Unlock()
	ids := []message.ID{{1}, {2}}
	for _, id := range ids {
		f.push(Push{Op: 1, Body: make([]byte, 40<<10), All: true, Speed: 10, ID: id})
	}
	f.waitShare(ids[1], "a report in vain", func(s Share) bool { return s.Finished })
	if s := f.reportedShare(ids[1]); s.Slow != 4 || s.Filtered != 1 || s.Delivered != 0 {
		t.Errorf("without room: %+v", s)
	}
	f.logic.mu.Lock()
	f.logic.fail = nil
	f.logic.mu.Unlock()
	for range 20 {
		f.advance(100 * time.Millisecond)
	}
	waitFor(t, "all to be taken", func() bool { return !f.g.broadcasts.busy() })
}

// A share is finished when no loop has the push any more, also when a dispatch
// was given up half way and is made again.
func TestShareOfADispatchThatIsGivenUp(t *testing.T) {
	s := newBroadcasts()
	pushes := []Push{{All: true, Speed: 1, ID: message.ID{1}}, {All: true, ID: message.ID{2}}}
	units := []bucketBatch{{units: []unit{{0, -1}, {1, -1}}}, {units: []unit{{0, -1}}}}
	finished := func() bool { return s.report()[0].Finished }
	end := func() { s.progress(pushes[0].ID, func(sh *runningShare) { sh.loops-- }) }

	s.expect(&pushes[0], 2)
	s.forgo(pushes, units[1:])
	if finished() {
		t.Error("finished before its loop is")
	}
	end()
	if !finished() {
		t.Error("not finished when its loop is")
	}
	s.expect(&pushes[0], 1)
	if finished() {
		t.Error("finished before it was made again")
	}
	list := s.report()
	list[0].Finished = true // told before it was made again
	if s.reported(list); !s.busy() {
		t.Error("forgotten before its end")
	}
	end()
	if s.reported(s.report()); s.busy() {
		t.Error("not forgotten at its end")
	}
}

func TestSharesAreBounded(t *testing.T) {
	s := newBroadcasts()
	for i := range 2 * maxShares {
		s.expect(&Push{All: true, Speed: 1, ID: message.ID{byte(i >> 8), byte(i)}}, 1)
	}
	if n := len(s.report()); n != maxShares {
		t.Errorf("%d shares, want %d", n, maxShares)
	}
}
