// Package callback tells HTTP endpoints of the operator what logic knows: of
// messages for offline push, and of what sessions publish. One signed POST for
// a batch. What sends messages to phones, or answers them, is behind that
// endpoint; no vendor is known here.
//
// # Guarantees
//
// Every attempt has the same body. An answer of 2xx ends it, 4xx (but not 408
// and 429) refuses the batch for good, everything else may be tried again; so
// an endpoint may see a message twice, and knows it by msg_id.
package callback

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// HeaderSignature has "t=<Unix seconds>,v1=<hex of HMAC-SHA256>" over the
// digits of t, a dot, and the body.
const HeaderSignature = "X-Perseid-Signature"

// problems are those of an endpoint (none without one) and of sending to it.
func problems(address, secret string, send []string) (p []string) {
	if address != "" {
		if u, err := url.Parse(address); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			p = append(p, fmt.Sprintf("url = %q: http:// or https:// with a host", address))
		}
		if len(secret) < 16 {
			p = append(p, "secret: at least 16 bytes")
		}
	}
	for _, s := range send {
		p = append(p, "send."+s)
	}
	return p
}

// endpoint is where batches go.
type endpoint struct {
	name        string // begins its errors
	url, secret string
	refusal     error // what its errors wrap that are not worth a retry
	client      *http.Client
	now         func() time.Time
}

// complete checks an endpoint whose configuration has these problems, and gives
// it a client if it has none.
func (e endpoint) complete(problems []string) (endpoint, error) {
	if len(problems) > 0 {
		return endpoint{}, fmt.Errorf("%s: %s", e.name, problems[0])
	}
	if e.url == "" || e.now == nil {
		return endpoint{}, fmt.Errorf("%s: url and clock are needed", e.name)
	}
	if e.client == nil {
		e.client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return e, nil
}

// post sends one batch: messages is a list of what has a form in JSON.
func (e *endpoint) post(ctx context.Context, messages any) error {
	body, err := json.Marshal(map[string]any{"messages": messages})
	if err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: callback: %w", e.name, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(HeaderSignature, Sign(e.secret, e.now(), body))
	response, err := e.client.Do(request)
	if err != nil {
		return fmt.Errorf("%s: callback: %w", e.name, err)
	}
	defer func() { _ = response.Body.Close() }()
	// A short answer is read so that the connection can be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4<<10))
	switch code := response.StatusCode; {
	case code/100 == 2:
		return nil
	case code/100 == 4 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return fmt.Errorf("%s: callback: answered %d: %w", e.name, code, e.refusal)
	default:
		return fmt.Errorf("%s: callback: answered %d", e.name, code)
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
