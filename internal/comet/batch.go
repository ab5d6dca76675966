package comet

import (
	"context"
	"sync"
	"time"
)

// batchQueue hands what came together to a few workers. An item goes at once
// while no worker is busy. While one is, an item waits until all are back, a
// batch is full, or it has waited for patience since it came or since the batch
// before it went: a call costs logic and Redis much the same whatever it
// carries, so few full calls drain a storm faster than many small ones, and
// while a worker is idle a call that hangs holds nobody up for longer. It keeps
// no goroutine per item.
//
// # Concurrency
//
// add is safe for concurrent use and never blocks. Each worker is one serve.
type batchQueue[T any] struct {
	limit    int // items that wait
	full     int // items of a batch
	patience time.Duration

	mu     sync.Mutex
	items  []T
	since  time.Time // when the first of items came, or the batch before it went
	busy   int       // workers
	closed bool
	notify chan struct{} // holds a token when a worker may have something to do
}

func newBatchQueue[T any](limit, full int, patience time.Duration) *batchQueue[T] {
	return &batchQueue[T]{limit: limit, full: full, patience: patience, notify: make(chan struct{}, 1)}
}

// add reports whether the item was taken.
func (q *batchQueue[T]) add(v T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.items) >= q.limit {
		return false
	}
	q.items = append(q.items, v)
	if len(q.items) == 1 {
		q.since = time.Now()
	}
	// Of the others a worker knows already, and has set its timer.
	if len(q.items) == 1 || len(q.items)%q.full == 0 {
		q.signal()
	}
	return true
}

func (q *batchQueue[T]) signal() {
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// serve calls work with batches, oldest first, until ctx has ended and nothing
// waits.
func (q *batchQueue[T]) serve(ctx context.Context, work func(batch []T)) {
	for {
		batch := q.take(ctx)
		if batch == nil {
			return
		}
		work(batch)
		q.mu.Lock()
		q.busy--
		q.mu.Unlock()
	}
}

// take waits for a batch and counts the worker as busy; nil when ctx has ended
// and nothing waits.
func (q *batchQueue[T]) take(ctx context.Context) []T {
	for {
		batch, wait := q.next(ctx.Err() != nil)
		if batch != nil {
			return batch
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-q.notify:
		case <-due:
		case <-ctx.Done():
			if q.len() == 0 {
				return nil
			}
		}
	}
}

// next is a batch, or how long the items have to wait for more; 0 = there are
// none. At the end of the comet none waits.
func (q *batchQueue[T]) next(ending bool) (batch []T, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.items), q.full)
	if n == 0 {
		return nil, 0
	}
	if q.busy > 0 && n < q.full && !ending {
		if wait = q.patience - time.Since(q.since); wait > 0 {
			return nil, wait
		}
	}
	batch, q.items = q.items[:n:n], q.items[n:]
	q.busy++
	if len(q.items) > 0 {
		q.since = time.Now()
		q.signal()
	} else {
		q.items = nil
	}
	return batch, 0
}

func (q *batchQueue[T]) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// close refuses further items; what waits is still taken.
func (q *batchQueue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}
