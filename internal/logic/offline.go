package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	MaxBytes int64         `toml:"max_bytes" doc:"bytes of messages that wait or are being sent; what comes above it is dropped and counted; 65536 to 1073741824"`
}

// DefaultOfflineConfig gives a client that reconnects time to do so.
func DefaultOfflineConfig() OfflineConfig {
	return OfflineConfig{Grace: 5 * time.Second, Batch: 100, Attempts: 5, Backoff: time.Second, Timeout: 5 * time.Second, MaxBytes: 64 << 20}
}

// Problems lists everything that is wrong.
func (c *OfflineConfig) Problems() []string {
	p := durationIn(nil, "grace", c.Grace, 0, 10*time.Minute)
	return append(p, c.sending().problems()...)
}

func (c *OfflineConfig) sending() deliveryConfig {
	return deliveryConfig{Batch: c.Batch, Attempts: c.Attempts, Backoff: c.Backoff, Timeout: c.Timeout, MaxBytes: c.MaxBytes}
}

// OfflinePush lets notices wait for a grace, asks whether the user has come back
// or acked meanwhile, and hands the others on in batches. What waits is in the
// memory of this process: a logic that is killed loses it, and its users learn
// of the messages when they sync.
type OfflinePush struct {
	*delivery[OfflineNotice]

	presence  presence.Registry
	timelines Timelines
	outcomes  *obs.CounterSet
}

func (n *OfflineNotice) size() int64 { return int64(len(n.Message.Body)) + itemBytes }

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
	outcomes := d.Metrics.Counter("perseid_offline_push_total", "Messages for offline push, by what became of them.",
		"result", []string{"sent", "back", "expired", "full", "refused", "failed"})
	o := &OfflinePush{presence: d.Presence, timelines: d.Timelines, outcomes: outcomes}
	o.delivery = newDelivery(deliverySpec[OfflineNotice]{
		name: "offline push", cfg: cfg.sending(), grace: cfg.Grace, now: d.Now, log: d.Logger,
		size: (*OfflineNotice).size, wanted: o.stillAway, send: d.Port.Send, refusal: ErrOfflineRefused,
		sent: outcomes.At(offlineSent), full: outcomes.At(offlineFull), refused: outcomes.At(offlineRefused), failed: outcomes.At(offlineFailed),
		onRefused: "offline push was refused; these messages wait for the next sync of their users",
		onFailed:  "offline push failed; these messages wait for the next sync of their users",
	})
	return o, nil
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
