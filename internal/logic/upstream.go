package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	MaxBytes int64         `toml:"max_bytes" doc:"bytes of messages that wait or are being sent; what comes above it is dropped and counted; 65536 to 1073741824"`
}

// DefaultUpstreamConfig bridges some seconds without the backend.
func DefaultUpstreamConfig() UpstreamConfig {
	return UpstreamConfig{Batch: 100, Attempts: 5, Backoff: time.Second, Timeout: 5 * time.Second, MaxBytes: 64 << 20}
}

// Problems lists everything that is wrong.
func (c *UpstreamConfig) Problems() []string {
	return deliveryConfig(*c).problems()
}

// Upstream hands what sessions publish to the backend, in the order in which
// this logic accepted it. What waits is in the memory of this process: a logic
// that is killed loses it.
type Upstream struct{ *delivery[UpstreamMessage] }

// Outcomes of a message, by index.
const (
	upstreamSent = iota
	upstreamFull
	upstreamRefused
	upstreamFailed
)

func (m *UpstreamMessage) size() int64 { return int64(len(m.Message.Body)+len(m.To)) + itemBytes }

// NewUpstream makes one that takes messages; Start sends them.
func NewUpstream(cfg UpstreamConfig, port UpstreamPort, log *slog.Logger, metrics *obs.Metrics) (*Upstream, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("upstream: %s", p[0])
	}
	if port == nil || log == nil {
		return nil, errors.New("upstream: port and logger are needed")
	}
	outcomes := metrics.Counter("perseid_upstream_total", "Messages of sessions for the backend, by what became of them.",
		"result", []string{"sent", "full", "refused", "failed"})
	return &Upstream{newDelivery(deliverySpec[UpstreamMessage]{
		name: "upstream", cfg: deliveryConfig(cfg), now: time.Now, log: log,
		size: (*UpstreamMessage).size, send: port.Send, refusal: ErrUpstreamRefused,
		sent: outcomes.At(upstreamSent), full: outcomes.At(upstreamFull), refused: outcomes.At(upstreamRefused), failed: outcomes.At(upstreamFailed),
		onRefused: "the backend refused messages of sessions",
		onFailed:  "the backend was not told of messages of sessions",
	})}, nil
}
