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
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
)

// OfflineNotice is a stored message that asks for offline push (the flag
// OfflinePush) and found no session of its user.
type OfflineNotice struct {
	Mid      int64
	Position timeline.Position // in the user's inbox
	Message  message.Message
}

// OfflinePort hands notices on. An error that wraps ErrOfflineRefused is not
// worth a retry.
type OfflinePort interface {
	Send(ctx context.Context, notices []OfflineNotice) error
}

// ErrOfflineRefused is what a port answers to notices that it will never take.
var ErrOfflineRefused = errors.New("logic: the notices were refused")

// OfflineConfig bounds the waiting and sending of notices.
type OfflineConfig struct {
	Grace    time.Duration `toml:"grace" doc:"how long a user has to come back before the message is handed to offline push; duration; 0s to 10m"`
	Batch    int           `toml:"batch" doc:"most messages of one call; count; 1 to 1000"`
	Attempts int           `toml:"attempts" doc:"calls that are tried for a batch before it is dropped and counted; count; 1 to 20"`
	Backoff  time.Duration `toml:"backoff" doc:"pause before the second attempt, doubled for each further one; duration; 1ms to 1m"`
	Timeout  time.Duration `toml:"timeout" doc:"deadline of one call; duration; 10ms to 1m"`
	MaxBytes int64         `toml:"max_bytes" doc:"bytes of messages that may wait; what comes above it is dropped and counted; 65536 to 1073741824"`
}

// DefaultOfflineConfig gives a client that reconnects time to do so.
func DefaultOfflineConfig() OfflineConfig {
	return OfflineConfig{Grace: 5 * time.Second, Batch: 100, Attempts: 5, Backoff: time.Second, Timeout: 5 * time.Second, MaxBytes: 64 << 20}
}

// Problems lists everything that is wrong.
func (c *OfflineConfig) Problems() []string {
	p := durationIn(nil, "grace", c.Grace, 0, 10*time.Minute)
	p = numberIn(p, "batch", c.Batch, 1, 1000)
	p = numberIn(p, "attempts", c.Attempts, 1, 20)
	p = durationIn(p, "backoff", c.Backoff, time.Millisecond, time.Minute)
	p = durationIn(p, "timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	if c.MaxBytes < 64<<10 || c.MaxBytes > 1<<30 {
		p = append(p, fmt.Sprintf("max_bytes = %d: 65536 to 1073741824", c.MaxBytes))
	}
	return p
}

// OfflinePush lets notices wait for a grace, asks whether the user has come back
// or acked meanwhile, and hands the others on in batches. What waits is in the
// memory of this process: a logic that is killed loses it, and its users learn
// of the messages when they sync.
type OfflinePush struct {
	cfg       OfflineConfig
	port      OfflinePort
	presence  presence.Registry
	timelines Timelines
	log       *slog.Logger
	outcomes  *obs.CounterSet
	now       func() time.Time

	mu      sync.Mutex
	waiting []waitingNotice // in the order of due
	bytes   int64
	closed  bool
	wake    chan struct{} // has room for one: something new waits, or it is closed
	stopped chan struct{}
	stop    context.CancelFunc // nil until Start
}

type waitingNotice struct {
	OfflineNotice
	due time.Time
}

// noticeBytes is what a notice costs beside its body.
const noticeBytes = 256

func (n *OfflineNotice) size() int64 { return int64(len(n.Message.Body)) + noticeBytes }

// Outcomes of a notice, by index.
const (
	offlineSent = iota
	offlineBack
	offlineExpired
	offlineFull
	offlineRefused
	offlineFailed
)

// OfflineDeps is what an OfflinePush works with; Metrics may be nil.
type OfflineDeps struct {
	Port      OfflinePort
	Presence  presence.Registry
	Timelines Timelines
	Logger    *slog.Logger
	Metrics   *obs.Metrics
	Now       func() time.Time
}

// NewOfflinePush makes one that takes notices; Start sends them.
func NewOfflinePush(cfg OfflineConfig, d OfflineDeps) (*OfflinePush, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("offline push: %s", p[0])
	}
	if d.Port == nil || d.Presence == nil || d.Timelines == nil || d.Logger == nil || d.Now == nil {
		return nil, errors.New("offline push: port, presence, timelines, logger and clock are needed")
	}
	return &OfflinePush{
		cfg: cfg, port: d.Port, presence: d.Presence, timelines: d.Timelines, log: d.Logger, now: d.Now,
		outcomes: d.Metrics.Counter("perseid_offline_push_total", "Messages for offline push, by what became of them.",
			"result", []string{"sent", "back", "expired", "full", "refused", "failed"}),
		wake: make(chan struct{}, 1), stopped: make(chan struct{}),
	}, nil
}

// Add takes a notice, or drops and counts it.
func (o *OfflinePush) Add(n OfflineNotice) {
	o.mu.Lock()
	fits := !o.closed && o.bytes+n.size() <= o.cfg.MaxBytes
	if fits {
		o.bytes += n.size()
		o.waiting = append(o.waiting, waitingNotice{n, o.now().Add(o.cfg.Grace)})
	}
	o.mu.Unlock()
	if !fits {
		o.outcomes.Inc(offlineFull)
		return
	}
	o.nudge()
}

func (o *OfflinePush) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Start sends until Close.
func (o *OfflinePush) Start(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.stop != nil {
		return errors.New("offline push: started twice or after Close")
	}
	ctx, o.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(o.stopped)
		o.run(ctx)
	}()
	return nil
}

// Close takes no more notices, sends those that wait without more grace, and
// returns when that is done or ctx ends. It is idempotent.
func (o *OfflinePush) Close(ctx context.Context) error {
	o.mu.Lock()
	o.closed = true
	stop := o.stop
	o.mu.Unlock()
	if stop == nil {
		return nil
	}
	o.nudge()
	select {
	case <-o.stopped:
		stop()
		return nil
	case <-ctx.Done():
		stop()
		<-o.stopped
		return fmt.Errorf("offline push: close: %w", ctx.Err())
	}
}

func (o *OfflinePush) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		batch, wait, ended := o.next()
		if len(batch) > 0 {
			o.deliver(ctx, batch)
			continue
		}
		if ended {
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-o.wake:
		case <-ctx.Done():
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcomes.Add(offlineFailed, len(o.waiting))
	o.waiting, o.bytes = nil, 0
}

// next takes what is due, or says how long nothing will be.
func (o *OfflinePush) next() (batch []OfflineNotice, wait time.Duration, ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	for len(batch) < min(o.cfg.Batch, len(o.waiting)) {
		w := &o.waiting[len(batch)]
		if !o.closed && now.Before(w.due) {
			break
		}
		batch = append(batch, w.OfflineNotice)
		o.bytes -= w.size()
	}
	o.waiting = slices.Delete(o.waiting, 0, len(batch))
	switch {
	case len(o.waiting) == 0:
		return batch, time.Hour, o.closed
	default:
		return batch, o.waiting[0].due.Sub(now), false
	}
}

// deliver sends those of a batch whose users are still away.
func (o *OfflinePush) deliver(ctx context.Context, batch []OfflineNotice) {
	batch = o.stillAway(ctx, batch)
	if len(batch) == 0 {
		return
	}
	pause := o.cfg.Backoff
	var err error
	for attempt := range o.cfg.Attempts {
		if attempt > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause *= 2
		}
		call, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
		err = o.port.Send(call, batch)
		cancel()
		switch {
		case err == nil:
			o.outcomes.Add(offlineSent, len(batch))
			return
		case errors.Is(err, ErrOfflineRefused):
			o.outcomes.Add(offlineRefused, len(batch))
			o.log.Error("offline push was refused; these messages wait for the next sync of their users", "messages", len(batch), "error", err)
			return
		case ctx.Err() != nil:
			o.outcomes.Add(offlineFailed, len(batch))
			return
		}
	}
	o.outcomes.Add(offlineFailed, len(batch))
	o.log.Error("offline push failed; these messages wait for the next sync of their users", "messages", len(batch), "attempts", o.cfg.Attempts, "error", err)
}

// stillAway leaves out what has expired, and whom a session or an ack shows to
// be back. What cannot be learned counts as away: a notice too many.
func (o *OfflinePush) stillAway(ctx context.Context, batch []OfflineNotice) []OfflineNotice {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	queries := make([]presence.Query, len(batch))
	for i := range batch {
		queries[i].Mids = []int64{batch[i].Mid}
	}
	located, err := o.presence.Locate(ctx, queries)
	if err != nil || len(located.Results) != len(batch) {
		located.Results = make([][]presence.Location, len(batch))
	}
	away := batch[:0]
	for i, n := range batch {
		switch {
		case n.Message.Expired(o.now().UnixMilli()):
			o.outcomes.Inc(offlineExpired)
		case len(located.Results[i]) > 0, o.acked(ctx, &n):
			o.outcomes.Inc(offlineBack)
		default:
			away = append(away, n)
		}
	}
	return away
}

func (o *OfflinePush) acked(ctx context.Context, n *OfflineNotice) bool {
	tl := message.Inbox(n.Mid)
	stands, err := o.timelines.Cursors(ctx, timeline.Reader{Mid: n.Mid}, []message.Timeline{tl})
	return err == nil && len(stands) == 1 && stands[0].Epoch == n.Position.Epoch && stands[0].Acked >= n.Position.Seq
}

// noteOffline hands a stored record on for those of its users that have no
// session. Also when it is a repeat: presence may have failed after the first
// append, and then nothing was noted. So a replay may note it twice.
func (c *Core) noteOffline(q *StoredQuery, r *RoutedItem) {
	if c.offline == nil || q.Stored == nil || !q.Stored.Message.Flags.Has(message.Store|message.OfflinePush) {
		return
	}
	here := make([]bool, len(q.Query.Mids))
	for _, at := range r.Locations {
		if i := at.Target - len(q.Query.Keys); i >= 0 && i < len(here) {
			here[i] = true
		}
	}
	for i, mid := range q.Query.Mids {
		if here[i] || i >= len(r.Appended) || r.Appended[i].Verdict == timeline.Dup || r.Appended[i].Seq == 0 {
			continue
		}
		c.offline.Add(OfflineNotice{Mid: mid, Position: r.Appended[i].Position, Message: q.Stored.Message})
	}
}
