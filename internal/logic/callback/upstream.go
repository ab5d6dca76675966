package callback

import (
	"context"
	"net/http"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// UpstreamConfig is where the messages of sessions go.
type UpstreamConfig struct {
	URL    string               `toml:"url" doc:"endpoint that is told of what clients publish, http(s)://...; empty = off"`
	Secret string               `toml:"secret" secret:"true" doc:"key of the signature in X-Perseid-Signature; at least 16 bytes, not empty when url is set"`
	Send   logic.UpstreamConfig `toml:"send" doc:"waiting and sending"`
}

// DefaultUpstreamConfig is off.
func DefaultUpstreamConfig() UpstreamConfig {
	return UpstreamConfig{Send: logic.DefaultUpstreamConfig()}
}

// On tells whether there is an endpoint.
func (c *UpstreamConfig) On() bool { return c.URL != "" }

// Problems lists everything that is wrong.
func (c *UpstreamConfig) Problems() []string {
	return problems(c.URL, c.Secret, c.Send.Problems())
}

// Upstream is a logic.UpstreamPort.
type Upstream struct{ to endpoint }

var _ logic.UpstreamPort = (*Upstream)(nil)

// NewUpstream makes a port; client nil = one of its own, which follows no redirects.
func NewUpstream(cfg UpstreamConfig, client *http.Client, now func() time.Time) (*Upstream, error) {
	to, err := endpoint{name: "upstream", url: cfg.URL, secret: cfg.Secret, refusal: logic.ErrUpstreamRefused, client: client, now: now}.complete(cfg.Problems())
	if err != nil {
		return nil, err
	}
	return &Upstream{to}, nil
}

// published is the JSON of a message.
type published struct {
	MsgID      string           `json:"msg_id"`
	ClientID   string           `json:"client_msg_id,omitempty"`
	Sender     int64            `json:"sender"`
	To         message.Timeline `json:"to"`
	Op         int32            `json:"op"`
	Kind       string           `json:"kind"`
	Stored     bool             `json:"stored"`
	AcceptedMS int64            `json:"accepted_ms"`
	Body       []byte           `json:"body_base64"`
}

// Send posts one batch.
func (p *Upstream) Send(ctx context.Context, messages []logic.UpstreamMessage) error {
	list := make([]published, len(messages))
	for i := range messages {
		m := &messages[i].Message
		list[i] = published{
			MsgID: m.ID.String(), ClientID: m.ClientID, Sender: m.Sender, To: messages[i].To, Op: m.Op, Kind: m.Kind.String(),
			Stored: m.Flags.Has(message.Store), AcceptedMS: m.AcceptedMS, Body: m.Body,
		}
	}
	return p.to.post(ctx, list)
}
