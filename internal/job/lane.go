package job

import (
	"context"
	"sync"
	"time"
)

// lane is one ordered way to a comet: a queue bounded in bytes, and a stream
// that is opened again whenever it breaks. What was sent and not answered goes
// back to the front of the queue when the stream breaks.
//
// Any goroutine may offer; the goroutine of run sends; one goroutine per
// stream receives; a timer expires. They meet under mu, which none holds
// while it waits or calls out.
type lane struct {
	comet *comet
	job   *Job
	index int
	wake  chan struct{} // capacity 1: there may be something to send

	mu      sync.Mutex
	log     string  // log that the stream carries
	queue   fifo    // waits to be sent
	sent    []batch // waits for its answer, oldest first
	bytes   int64   // of queue and sent
	movedAt since   // last answer, or the first push after everything was answered
	stalled bool    // pushes expired since the last answer
	refused bool    // nobody listens at the comet's address
	space   chan struct{}
	closed  bool
	opening int                // number of the stream: answers of others are void
	cut     context.CancelFunc // ends the stream; nil while there is none
	timer   *time.Timer        // runs while the lane is not empty
	armed   bool
	spare   [][]delivery // memory of answered batches
}

// A lane is stalled when pushes expired in it and nothing was answered since:
// the comet has been silent for a whole dispatch timeout already. New pushes
// then get a small share of the timeout only. Otherwise a partition, whose
// records in flight are bounded, would crawl at the pace of expiry for as long
// as the comet is silent, with all its neighbours.
const stalledShare = 20

// answerShare of the dispatch timeout is what a comet gets for the answer to a
// batch that waited long before it was sent.
const answerShare = 4

// batch is what one Send carried.
type batch struct {
	deliveries []delivery
	answerBy   since
}

func newLane(c *comet, index int, log string) *lane {
	l := &lane{comet: c, job: c.job, index: index, log: log, wake: make(chan struct{}, 1)}
	l.timer = time.AfterFunc(time.Hour, l.expire)
	l.timer.Stop()
	return l
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// offer queues, in order, as many of ds as there is room for and returns how
// many those were. It does not wait. A closed lane takes none; one whose comet
// is dead drops them all.
func (l *lane) offer(ds []delivery) (taken int, closed bool) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, true
	}
	if l.refused {
		l.mu.Unlock()
		l.job.drop(ds, Unreachable)
		return len(ds), false
	}
	now := l.job.now()
	due := now + since(l.job.cfg.DispatchTimeout)
	if l.stalled {
		due = now + since(l.job.cfg.DispatchTimeout/stalledShare)
	}
	var bytes int64
	for taken < len(ds) {
		size := ds[taken].size
		if l.bytes > 0 && l.bytes+size > l.job.cfg.LaneQueueBytes {
			break // an empty lane takes a push of any size
		}
		if l.bytes == 0 && !l.stalled {
			l.movedAt = now
		}
		d := ds[taken]
		d.due = due
		l.queue.push(d)
		l.bytes += size
		bytes += size
		taken++
	}
	if taken > 0 && !l.armed {
		l.arm(now, due)
	}
	l.mu.Unlock()
	if taken > 0 {
		l.job.meter.laneBytes.Add(bytes)
		l.nudge()
	}
	return taken, false
}

// put queues all of ds in order. It waits for space until the lane has stood
// still for the dispatch timeout, or until giveUp; left are those that found
// no space. The error is that of ctx, or of a closed lane.
func (l *lane) put(ctx context.Context, ds []delivery, giveUp since) (left []delivery, err error) {
	var timer *time.Timer
	for {
		n, closed := l.offer(ds)
		ds = ds[n:]
		if closed {
			return ds, errLaneClosed
		}
		if len(ds) == 0 {
			return nil, nil
		}
		space, movedAt := l.awaitSpace(ds[0].size)
		if space == nil {
			continue
		}
		until := min(giveUp, movedAt+since(l.job.cfg.DispatchTimeout)) - l.job.now()
		if until <= 0 {
			return ds, nil
		}
		if timer == nil {
			timer = time.NewTimer(time.Duration(until))
			defer timer.Stop()
		} else {
			timer.Reset(time.Duration(until))
		}
		select {
		case <-space:
		case <-timer.C:
		case <-ctx.Done():
			return ds, ctx.Err()
		}
	}
}

// awaitSpace returns a channel that is closed when it is worth trying again to
// offer size bytes, or nil when it is now.
func (l *lane) awaitSpace(size int64) (<-chan struct{}, since) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.bytes == 0 || l.bytes+size <= l.job.cfg.LaneQueueBytes {
		return nil, l.movedAt
	}
	if l.space == nil {
		l.space = make(chan struct{})
	}
	return l.space, l.movedAt
}

// release gives bytes back; mu is held.
func (l *lane) release(bytes int64) {
	l.bytes -= bytes
	if l.space != nil {
		close(l.space)
		l.space = nil
	}
}

// attach makes a new stream the one whose answers count.
func (l *lane) attach(cut context.CancelFunc) (number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opening++
	l.cut = cut
	return l.opening
}

// detach puts what the stream has not answered back to the front of the queue.
func (l *lane) detach(number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opening == number {
		l.cutLocked()
	}
}

// cutLocked ends the stream, if there is one; mu is held.
func (l *lane) cutLocked() {
	l.opening++
	if l.cut != nil {
		l.cut()
		l.cut = nil
	}
	if len(l.sent) == 0 {
		return
	}
	var again []delivery
	for _, b := range l.sent {
		again = append(again, b.deliveries...)
	}
	l.queue.putBack(again)
	l.sent = nil
}

// next is what the sender does with what take returned.
type next int

const (
	wait    next = iota // nothing to send now
	send                // send the batch
	reopen              // the queue goes on in another log: open a stream for it
	retired             // the comet left and the lane is empty
)

// take moves the head of the queue to sent, as one batch: all that waits, up
// to the limits. The batch is appended to buf. What belongs to an abandoned
// claim is thrown away: its next owner replays it. As abandoning is for ever,
// take throws away all that follows of that claim too, and leaves no gap in
// what the comet sees.
func (l *lane) take(number int, buf []Push) ([]Push, next) {
	cfg := &l.job.cfg
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opening != number || len(l.sent) >= cfg.LaneWindow {
		return buf, wait
	}
	var out []delivery
	var bytes, dropped int64
	i, action := 0, wait
	queue := l.queue.waiting()
	for ; i < len(queue); i++ {
		d := &queue[i]
		w := d.record.work
		if w.abandoned.Load() {
			dropped += d.size
			continue
		}
		if w.log != l.log {
			if len(out) == 0 && len(l.sent) == 0 {
				l.log, action = w.log, reopen
			}
			break
		}
		if len(out) > 0 && (bytes+d.size > int64(cfg.MaxBatchBytes) || len(out) >= cfg.MaxBatchPushes) {
			break
		}
		if out == nil {
			out = l.memory()
		}
		out = append(out, *d)
		buf = append(buf, d.push())
		bytes += d.size
	}
	l.queue.drop(i)
	if dropped > 0 {
		l.release(dropped)
		l.job.meter.laneBytes.Add(-dropped)
	}
	if len(out) > 0 {
		by := max(out[0].due, l.job.now()+since(cfg.DispatchTimeout/answerShare))
		l.sent = append(l.sent, batch{out, by})
		return buf, send
	}
	if action == wait && l.bytes == 0 && l.comet.present.Err() != nil {
		return buf, retired
	}
	return buf, action
}

// memory returns an empty batch; mu is held.
func (l *lane) memory() []delivery {
	if n := len(l.spare); n > 0 {
		m := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return m
	}
	return make([]delivery, 0, 16)
}

// recycle keeps the memory of an answered batch for the next.
func (l *lane) recycle(ds []delivery) {
	clear(ds)
	l.mu.Lock()
	if len(l.spare) < 2 {
		l.spare = append(l.spare, ds[:0])
	}
	l.mu.Unlock()
}

// answer resolves the oldest batch of the stream. It is false when the results
// do not fit the batch.
func (l *lane) answer(number int, results []Result) bool {
	l.mu.Lock()
	if l.opening != number {
		l.mu.Unlock()
		return true
	}
	if len(l.sent) == 0 || len(l.sent[0].deliveries) != len(results) {
		l.mu.Unlock()
		return false
	}
	ds := l.sent[0].deliveries
	n := copy(l.sent, l.sent[1:])
	l.sent[n] = batch{}
	l.sent = l.sent[:n]
	bytes := sizes(ds)
	l.release(bytes)
	l.movedAt, l.stalled = l.job.now(), false
	more := len(l.queue.waiting()) > 0 || l.comet.present.Err() != nil
	l.mu.Unlock()
	if more {
		l.nudge()
	}
	l.job.meter.laneBytes.Add(-bytes)
	l.job.settle(ds, results)
	l.recycle(ds)
	return true
}

// arm sets the timer; mu is held.
func (l *lane) arm(now, at since) {
	l.armed = true
	l.timer.Reset(time.Duration(max(at-now, 0)) + time.Millisecond)
}

// expire runs when the oldest push may be due: pushes in the queue past their
// deadline are unreachable, and a stream that owes an answer past its own is
// cut, so that what it carried is sent again or found due.
func (l *lane) expire() {
	l.mu.Lock()
	now := l.job.now()
	if len(l.sent) > 0 && l.sent[0].answerBy <= now {
		l.cutLocked()
	}
	queue := l.queue.waiting()
	i := 0 // deadlines grow, but for those of a stall, which may wait a little longer
	for i < len(queue) && queue[i].due <= now {
		i++
	}
	lost := append([]delivery(nil), queue[:i]...)
	l.queue.drop(i)
	queue = queue[i:]
	bytes := sizes(lost)
	if bytes > 0 {
		l.stalled = true
		l.release(bytes)
	}
	switch {
	case l.closed, l.bytes == 0:
		l.armed = false
	case len(l.sent) == 0:
		l.arm(now, queue[0].due)
	case len(queue) == 0:
		l.arm(now, l.sent[0].answerBy)
	default:
		l.arm(now, min(queue[0].due, l.sent[0].answerBy))
	}
	l.mu.Unlock()
	l.nudge()
	if bytes > 0 {
		l.job.meter.laneBytes.Add(-bytes)
		l.job.drop(lost, Unreachable)
	}
}

// refuse is called when nobody listens at the comet's address: what waits is
// unreachable now, and so is what comes until somebody does. A comet that was
// killed would otherwise hold up every partition that has much for it.
func (l *lane) refuse() {
	l.mu.Lock()
	l.refused = true
	lost := append([]delivery(nil), l.queue.waiting()...)
	l.queue.drop(len(lost))
	bytes := sizes(lost)
	if bytes > 0 {
		l.release(bytes)
	}
	l.mu.Unlock()
	l.job.meter.laneBytes.Add(-bytes)
	l.job.drop(lost, Unreachable)
}

// reached ends refuse.
func (l *lane) reached() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = false
}

// shut closes the lane for good. All it still has was for a comet that is not
// there any more; when the job closes, nothing is said about it, and it is
// replayed by the next owner.
func (l *lane) shut() {
	l.mu.Lock()
	l.cutLocked()
	l.closed = true
	l.timer.Stop()
	rest := l.queue.waiting()
	l.queue, l.spare = fifo{}, nil
	bytes := l.bytes
	l.release(bytes)
	l.mu.Unlock()
	l.job.meter.laneBytes.Add(-bytes)
	if l.comet.life.Err() == nil {
		l.job.drop(rest, NotHere)
	}
}

func sizes(ds []delivery) (bytes int64) {
	for i := range ds {
		bytes += ds[i].size
	}
	return bytes
}
