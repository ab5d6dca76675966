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
)

func TestUpstream(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	answer, body, signature := 200, "", ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body, signature = string(b), r.Header.Get(HeaderSignature)
		w.WriteHeader(answer)
	}))
	defer server.Close()
	cfg := DefaultUpstreamConfig()
	if len(cfg.Problems()) > 0 || cfg.On() {
		t.Error("the default is not off")
	}
	cfg.URL, cfg.Secret = server.URL, secret
	port, err := NewUpstream(cfg, nil, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	defer port.to.client.CloseIdleConnections()
	messages := []logic.UpstreamMessage{{To: "r:live://1", Message: message.Message{
		ID: message.ID{15: 1}, ClientID: "a", Op: 1000, Kind: message.Chat, Flags: message.Store, Sender: 9, AcceptedMS: 5, Body: []byte("hi")}}}
	for _, c := range []struct {
		answer       int
		ok, refusing bool
	}{{204, true, false}, {400, false, true}, {429, false, false}, {503, false, false}} {
		answer = c.answer
		err := port.Send(t.Context(), messages)
		if (err == nil) != c.ok || errors.Is(err, logic.ErrUpstreamRefused) != c.refusing {
			t.Errorf("%d: %v", c.answer, err)
		}
		want := `{"messages":[{"msg_id":"00000000000000000000000000000001","client_msg_id":"a","sender":9,"to":"r:live://1","op":1000,"kind":"chat","stored":true,"accepted_ms":5,"body_base64":"aGk="}]}`
		if body != want || signature != Sign(secret, at, []byte(want)) {
			t.Errorf("%s %s", body, signature)
		}
	}
	cfg.Secret = "short"
	if _, err := NewUpstream(cfg, nil, time.Now); err == nil {
		t.Error("a short secret")
	}
}
