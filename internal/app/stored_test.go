package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic/callback"
)

// postKey is post of JSON with an Idempotency-Key. As a caller shall, it repeats
// what has a key while a pause of the machine costs the connection or the time.
func postKey(t *testing.T, url, key, body string) (int, string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		status, answer, err := postOnce(t, url, key, body)
		if key != "" && (err != nil || status == http.StatusServiceUnavailable) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Error(err)
		}
		return status, answer
	}
}

func postOnce(t *testing.T, url, key, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

type keptPage struct {
	Messages []struct {
		Seq   uint64
		MsgID string `json:"msg_id"`
		Kind  string
		Gone  string
		Body  []byte `json:"body_base64"`
	}
	Top uint64
}

func kept(t *testing.T, base, tl string) (p keptPage) {
	t.Helper()
	status, answer := request(t, http.MethodGet, base+"/v1/messages?timeline="+tl)
	if err := json.Unmarshal([]byte(answer), &p); err != nil || status != 200 {
		t.Fatalf("messages of %s: %d %s", tl, status, answer)
	}
	return p
}

// From the API to Redis and SQL and back: a message is stored where it is
// asked for, once however often it is repeated with its key, in the sender's
// inbox too; it can be revoked; and the backend is told who was not there.
func TestStoredOverHTTP(t *testing.T) {
	const secret = "a secret of a test"
	told := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get(callback.HeaderSignature) == "" {
			t.Error("no signature")
		}
		told <- string(body)
	}))
	defer hook.Close()
	addrs := startAllInOne(t, func(c *AllInOneConfig) {
		c.Offline.URL, c.Offline.Secret, c.Offline.Send.Grace = hook.URL, secret, 100*time.Millisecond
	})
	base := "http://" + addrs["http"]

	const chat = `{"op":1000,"kind":"chat","body":"hello","sender":7,"wait":"stored","wait_ms":3000,"targets":[{"mid":42},{"room":"group://1"}]}`
	push := func() (id string, stored bool) {
		status, answer := postKey(t, base+"/v1/push", "one", chat)
		var pushed struct {
			MsgID   string `json:"msg_id"`
			Stored  bool
			Results []struct{ Seq uint64 }
		}
		if err := json.Unmarshal([]byte(answer), &pushed); err != nil || status != 202 || len(pushed.Results) != 2 ||
			pushed.Stored && (pushed.Results[0].Seq != 1 || pushed.Results[1].Seq != 1) {
			t.Errorf("push: %d %s", status, answer)
		}
		return pushed.MsgID, pushed.Stored
	}
	ids := make([]string, 50)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() { ids[i], _ = push() })
	}
	all.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("ids %s and %s", ids[0], id)
		}
	}
	for tries := 0; ; tries++ { // a busy machine may need more than one budget
		if _, stored := push(); stored {
			break
		} else if tries == 10 {
			t.Fatal("not stored")
		}
	}
	if status, answer := postKey(t, base+"/v1/push", "one", strings.Replace(chat, "hello", "other", 1)); status != 409 || !strings.Contains(answer, ids[0]) {
		t.Errorf("the key with another body: %d %s", status, answer)
	}
	for _, tl := range []string{"u:42", "r:group://1", "u:7"} {
		p := kept(t, base, tl)
		if p.Top != 1 || len(p.Messages) != 1 || p.Messages[0].MsgID != ids[0] || string(p.Messages[0].Body) != "hello" {
			t.Errorf("%s: %+v", tl, p)
		}
	}
	select {
	case body := <-told:
		if !strings.Contains(body, `"mid":42,"timeline":"u:42","epoch":1,"seq":1,"msg_id":"`+ids[0]) || strings.Contains(body, `"mid":7`) {
			t.Errorf("offline push: %s", body)
		}
	case <-time.After(time.Minute):
		t.Error("nobody was told that 42 is away")
	}

	if status, answer := postKey(t, base+"/v1/messages/revoke", "", fmt.Sprintf(`{"timeline":"u:42","msg_id":%q,"by":7}`, ids[0])); status != 200 {
		t.Fatalf("revoke: %d %s", status, answer)
	}
	deadline := time.After(time.Minute)
	for p := kept(t, base, "u:42"); len(p.Messages) != 2; p = kept(t, base, "u:42") {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("no event of the revoke: %+v", p)
		}
	}
	p := kept(t, base, "u:42")
	if p.Messages[0].Gone != "revoked" || len(p.Messages[0].Body) != 0 || p.Messages[1].Kind != "revoke" || string(p.Messages[1].Body) != `{"seq":1,"msg_id":"`+ids[0]+`"}` {
		t.Errorf("after the revoke: %+v", p)
	}
	if p := kept(t, base, "r:group://1"); p.Messages[0].Gone != "" {
		t.Errorf("the room's copy: %+v", p)
	}
}
