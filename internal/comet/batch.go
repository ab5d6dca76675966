package comet

import (
	"context"
	"sync"
)

// batchQueue hands what came together to one of a few workers: an item that
// comes alone goes at once, under load a call carries up to max items. It
// adds no delay and keeps no goroutine per item.
//
// # Concurrency
//
// add is safe for concurrent use and never blocks.
type batchQueue[T any] struct {
	mu     sync.Mutex
	items  []T
	limit  int
	closed bool
	notify chan struct{} // holds a token while items wait
}

func newBatchQueue[T any](limit int) *batchQueue[T] {
	return &batchQueue[T]{limit: limit, notify: make(chan struct{}, 1)}
}

// add reports whether the item was taken.
func (q *batchQueue[T]) add(v T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.items) >= q.limit {
		return false
	}
	q.items = append(q.items, v)
	q.signal()
	return true
}

func (q *batchQueue[T]) signal() {
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

// take blocks until items wait and returns up to max, oldest first; nil when
// ctx has ended and nothing waits.
func (q *batchQueue[T]) take(ctx context.Context, max int) []T {
	for {
		q.mu.Lock()
		if n := min(len(q.items), max); n > 0 {
			batch := append([]T(nil), q.items[:n]...)
			rest := copy(q.items, q.items[n:])
			clear(q.items[rest:])
			q.items = q.items[:rest]
			if rest > 0 {
				q.signal()
			}
			q.mu.Unlock()
			return batch
		}
		q.mu.Unlock()
		select {
		case <-q.notify:
		case <-ctx.Done():
			if q.len() == 0 {
				return nil
			}
		}
	}
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
