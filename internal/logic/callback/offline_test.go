package callback

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

const secret = "0123456789abcdef"

func TestSend(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	type call struct{ body, signature, contentType string }
	calls := make(chan call, 1)
	answer := http.StatusNoContent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls <- call{string(body), r.Header.Get(HeaderSignature), r.Header.Get("Content-Type")}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(answer)
	}))
	defer server.Close()
	cfg := DefaultOfflineConfig()
	cfg.URL, cfg.Secret = server.URL+"/hook", secret
	port, err := NewOffline(cfg, nil, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	defer port.to.client.CloseIdleConnections()
	notices := []logic.OfflineNotice{{Mid: 42, Position: timeline.Position{Epoch: 1, Seq: 7},
		Message: message.Message{ID: message.ID{15: 1}, Op: 1000, Kind: message.Chat, Sender: 9, AcceptedMS: 5, Body: []byte("hi")}}}
	for _, c := range []struct {
		answer       int
		ok, refusing bool
	}{{204, true, false}, {200, true, false}, {400, false, true}, {410, false, true}, {408, false, false}, {429, false, false}, {500, false, false}, {302, false, false}} {
		answer = c.answer
		err := port.Send(t.Context(), notices)
		if (err == nil) != c.ok || errors.Is(err, logic.ErrOfflineRefused) != c.refusing {
			t.Errorf("%d: %v", c.answer, err)
		}
		got := <-calls
		want := `{"messages":[{"mid":42,"timeline":"u:42","epoch":1,"seq":7,"msg_id":"00000000000000000000000000000001","op":1000,"kind":"chat","sender":9,"accepted_ms":5,"body_base64":"aGk="}]}`
		if got.body != want || got.contentType != "application/json" || got.signature != Sign(secret, at, []byte(want)) {
			t.Errorf("%+v", got)
		}
	}
	server.Close()
	if err := port.Send(t.Context(), notices); err == nil || errors.Is(err, logic.ErrOfflineRefused) {
		t.Errorf("nobody listens: %v", err)
	}
}

// The signature as another implementation computes it:
// printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
func TestSign(t *testing.T) {
	if got := Sign(secret, time.Unix(1_700_000_000, 0), []byte("{}")); got != "t=1700000000,v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e" {
		t.Error(got)
	}
}

func TestProblems(t *testing.T) {
	off := DefaultOfflineConfig()
	if p := off.Problems(); len(p) != 0 {
		t.Error(p)
	}
	for _, c := range []OfflineConfig{{URL: "ftp://x", Secret: secret}, {URL: "x", Secret: secret}, {URL: "http://x", Secret: "short"}} {
		c.Send = logic.DefaultOfflineConfig()
		if p := c.Problems(); len(p) != 1 {
			t.Errorf("%+v: %v", c, p)
		}
	}
}
