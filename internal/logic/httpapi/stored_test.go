package httpapi_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	recordv1 "github.com/perseid-im/perseid/api/record/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// kept is timelines that find what the test put in, and requests that are
// remembered.
type kept struct {
	logic.Timelines
	off string // prefix of timelines without an archive

	mu       sync.Mutex
	found    map[message.Timeline]timeline.Position
	requests map[string][sha256.Size]byte
	ids      map[string]message.ID
	away     bool
}

func newKept() *kept {
	return &kept{off: "r:live://", found: map[message.Timeline]timeline.Position{}, requests: map[string][sha256.Size]byte{}, ids: map[string]message.ID{}}
}

func (k *kept) ModeOf(tl message.Timeline) timeline.Mode {
	if strings.HasPrefix(string(tl), k.off) {
		return timeline.Off
	}
	return timeline.Required
}

func (k *kept) Find(_ context.Context, tl message.Timeline, _ message.ID) (timeline.Position, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, ok := k.found[tl]
	if !ok {
		return at, false, timeline.ErrNotFound
	}
	return at, true, nil
}

func (k *kept) Remember(_ context.Context, key string, id message.ID, sum [sha256.Size]byte, _ time.Duration) (message.ID, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away {
		return message.ID{}, false, errors.New("away")
	}
	if first, ok := k.requests[key]; ok {
		return k.ids[key], first == sum, nil
	}
	k.requests[key], k.ids[key] = sum, id
	return id, true, nil
}

func (k *kept) put(tl message.Timeline, seq uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found[tl] = timeline.Position{Epoch: 1, Seq: seq}
}

func serveKept(t *testing.T) (*logictest.Env, *kept, string) {
	env, k := logictest.New(t), newKept()
	url, _ := serve(t, env, env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines, d.Requests = k, k }), nil)
	return env, k, url
}

func records(t *testing.T, env *logictest.Env) []string {
	var got []string
	for _, r := range env.Records(t) {
		targets := fmt.Sprint(r.Mids)
		if r.Room != "" {
			targets = r.Room
		}
		got = append(got, fmt.Sprintf("%s %b %v %d", targets, r.Flags, message.Kind(r.Kind), r.Sender))
	}
	slices.Sort(got)
	return got
}

// The flags of docs/http-api.md for a chat message of a user to a user
// and to rooms with and without an archive, and the sender's copy.
func TestFlagsByKind(t *testing.T) {
	env, _, url := serveKept(t)
	got := do(t, "POST", url+"/v1/push", appJSON, `{"op":1,"body":"x","kind":"chat","sender":7,"targets":[{"mid":1},{"room":"live://1"},{"room":"group://1"}]}`)
	if got.status != http.StatusAccepted {
		t.Fatal(got.body)
	}
	want := []string{"[1] 11111 chat 7", "[7] 10011 chat 7", "group://1 11 chat 7", "live://1 1 chat 7"}
	if r := records(t, env); !slices.Equal(r, want) {
		t.Errorf("\n got %q\nwant %q", r, want)
	}
}

// What the caller says of a flag goes before the kind.
func TestFlagsOfTheCaller(t *testing.T) {
	env, _, url := serveKept(t)
	for _, body := range []string{
		`{"op":1,"body":"x","kind":"chat","sender":7,"unread":false,"sender_sync":false,"offline_push":false,"targets":[{"mid":1}]}`,
		`{"op":1,"body":"x","kind":"chat","store":false,"targets":[{"mid":2}]}`,
		`{"op":1,"body":"x","kind":"signal","urgent":false,"targets":[{"mid":3}]}`,
		`{"op":1,"body":"x","archive":true,"targets":[{"mid":4}]}`,
		`{"op":1,"body":"x","priority":"low","conflate":"likes","targets":[{"room":"a://5"}]}`,
		`{"op":1,"body":"x","priority":"high","targets":[{"room":"a://6"}]}`,
		`{"op":1,"body":"x","store":true,"targets":[{"all":true}]}`,
	} {
		if got := do(t, "POST", url+"/v1/push", appJSON, body); got.status != http.StatusAccepted {
			t.Errorf("%s: %s", body, got.body)
		}
	}
	want := []string{"[1] 11 chat 7", "[2] 0 chat 0", "[3] 0 signal 0", "[4] 11 none 0", "[] 11 none 0", "a://5 1000000 none 0", "a://6 100000 none 0"}
	if r := records(t, env); !slices.Equal(r, want) {
		t.Errorf("\n got %q\nwant %q", r, want)
	}
	if all := env.Records(t); !slices.ContainsFunc(all, func(r *recordv1.PushMsg) bool { return r.Room == "a://5" && r.Conflate == "likes" }) {
		t.Error("no record has the conflation key")
	}
}

func TestStoredRefuses(t *testing.T) {
	env, _, url := serveKept(t)
	for _, c := range []struct {
		body   string
		reason logic.Reason
	}{
		{`"store":true,"targets":[{"key":"k"}]`, logic.BadFlags},
		{`"kind":"chat","targets":[{"mid":1},{"key":"k"}]`, logic.BadFlags},
		{`"archive":true,"targets":[{"room":"live://1"}]`, logic.NoArchive},
		{`"store":true,"archive":false,"targets":[{"mid":1}]`, logic.BadFlags},
		{`"store":true,"sender_sync":true,"targets":[{"mid":1}]`, logic.BadFlags},
		{`"store":true,"sender":7,"sender_sync":true,"targets":[{"room":"a://b"}]`, logic.BadFlags},
		{`"store":true,"conflate":"k","targets":[{"room":"a://b"}]`, logic.BadFlags},
		// Symptom: accepted, and without effect, or against what was asked: what has
		// a position is neither left out nor overtakes (its receivers would ask for
		// it), and a top, which heartbeats tell, makes everybody fetch a push to all
		// however slow it is and whether it was canceled. Cause: only conflate was
		// looked at together with store.
		{`"store":true,"priority":"low","targets":[{"room":"a://b"}]`, logic.BadFlags},
		{`"store":true,"priority":"high","targets":[{"room":"a://b"}]`, logic.BadFlags},
		{`"kind":"chat","urgent":true,"targets":[{"mid":1},{"room":"a://b"}]`, logic.BadFlags},
		{`"store":true,"targets":[{"all":true,"speed":10}]`, logic.BadFlags},
		{`"kind":"notice","targets":[{"all":true,"speed":10}]`, logic.BadFlags},
		{`"store":true,"wait":"stored","wait_ms":3600000,"targets":[{"mid":1}]`, logic.BadField},
		{`"store":true,"wait":"stored","targets":[` + strings.Repeat(`{"mid":1},`, 16) + `{"mid":1}]`, logic.TooManyTargets},
	} {
		got := do(t, "POST", url+"/v1/push", appJSON, `{"op":1,"body":"x",`+c.body+`}`)
		if reason, text := problemOf(t, got); got.status != 400 || reason != c.reason || text == "" {
			t.Errorf("%s: %d %s", c.body, got.status, got.body)
		}
	}
	// Symptom: the refusal of a room with a long name spoke of keys. Cause: one
	// text for all that cannot be stored.
	long := do(t, "POST", url+"/v1/push", appJSON, `{"op":1,"body":"x","store":true,"targets":[{"room":"a://`+strings.Repeat("b", 250)+`"}]}`)
	if reason, text := problemOf(t, long); reason != logic.BadFlags || !strings.Contains(text, "253 bytes") || strings.Contains(text, "key") {
		t.Errorf("%d %s", long.status, long.body)
	}
	if n := len(env.Records(t)); n != 0 {
		t.Errorf("%d records", n)
	}
}

func (a answer) id(t *testing.T) string {
	t.Helper()
	_, id, ok := strings.Cut(a.body, `"msg_id":"`)
	if !ok || len(id) < 32 {
		t.Fatalf("no msg_id: %d %s", a.status, a.body)
	}
	return id[:32]
}

// A repeated request has the first one's id, and goes to the log again: the
// first may have failed half way. The key with another body is refused and
// names the first; a request that was refused does not use the key up.
func TestIdempotencyKey(t *testing.T) {
	env, k, url := serveKept(t)
	push := func(key, body string) answer {
		request, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v1/push", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = http.Header{"Content-Type": {appJSON}, "Idempotency-Key": {key}}
		return send(t, request)
	}
	const first = `{"op":1,"body":"x","store":true,"targets":[{"mid":1}]}`
	if got := push("a", `{"op":1,"body":"x","targets":[{"mid":1}]}`); got.status != 400 {
		t.Errorf("transient: %d %s", got.status, got.body)
	}
	id := push("a", first).id(t)
	if again := push("a", `{"targets":[{"mid":1}],"store":true, "op":1,"body":"x"}`).id(t); again != id {
		t.Errorf("%s, then %s", id, again)
	}
	if other := push("b", first).id(t); other == id {
		t.Error("another key has the same id")
	}
	for _, body := range []string{
		`{"op":1,"body":"y","store":true,"targets":[{"mid":1}]}`, `{"op":2,"body":"x","store":true,"targets":[{"mid":1}]}`,
		`{"op":1,"body":"x","store":true,"targets":[{"mid":2}]}`, `{"op":1,"body":"x","store":true,"unread":true,"targets":[{"mid":1}]}`,
	} {
		got := push("a", body)
		if reason, text := problemOf(t, got); got.status != http.StatusConflict || reason != logic.KeyReused || !strings.Contains(text, id) {
			t.Errorf("%s: %d %s", body, got.status, got.body)
		}
	}
	for _, key := range []string{"", strings.Repeat("k", 256)} {
		if got := push(key, first); got.status != 400 {
			t.Errorf("%d bytes of key: %d", len(key), got.status)
		}
	}
	if n := len(env.Records(t)); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
	k.mu.Lock()
	k.away = true
	k.mu.Unlock()
	if again := push("a", first).id(t); again != id {
		t.Errorf("without memory %s", again)
	}
}

// The id of a message that its sender names is the same whoever brings it.
func TestClientMessageID(t *testing.T) {
	_, _, url := serveKept(t)
	got := do(t, "POST", url+"/v1/push", appJSON, `{"op":1,"body":"x","kind":"chat","sender":7,"client_msg_id":"m1","targets":[{"mid":1}]}`)
	if id := got.id(t); id != logic.ClientMessageID(7, "m1").String() {
		t.Errorf("%s", id)
	}
}

// On a clock that stands while something runs: the wait is over no sooner than
// the message was looked for.
func TestWaitStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept()
		server := serverOn(t, logic.Deps{Presence: nobody{}, Log: acceptingLog{new([]message.Target)}, Timelines: k})
		push := func(waitMS int) (int, string) {
			body := fmt.Sprintf(`{"op":1,"body":"x","store":true,"wait":"stored","wait_ms":%d,"targets":[{"mid":1},{"mid":2}]}`, waitMS)
			request := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/push", strings.NewReader(body))
			request.Header.Set("Content-Type", appJSON)
			w := httptest.NewRecorder()
			server.ServeHTTP(w, request)
			return w.Code, w.Body.String()
		}
		k.put("u:1", 5)
		begin := time.Now()
		status, body := push(30)
		want := `"stored":false,"results":[{"target":{"mid":1},"state":"offline","epoch":1,"seq":5},{"target":{"mid":2},"state":"offline"}]}`
		if status != 202 || !strings.HasSuffix(body, want) {
			t.Errorf("%d %s", status, body)
		}
		if took := time.Since(begin); took != 30*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		k.put("u:2", 9)
		status, body = push(3000)
		if status != 202 || !strings.Contains(body, `"stored":true,`) || !strings.Contains(body, `"seq":9}`) {
			t.Errorf("%d %s", status, body)
		}
	})
}

// store=1 on goim's routes; without it nothing changes.
func TestGoimStore(t *testing.T) {
	env, _, url := serveKept(t)
	for _, c := range []struct {
		path, body string
		status     int
		id         bool
	}{
		{"/goim/push/mids?operation=1&mids=1&store=1", `{"code":0,"message":""}`, 200, true},
		{"/goim/push/room?operation=1&type=live&room=1&store=1", `{"code":0,"message":""}`, 200, true},
		{"/goim/push/all?operation=1&store=1", `{"code":0,"message":""}`, 200, true},
		{"/goim/push/mids?operation=1&mids=2&store=0", `{"code":0,"message":""}`, 200, false},
		{"/goim/push/keys?operation=1&keys=k&store=1", `{"code":-400,"message":""}`, 200, false},
		{"/goim/push/mids?operation=1&mids=0&store=1", `{"code":-400,"message":"target 0: mid: a user has a number of 1 or more"}`, 200, false},
		{"/goim/push/mids?operation=1&mids=1&store=yes", `{"code":-400,"message":"store: 0 or 1"}`, 400, false},
	} {
		got := do(t, "POST", url+c.path, "", "x")
		if got.status != c.status || got.body != c.body || (got.header.Get("X-Msg-Id") != "") != c.id {
			t.Errorf("%s: %d %s %s", c.path, got.status, got.body, got.header.Get("X-Msg-Id"))
		}
	}
	want := []string{"[1] 11 none 0", "[2] 0 none 0", "[] 11 none 0", "live://1 1 none 0"}
	if r := records(t, env); !slices.Equal(r, want) {
		t.Errorf("\n got %q\nwant %q", r, want)
	}
}
