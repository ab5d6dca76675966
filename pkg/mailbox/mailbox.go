// Package mailbox is the one door into an event loop: a bounded queue with
// many producers and one consumer that wakes the consumer once, however many
// items arrive before it looks.
//
// Why not a channel: the consumer is an event loop that must be told through
// its own wake-up call, a full channel cannot be measured in bytes, and a
// consumer takes everything that waits in one go. Why not gnet's task queue:
// it allocates per task, is not bounded and not FIFO beyond 1,024 tasks.
//
// # Concurrency
//
// Put, Force and Close may be called from any goroutine; Drain belongs to the
// consumer. Items of one producer are drained in the order of its calls.
//
// # Guarantees
//
// After an item is in, wake is called once, and not again until Drain has
// left the mailbox empty. A consumer whose Drain did not empty it must drain
// again by itself.
package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrClosed is the answer to Put and Force after Close.
var ErrClosed = errors.New("mailbox: closed")

// Mailbox is a bounded multi-producer single-consumer queue.
type Mailbox[T any] struct {
	maxItems int
	maxBytes int
	wake     func()

	mu     sync.Mutex
	items  []entry[T]
	head   int // items[:head] are drained
	bytes  int
	awake  bool
	closed bool
	space  chan struct{} // closed when a waiting Put should look again; nil when none waits
}

type entry[T any] struct {
	value T
	bytes int
}

// New makes a mailbox of at most maxItems items and maxBytes bytes (both above
// 0). wake must not block and must not call the mailbox.
func New[T any](maxItems, maxBytes int, wake func()) (*Mailbox[T], error) {
	if maxItems < 1 || maxBytes < 1 {
		return nil, fmt.Errorf("mailbox: bounds are %d items and %d bytes, allowed is 1 or more", maxItems, maxBytes)
	}
	return &Mailbox[T]{maxItems: maxItems, maxBytes: maxBytes, wake: wake}, nil
}

// Put adds an item that counts bytes against the bound. It blocks while the
// mailbox is full, until ctx ends. An item larger than the bound is taken when
// the mailbox is empty, so that it cannot block for ever.
func (m *Mailbox[T]) Put(ctx context.Context, v T, bytes int) error {
	for {
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return ErrClosed
		}
		n := len(m.items) - m.head
		if n == 0 || (n < m.maxItems && m.bytes+bytes <= m.maxBytes) {
			m.add(v, bytes)
			return nil
		}
		if m.space == nil {
			m.space = make(chan struct{})
		}
		space := m.space
		m.mu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			return fmt.Errorf("mailbox: full: %w", ctx.Err())
		}
	}
}

// Force adds an item beyond the bounds. It is for what must not wait and is
// bounded elsewhere, like the answer to a request of the consumer.
func (m *Mailbox[T]) Force(v T) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return ErrClosed
	}
	m.add(v, 0)
	return nil
}

// add is called with the lock held and releases it.
func (m *Mailbox[T]) add(v T, bytes int) {
	m.items = append(m.items, entry[T]{v, bytes})
	m.bytes += bytes
	wake := !m.awake
	m.awake = true
	m.mu.Unlock()
	if wake {
		m.wake()
	}
}

// Drain appends up to max items to dst, oldest first. more tells that items
// are left: the consumer must call Drain again, it will not be woken.
func (m *Mailbox[T]) Drain(dst []T, max int) (out []T, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := min(m.head+max, len(m.items))
	for i := m.head; i < end; i++ {
		dst = append(dst, m.items[i].value)
		m.bytes -= m.items[i].bytes
		m.items[i] = entry[T]{}
	}
	m.head = end
	if m.head == len(m.items) {
		m.items, m.head = m.items[:0], 0
		m.awake = false
		if cap(m.items) > m.maxItems {
			m.items = nil
		}
	} else if m.head > cap(m.items)/2 {
		n := copy(m.items, m.items[m.head:])
		clear(m.items[n:])
		m.items, m.head = m.items[:n], 0
	}
	if m.space != nil {
		close(m.space)
		m.space = nil
	}
	return dst, m.awake
}

// Len returns the items and bytes that wait.
func (m *Mailbox[T]) Len() (items, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items) - m.head, m.bytes
}

// Close refuses further items and ends waiting Puts. What is inside can still
// be drained.
func (m *Mailbox[T]) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.space != nil {
		close(m.space)
		m.space = nil
	}
}
