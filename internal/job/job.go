package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// ErrClosed is what Work answers after Close.
var ErrClosed = errors.New("job: closed")

// Deps are the rooms that job stands on. All but Metrics are required.
type Deps struct {
	Name    string // instance id of this job
	Router  Router
	Storage Storage
	Edge    Edge
	Logger  *slog.Logger
	Metrics *obs.Metrics // may be nil
	// Settles is how long a claim must last to be known as the current one of
	// its partition: twice the session timeout of the consumer group, 0 where
	// there is only one consumer.
	Settles time.Duration
}

// Job is the mover of one process. Its Work is the stream.Worker of every
// claim.
type Job struct {
	cfg     Config
	name    string
	router  Router
	storage Storage
	settles time.Duration
	log     *slog.Logger
	meter   meter
	born    time.Time
	nodes   *nodes
	asked   atomic.Pointer[error] // what the last Route ended with

	mu     sync.Mutex
	closed bool
	life   context.Context // what claims share lives in it; nil before the first Work
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a job. It starts nothing: the first claim does.
func New(cfg Config, deps Deps) (*Job, error) {
	if problems := cfg.Problems(); len(problems) > 0 {
		return nil, fmt.Errorf("job config: %s", strings.Join(problems, "; "))
	}
	if deps.Router == nil || deps.Storage == nil || deps.Edge == nil || deps.Logger == nil || deps.Name == "" {
		return nil, errors.New("job: name, router, storage, edge and logger are required")
	}
	j := &Job{
		cfg:     cfg,
		name:    deps.Name,
		router:  deps.Router,
		storage: deps.Storage,
		settles: deps.Settles,
		log:     deps.Logger,
		meter:   newMeter(deps.Metrics),
		born:    time.Now(),
	}
	j.nodes = newNodes(j, deps.Edge)
	return j, nil
}

// begin registers a worker and makes sure that the lifetime of what claims
// share has begun: it lasts from the first claim to Close, and carries the
// values of the first claim's context. The worker says j.wg.Done.
func (j *Job) begin(ctx context.Context, log string) (life context.Context, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	if j.life == nil {
		j.life, j.stop = context.WithCancel(context.WithoutCancel(ctx))
		j.nodes.begin(j.life, log)
		j.wg.Go(func() { j.refreshNodes(j.life) })
	}
	j.wg.Add(1)
	return j.life, nil
}

// Close ends workers, streams, connections and goroutines. It is called after
// the consumer has returned: a worker that still runs gives its claim up. It
// is idempotent.
func (j *Job) Close(ctx context.Context) error {
	j.mu.Lock()
	j.closed = true
	if j.stop != nil {
		j.stop()
	}
	j.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.wg.Wait()
		j.nodes.wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("job close: %w", ctx.Err())
	}
}

// Ready is nil when logic answered the last Route, or none was needed yet.
func (j *Job) Ready(context.Context) error {
	if err := j.asked.Load(); err != nil {
		return *err
	}
	return nil
}

// since is a moment as the time since the job was made, by the monotonic
// clock: no jump of the wall clock expires anything.
type since time.Duration

func (j *Job) now() since { return since(time.Since(j.born)) }

// backoff is the pause between attempts: doubled from min to max, with half of
// it at random.
type backoff struct {
	min, max, next time.Duration
}

func (j *Job) backoff() backoff { return backoff{min: j.cfg.RetryMin, max: j.cfg.RetryMax} }

func (b *backoff) reset() { b.next = 0 }

// opened is told how long a stream lasted: one that broke soon after it opened,
// again and again, has found somebody who does not take what it carries.
func (b *backoff) opened(lasted time.Duration) {
	if lasted >= b.max {
		b.reset()
	}
}

// wait pauses, or returns false at once when ctx ends.
func (b *backoff) wait(ctx context.Context) bool { return sleep(ctx, b.grow()) }

// grow is the next pause.
func (b *backoff) grow() time.Duration {
	b.next = min(max(2*b.next, b.min), b.max)
	return b.next/2 + rand.N(b.next/2+1)
}

// sleep pauses, or returns false at once when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
