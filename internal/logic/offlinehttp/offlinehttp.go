// Package offlinehttp hands messages for offline push to an HTTP endpoint of
// the operator: one signed POST for a batch. What sends them to phones is
// behind that endpoint; no vendor is known here.
//
// # Guarantees
//
// Every attempt has the same body. An answer of 2xx ends it, 4xx (but not 408
// and 429) refuses the batch for good, everything else may be tried again; so
// the endpoint may see a message twice, and knows it by mid and msg_id.
package offlinehttp

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// HeaderSignature has "t=<Unix seconds>,v1=<hex of HMAC-SHA256>" over the
// digits of t, a dot, and the body.
const HeaderSignature = "X-Perseid-Signature"

// Config is where the messages go.
type Config struct {
	URL    string              `toml:"url" doc:"endpoint that is told of messages nobody took, http(s)://...; empty = off"`
	Secret string              `toml:"secret" secret:"true" doc:"key of the signature in X-Perseid-Signature; at least 16 bytes, not empty when url is set"`
	Send   logic.OfflineConfig `toml:"send" doc:"waiting and sending"`
}

// DefaultConfig is off.
func DefaultConfig() Config { return Config{Send: logic.DefaultOfflineConfig()} }

// On tells whether there is an endpoint.
func (c *Config) On() bool { return c.URL != "" }

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var p []string
	if c.On() {
		if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			p = append(p, fmt.Sprintf("url = %q: http:// or https:// with a host", c.URL))
		}
		if len(c.Secret) < 16 {
			p = append(p, "secret: at least 16 bytes")
		}
	}
	for _, s := range c.Send.Problems() {
		p = append(p, "send."+s)
	}
	return p
}

// Port is a logic.OfflinePort.
type Port struct {
	cfg    Config
	client *http.Client
	now    func() time.Time
}

var _ logic.OfflinePort = (*Port)(nil)

// New makes a port; client nil = one of its own, which follows no redirects.
func New(cfg Config, client *http.Client, now func() time.Time) (*Port, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("offline push: %s", p[0])
	}
	if !cfg.On() || now == nil {
		return nil, errors.New("offline push: url and clock are needed")
	}
	if client == nil {
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Port{cfg: cfg, client: client, now: now}, nil
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
func (p *Port) Send(ctx context.Context, notices []logic.OfflineNotice) error {
	list := make([]notice, len(notices))
	for i := range notices {
		n := &notices[i]
		m := &n.Message
		list[i] = notice{
			Mid: n.Mid, Timeline: message.Inbox(n.Mid), Epoch: n.Position.Epoch, Seq: n.Position.Seq, MsgID: m.ID.String(), Op: m.Op,
			Kind: m.Kind.String(), Sender: m.Sender, AcceptedMS: m.AcceptedMS, ExpiresMS: m.ExpiresMS, Body: m.Body,
		}
	}
	body, err := json.Marshal(struct {
		Messages []notice `json:"messages"`
	}{list})
	if err != nil {
		return fmt.Errorf("offline push: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("offline push: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(HeaderSignature, Sign(p.cfg.Secret, p.now(), body))
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("offline push: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	// A short answer is read so that the connection can be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4<<10))
	switch code := response.StatusCode; {
	case code/100 == 2:
		return nil
	case code/100 == 4 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return fmt.Errorf("offline push: answered %d: %w", code, logic.ErrOfflineRefused)
	default:
		return fmt.Errorf("offline push: answered %d", code)
	}
}

// Sign is the value of HeaderSignature for a body sent at a time.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
