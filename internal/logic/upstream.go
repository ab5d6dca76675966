package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
)

// UpstreamMessage is what a session published and logic accepted.
type UpstreamMessage struct {
	To      message.Timeline
	Message message.Message
}

// UpstreamPort tells the backend of messages, in order. An error that wraps
// ErrUpstreamRefused is not worth a retry.
type UpstreamPort interface {
	Send(ctx context.Context, messages []UpstreamMessage) error
}

// ErrUpstreamRefused is what a port answers to messages that it will never take.
var ErrUpstreamRefused = errors.New("logic: the messages were refused")

// UpstreamConfig bounds the waiting and sending of messages to the backend.
type UpstreamConfig struct {
	Batch    int           `toml:"batch" doc:"most messages of one call; count; 1 to 1000"`
	Attempts int           `toml:"attempts" doc:"calls that are tried for a batch before it is dropped and counted; count; 1 to 20"`
	Backoff  time.Duration `toml:"backoff" doc:"pause before the second attempt, doubled for each further one; duration; 1ms to 1m"`
	Timeout  time.Duration `toml:"timeout" doc:"deadline of one call; duration; 10ms to 1m"`
	MaxBytes int64         `toml:"max_bytes" doc:"bytes of messages that may wait; what comes above it is dropped and counted; 65536 to 1073741824"`
}

// DefaultUpstreamConfig bridges some seconds without the backend.
func DefaultUpstreamConfig() UpstreamConfig {
	return UpstreamConfig{Batch: 100, Attempts: 5, Backoff: time.Second, Timeout: 5 * time.Second, MaxBytes: 64 << 20}
}

// Problems lists everything that is wrong.
func (c *UpstreamConfig) Problems() []string {
	p := numberIn(nil, "batch", c.Batch, 1, 1000)
	p = numberIn(p, "attempts", c.Attempts, 1, 20)
	p = durationIn(p, "backoff", c.Backoff, time.Millisecond, time.Minute)
	p = durationIn(p, "timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	if c.MaxBytes < 64<<10 || c.MaxBytes > 1<<30 {
		p = append(p, fmt.Sprintf("max_bytes = %d: 65536 to 1073741824", c.MaxBytes))
	}
	return p
}

// Upstream hands what sessions publish to the backend, in the order in which
// this logic accepted it. What waits is in the memory of this process: a logic
// that is killed loses it.
type Upstream struct {
	cfg      UpstreamConfig
	port     UpstreamPort
	log      *slog.Logger
	outcomes *obs.CounterSet

	mu      sync.Mutex
	waiting []UpstreamMessage
	bytes   int64
	closed  bool
	wake    chan struct{} // has room for one: something new waits, or it is closed
	stopped chan struct{}
	stop    context.CancelFunc // nil until Start
}

// Outcomes of a message, by index.
const (
	upstreamSent = iota
	upstreamFull
	upstreamRefused
	upstreamFailed
)

func (m *UpstreamMessage) size() int64 { return int64(len(m.Message.Body)+len(m.To)) + noticeBytes }

// NewUpstream makes one that takes messages; Start sends them.
func NewUpstream(cfg UpstreamConfig, port UpstreamPort, log *slog.Logger, metrics *obs.Metrics) (*Upstream, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("upstream: %s", p[0])
	}
	if port == nil || log == nil {
		return nil, errors.New("upstream: port and logger are needed")
	}
	return &Upstream{
		cfg: cfg, port: port, log: log,
		outcomes: metrics.Counter("perseid_upstream_total", "Messages of sessions for the backend, by what became of them.",
			"result", []string{"sent", "full", "refused", "failed"}),
		wake: make(chan struct{}, 1), stopped: make(chan struct{}),
	}, nil
}

// Add takes a message, or drops and counts it. It does not wait.
func (u *Upstream) Add(m UpstreamMessage) {
	u.mu.Lock()
	fits := !u.closed && u.bytes+m.size() <= u.cfg.MaxBytes
	if fits {
		u.bytes += m.size()
		u.waiting = append(u.waiting, m)
	}
	u.mu.Unlock()
	if !fits {
		u.outcomes.Inc(upstreamFull)
		return
	}
	u.nudge()
}

func (u *Upstream) nudge() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Start sends until Close.
func (u *Upstream) Start(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || u.stop != nil {
		return errors.New("upstream: started twice or after Close")
	}
	ctx, u.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(u.stopped)
		u.run(ctx)
	}()
	return nil
}

// Close takes no more messages, sends those that wait, and returns when that is
// done or ctx ends. It is idempotent.
func (u *Upstream) Close(ctx context.Context) error {
	u.mu.Lock()
	u.closed = true
	stop := u.stop
	u.mu.Unlock()
	if stop == nil {
		return nil
	}
	u.nudge()
	select {
	case <-u.stopped:
		stop()
		return nil
	case <-ctx.Done():
		stop()
		<-u.stopped
		return fmt.Errorf("upstream: close: %w", ctx.Err())
	}
}

func (u *Upstream) run(ctx context.Context) {
	for ctx.Err() == nil {
		batch, ended := u.next()
		if len(batch) > 0 {
			u.deliver(ctx, batch)
			continue
		}
		if ended {
			return
		}
		select {
		case <-u.wake:
		case <-ctx.Done():
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.outcomes.Add(upstreamFailed, len(u.waiting))
	u.waiting, u.bytes = nil, 0
}

func (u *Upstream) next() (batch []UpstreamMessage, ended bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	batch = slices.Clone(u.waiting[:min(u.cfg.Batch, len(u.waiting))])
	for i := range batch {
		u.bytes -= batch[i].size()
	}
	clear(u.waiting[:len(batch)])
	u.waiting = u.waiting[len(batch):]
	return batch, u.closed
}

func (u *Upstream) deliver(ctx context.Context, batch []UpstreamMessage) {
	pause := u.cfg.Backoff
	var err error
	for attempt := range u.cfg.Attempts {
		if attempt > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause *= 2
		}
		call, cancel := context.WithTimeout(ctx, u.cfg.Timeout)
		err = u.port.Send(call, batch)
		cancel()
		switch {
		case err == nil:
			u.outcomes.Add(upstreamSent, len(batch))
			return
		case errors.Is(err, ErrUpstreamRefused):
			u.outcomes.Add(upstreamRefused, len(batch))
			u.log.Error("the backend refused messages of sessions", "messages", len(batch), "error", err)
			return
		case ctx.Err() != nil:
			u.outcomes.Add(upstreamFailed, len(batch))
			return
		}
	}
	u.outcomes.Add(upstreamFailed, len(batch))
	u.log.Error("the backend was not told of messages of sessions", "messages", len(batch), "attempts", u.cfg.Attempts, "error", err)
}
