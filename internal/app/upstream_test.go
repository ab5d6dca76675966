package app

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic/callback"
	"github.com/perseid-im/perseid/pkg/client"
)

// publish does it again, as the same message, when a pause of the machine took
// the time for it.
func publish(ctx context.Context, conn *client.Conn, m client.Outgoing) (id string, err error) {
	for {
		id, err = conn.Publish(ctx, m)
		if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Code != http.StatusServiceUnavailable || ctx.Err() != nil {
			return id, err
		}
	}
}

// What clients publish is told to the backend, stored or not; what it may not
// publish is not.
func TestPublishedIsToldToTheBackend(t *testing.T) {
	const secret = "a secret of a test"
	told := make(chan string, 10)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get(callback.HeaderSignature) == "" {
			t.Error("no signature")
		}
		told <- string(body)
	}))
	defer backend.Close()
	addrs := startAllInOne(t, func(c *AllInOneConfig) { c.Upstream.URL, c.Upstream.Secret = backend.URL, secret })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := client.Dial(ctx, client.Config{Address: "tcp://" + addrs["tcp"], Auth: client.Auth{Mid: 7}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Publish(ctx, client.Outgoing{To: "r:live://1", Op: 1000, Body: []byte("not in it")})
	if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Code != 403 {
		t.Errorf("a room that the user is not in: %v", err)
	}
	for _, kind := range []string{"chat", "signal"} {
		id, err := publish(ctx, conn, client.Outgoing{To: "u:8", Op: 1000, Kind: kind, Body: []byte("hello"), ClientID: "c-" + kind})
		if err != nil {
			t.Fatal(err)
		}
		stored := `"stored":` + map[string]string{"chat": "true", "signal": "false"}[kind]
		want := `{"messages":[{"msg_id":"` + id + `","client_msg_id":"c-` + kind + `","sender":7,"to":"u:8","op":1000,"kind":"` + kind + `",` + stored
		select {
		case body := <-told:
			if !strings.HasPrefix(body, want) || !strings.HasSuffix(body, `"body_base64":"aGVsbG8="}]}`) {
				t.Errorf("%s\nwant %s", body, want)
			}
		case <-ctx.Done():
			t.Fatal("the backend was not told")
		}
	}
}
