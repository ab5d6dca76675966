package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// deliveryConfig bounds the waiting and sending of items. UpstreamConfig
// converts to it.
type deliveryConfig struct {
	Batch    int
	Attempts int
	Backoff  time.Duration
	Timeout  time.Duration
	MaxBytes int64
}

func (c deliveryConfig) problems() []string {
	p := numberIn(nil, "batch", c.Batch, 1, 1000)
	p = numberIn(p, "attempts", c.Attempts, 1, 20)
	p = durationIn(p, "backoff", c.Backoff, time.Millisecond, time.Minute)
	p = durationIn(p, "timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	if c.MaxBytes < 64<<10 || c.MaxBytes > 1<<30 {
		p = append(p, fmt.Sprintf("max_bytes = %d: 65536 to 1073741824", c.MaxBytes))
	}
	return p
}

// itemBytes is what an item costs beside its body.
const itemBytes = 256

// maxBatchBytes bounds a batch of more than one item. In JSON and base64 it stays
// below the 1 MiB that many an HTTP server takes, which would refuse the batch.
const maxBatchBytes = 512 << 10

// delivery hands items to a port in the order in which they were added: in
// batches, each after its grace, again after a failure. What waits is bounded by
// bytes and in the memory of this process.
type delivery[T any] struct {
	deliverySpec[T]

	mu      sync.Mutex
	waiting []waitingItem[T] // in the order of due
	bytes   int64            // of those and of the batch that is being sent
	closed  bool
	wake    chan struct{} // has room for one: something new waits, or it is closed
	stopped chan struct{}
	stop    context.CancelFunc // nil until Start
}

// deliverySpec is what one delivery differs in from another.
type deliverySpec[T any] struct {
	name  string // begins its errors
	cfg   deliveryConfig
	grace time.Duration // what an item waits before it is sent
	now   func() time.Time
	log   *slog.Logger

	size    func(*T) int64
	wanted  func(ctx context.Context, batch []T) []T // leaves out and counts what need not be sent any more; nil = nothing
	send    func(ctx context.Context, batch []T) error
	refusal error // a send whose error wraps it is not tried again

	sent, full, refused, failed *obs.Counter
	// What the log says of a batch that was refused, or failed too often.
	onRefused, onFailed string
}

type waitingItem[T any] struct {
	item T
	due  time.Time
}

func newDelivery[T any](spec deliverySpec[T]) *delivery[T] {
	return &delivery[T]{deliverySpec: spec, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// Add takes an item, or drops and counts it. It does not wait.
func (d *delivery[T]) Add(item T) {
	size := d.size(&item)
	d.mu.Lock()
	fits := !d.closed && d.bytes+size <= d.cfg.MaxBytes
	if fits {
		d.bytes += size
		d.waiting = append(d.waiting, waitingItem[T]{item, d.now().Add(d.grace)})
	}
	d.mu.Unlock()
	if !fits {
		d.full.Inc()
		return
	}
	d.nudge()
}

func (d *delivery[T]) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Start sends until Close.
func (d *delivery[T]) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.stop != nil {
		return errors.New(d.name + ": started twice or after Close")
	}
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(d.stopped)
		d.run(ctx)
	}()
	return nil
}

// Close takes no more items, sends those that wait without more grace, and
// returns when that is done or ctx ends. It is idempotent.
func (d *delivery[T]) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	stop := d.stop
	d.mu.Unlock()
	if stop == nil {
		return nil
	}
	d.nudge()
	select {
	case <-d.stopped:
		stop()
		return nil
	case <-ctx.Done():
		stop()
		<-d.stopped
		return fmt.Errorf("%s: close: %w", d.name, ctx.Err())
	}
}

func (d *delivery[T]) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		batch, bytes, wait, ended := d.next()
		if len(batch) > 0 {
			d.deliver(ctx, batch)
			d.mu.Lock()
			d.bytes -= bytes // what is being sent is in memory, too
			d.mu.Unlock()
			continue
		}
		if ended {
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-d.wake:
		case <-ctx.Done():
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed.Add(len(d.waiting))
	d.waiting, d.bytes = nil, 0
}

// next takes what is due, or says how long nothing will be.
func (d *delivery[T]) next() (batch []T, bytes int64, wait time.Duration, ended bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	for len(batch) < min(d.cfg.Batch, len(d.waiting)) {
		w := &d.waiting[len(batch)]
		if !d.closed && now.Before(w.due) {
			break
		}
		size := d.size(&w.item)
		if len(batch) > 0 && bytes+size > maxBatchBytes {
			break
		}
		bytes += size
		batch = append(batch, w.item)
	}
	clear(d.waiting[:len(batch)])
	d.waiting = d.waiting[len(batch):]
	if len(d.waiting) == 0 {
		return batch, bytes, time.Hour, d.closed // an item wakes it
	}
	return batch, bytes, d.waiting[0].due.Sub(now), false
}

func (d *delivery[T]) deliver(ctx context.Context, batch []T) {
	if d.wanted != nil {
		batch = d.wanted(ctx, batch)
	}
	if len(batch) == 0 {
		return
	}
	pause := d.cfg.Backoff
	var err error
	for attempt := range d.cfg.Attempts {
		if attempt > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause *= 2
		}
		call, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
		err = d.send(call, batch)
		cancel()
		switch {
		case err == nil:
			d.sent.Add(len(batch))
			return
		case errors.Is(err, d.refusal):
			d.refused.Add(len(batch))
			d.log.Error(d.onRefused, "messages", len(batch), "error", err)
			return
		case ctx.Err() != nil:
			d.failed.Add(len(batch))
			return
		}
	}
	d.failed.Add(len(batch))
	d.log.Error(d.onFailed, "messages", len(batch), "attempts", d.cfg.Attempts, "error", err)
}
