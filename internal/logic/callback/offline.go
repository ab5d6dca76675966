package callback

import (
	"context"
	"net/http"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// OfflineConfig is where messages for offline push go.
type OfflineConfig struct {
	URL    string              `toml:"url" doc:"endpoint that is told of messages nobody took, http(s)://...; empty = off"`
	Secret string              `toml:"secret" secret:"true" doc:"key of the signature in X-Perseid-Signature; at least 16 bytes, not empty when url is set"`
	Send   logic.OfflineConfig `toml:"send" doc:"waiting and sending"`
}

// DefaultOfflineConfig is off.
func DefaultOfflineConfig() OfflineConfig { return OfflineConfig{Send: logic.DefaultOfflineConfig()} }

// On tells whether there is an endpoint.
func (c *OfflineConfig) On() bool { return c.URL != "" }

// Problems lists everything that is wrong.
func (c *OfflineConfig) Problems() []string {
	return problems(c.URL, c.Secret, c.Send.Problems())
}

// Offline is a logic.OfflinePort.
type Offline struct{ to endpoint }

var _ logic.OfflinePort = (*Offline)(nil)

// NewOffline makes a port; client nil = one of its own, which follows no redirects.
func NewOffline(cfg OfflineConfig, client *http.Client, now func() time.Time) (*Offline, error) {
	to, err := endpoint{name: "offline push", url: cfg.URL, secret: cfg.Secret, refusal: logic.ErrOfflineRefused, client: client, now: now}.complete(cfg.Problems())
	if err != nil {
		return nil, err
	}
	return &Offline{to}, nil
}

// notice is the JSON of a message for one user.
type notice struct {
	Mid        int64            `json:"mid"`
	Timeline   message.Timeline `json:"timeline"`
	Epoch      uint32           `json:"epoch"`
	Seq        uint64           `json:"seq"`
	MsgID      string           `json:"msg_id"`
	Op         int32            `json:"op"`
	Kind       string           `json:"kind"`
	Sender     int64            `json:"sender,omitempty"`
	AcceptedMS int64            `json:"accepted_ms"`
	ExpiresMS  int64            `json:"expires_ms,omitempty"`
	Body       []byte           `json:"body_base64"`
}

// Send posts one batch.
func (p *Offline) Send(ctx context.Context, notices []logic.OfflineNotice) error {
	list := make([]notice, len(notices))
	for i := range notices {
		n := &notices[i]
		m := &n.Message
		list[i] = notice{
			Mid: n.Mid, Timeline: message.Inbox(n.Mid), Epoch: n.Position.Epoch, Seq: n.Position.Seq, MsgID: m.ID.String(), Op: m.Op,
			Kind: m.Kind.String(), Sender: m.Sender, AcceptedMS: m.AcceptedMS, ExpiresMS: m.ExpiresMS, Body: m.Body,
		}
	}
	return p.to.post(ctx, list)
}
