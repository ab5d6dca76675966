package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/failpoint"
	"github.com/perseid-im/perseid/internal/timeline"
)

// archiver has rows written, in the order of the log, one call at a time, as
// many in a call as wait. It keeps every record until its rows are durable, so
// its queue is also what a rewind appends again.
type archiver struct {
	keeper *keeper
	fail   context.CancelCauseFunc // ends the worker

	mu    sync.Mutex
	queue []*kept
	// The first ready of queue have positions of fold; the rest waits for a
	// replay. A rewind sets it to 0 until the worker has the next fold.
	ready int
	fold  timeline.Fold
	busy  bool  // a call is under way, with rows of the front of queue
	loose int64 // bytes of those in queue that are not held
	last  error // of the last call

	wake  chan struct{} // a token when there may be something to write
	moved chan struct{} // a token when something was written
	idle  chan struct{} // a token when a call ended
	done  chan struct{} // closed by the goroutine
	halt  context.CancelFunc
}

func newArchiver(k *keeper, fail context.CancelCauseFunc) *archiver {
	return &archiver{
		keeper: k, fail: fail,
		wake: make(chan struct{}, 1), moved: make(chan struct{}, 1), idle: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

func (a *archiver) start(ctx context.Context) {
	ctx, a.halt = context.WithCancel(ctx)
	go func() {
		defer close(a.done)
		a.run(ctx)
	}()
}

// end writes what is left, as long as the archive takes it, and ends the
// goroutine.
func (a *archiver) end(ctx context.Context) {
	for a.left() && a.progress(ctx, time.Second) {
	}
	a.halt()
	<-a.done
	a.mu.Lock()
	defer a.mu.Unlock()
	held := 0
	for _, k := range a.queue {
		if k.held() {
			held++
		} else {
			a.keeper.in.job.meter.rows.Add(rowsDropped, len(k.places))
		}
	}
	a.keeper.in.job.meter.held.Add(-int64(held))
	a.queue = nil
}

// left tells whether it is worth waiting for more rows.
func (a *archiver) left() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready > 0 && a.last == nil
}

// progress waits until something was written, or d is over; false = ctx ended.
func (a *archiver) progress(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-a.moved:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add queues records that were appended under f. Those that nobody waits for
// are dropped when too much of their kind waits.
func (a *archiver) add(f timeline.Fold, ks []*kept) {
	j := a.keeper.in.job
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fold = f
	for _, k := range ks {
		if !k.held() {
			if a.loose+k.bytes > j.cfg.ArchiveQueueBytes {
				j.meter.rows.Add(rowsDropped, len(k.places))
				continue
			}
			a.loose += k.bytes
		} else {
			j.meter.held.Add(1)
		}
		a.queue = append(a.queue, k)
		a.ready++
	}
	poke(a.wake)
}

// recall stops the writing for a rewind: what is queued is not of the next
// fold. It returns the number of held records, with those of a call under way.
func (a *archiver) recall() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ready = 0
	held := 0
	for _, k := range a.queue {
		if k.held() {
			held++
		}
	}
	return held
}

// recalled waits for the call under way, which the raised fence ends soon, and
// returns what is still to be archived. What is not held is dropped: in the
// next life its numbers may be others.
func (a *archiver) recalled(ctx context.Context) ([]*kept, error) {
	for {
		a.mu.Lock()
		if !a.busy {
			break
		}
		a.mu.Unlock()
		select {
		case <-a.idle:
		case <-ctx.Done():
			return nil, fmt.Errorf("rewind: %w", context.Cause(ctx))
		}
	}
	defer a.mu.Unlock()
	held := a.queue[:0:0]
	for _, k := range a.queue {
		if k.held() {
			held = append(held, k)
		} else {
			a.keeper.in.job.meter.rows.Add(rowsDropped, len(k.places))
		}
	}
	a.loose, a.fold = 0, a.keeper.fold
	a.queue = append(a.queue[:0:0], held...)
	return held, nil
}

// again says that the next n records of the queue have positions of the fold.
func (a *archiver) again(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ready += n
	poke(a.wake)
}

// take is the next call, of most rows if not one record has more: the records
// it is about, how many of the front of the queue they are, and the request. n
// is 0 when nothing is ready.
func (a *archiver) take(most int) (n int, call timeline.Archiving) {
	limit := int64(a.keeper.in.job.cfg.MaxBatchBytes)
	a.mu.Lock()
	defer a.mu.Unlock()
	rows, bytes := 0, int64(0)
	for ; n < a.ready; n++ {
		k := a.queue[n]
		rows += len(k.places)
		bytes += k.bytes
		if len(call.Records) > 0 && (rows > most || bytes > limit) {
			break
		}
		if len(k.places) > 0 { // else a replay found that it is archived
			call.Records = append(call.Records, timeline.Positioned{Offset: k.stored.Offset, Message: k.stored.Message, Places: k.places})
		}
	}
	call.Fold = a.fold
	a.busy = n > 0
	return n, call
}

// settle ends a call. written: the first n of the queue are durable, whatever
// fold they were asked under.
func (a *archiver) settle(n int, written bool, err error) {
	meter := &a.keeper.in.job.meter
	a.mu.Lock()
	a.busy, a.last = false, err
	var ended []*kept
	if written {
		ended = append(ended, a.queue[:n]...)
		clear(a.queue[:n])
		if a.queue = a.queue[n:]; len(a.queue) == 0 {
			a.queue = nil
		}
		a.ready = max(0, a.ready-n)
		for _, k := range ended {
			if !k.held() {
				a.loose -= k.bytes
			}
		}
	}
	a.mu.Unlock()
	for _, k := range ended {
		meter.rows.Add(rowsWritten, len(k.places))
		if k.held() {
			meter.held.Add(-1)
			k.record.done()
		}
	}
	poke(a.idle)
	if written {
		poke(a.moved)
	}
}

func (a *archiver) run(ctx context.Context) {
	j := a.keeper.in.job
	pause := j.backoff()
	most := timeline.MaxWriteRows
	for failures := 0; ; {
		n, call := a.take(most)
		if n == 0 {
			select {
			case <-a.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := a.write(ctx, call)
		a.settle(n, err == nil, err)
		switch {
		case err == nil:
			a.keeper.stop(nil)
			if failures > 0 {
				a.keeper.log.Info("the archive answers again")
			}
			failures = 0
			pause.reset()
			most = min(most+most/4+1, timeline.MaxWriteRows)
			continue
		case errors.Is(err, timeline.ErrStaleFence):
			if a.current(call.Fold) {
				a.fail(fmt.Errorf("archive: %w", err))
				return
			}
			continue // the worker raised it; it is asked again under the new one
		case errors.Is(err, timeline.ErrConflict):
			a.keeper.stop(err)
			if !sleep(ctx, j.cfg.ConflictRetry) {
				return
			}
			continue
		}
		if failures == 0 && ctx.Err() == nil {
			a.keeper.log.Warn("the archive does not take rows, stored records wait", slog.Any("error", err))
		}
		if failures > 0 { // as in intake.route: a call has a deadline
			most = max(1, rowsOf(call)/2)
		}
		if failures++; !pause.wait(ctx) {
			return
		}
	}
}

func rowsOf(call timeline.Archiving) (rows int) {
	for i := range call.Records {
		rows += len(call.Records[i].Places)
	}
	return rows
}

func (a *archiver) write(ctx context.Context, call timeline.Archiving) error {
	if len(call.Records) == 0 {
		return nil
	}
	j := a.keeper.in.job
	ctx, cancel := context.WithTimeout(ctx, j.cfg.RouteTimeout)
	defer cancel()
	began := time.Now()
	err := a.keeper.storage.Archive(ctx, call)
	failpoint.Hit("job.after_archive")
	if err == nil {
		j.meter.archived.Since(began)
	}
	return err
}

// current tells whether rows of f are what is to be written: no rewind is under
// way that could have raised the fence itself.
func (a *archiver) current(f timeline.Fold) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready > 0 && a.fold == f
}
