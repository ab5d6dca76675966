package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
)

const appJSON = "application/json"

func TestPush(t *testing.T) {
	env := logictest.New(t)
	world(t, env)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) {
		c.OnlineInterval, c.NodesInterval = patience, patience // what was read at the start is not too old yet
	})
	url, _ := serve(t, env, core, nil)
	got := do(t, "POST", url+"/v1/push", appJSON+"; charset=utf-8", `{"op":1000,"body":"héllo","urgent":true,"targets":[
		{"room":"live://1000"},{"key":"k1"},{"mid":42},{"mid":43},{"key":"nobody"},{"room":"live://empty"},{"all":true,"speed":5},{"key":"k1"},{"all":true}]}`)
	if got.status != http.StatusAccepted || got.contentType != jsonType {
		t.Fatalf("%d %s %s", got.status, got.contentType, got.body)
	}
	var reply struct {
		MsgID   string `json:"msg_id"`
		Results json.RawMessage
	}
	if err := json.Unmarshal([]byte(got.body), &reply); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(reply.MsgID) {
		t.Errorf("msg_id %q", reply.MsgID)
	}
	want := `[{"target":{"room":"live://1000"},"state":"online"},{"target":{"key":"k1"},"state":"online"},{"target":{"mid":42},"state":"online"},` +
		`{"target":{"mid":43},"state":"offline"},{"target":{"key":"nobody"},"state":"offline"},{"target":{"room":"live://empty"},"state":"unknown"},` +
		`{"target":{"all":true,"speed":5},"state":"online"}]`
	if string(reply.Results) != want {
		t.Errorf("results\n got %s\nwant %s", reply.Results, want)
	}
	for _, r := range env.Records(t) {
		if r.Operation != 1000 || string(r.Msg) != "héllo" || message.Flags(r.Flags) != message.Urgent {
			t.Errorf("record %v", r)
		}
		if id := (message.ID)(r.MsgId); id.String() != reply.MsgID {
			t.Errorf("record of %s, reply %s", id, reply.MsgID)
		}
	}
}

// Who does not ask for results costs no look-up of presence.
func TestPushWithoutResults(t *testing.T) {
	env := logictest.New(t)
	world(t, env)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	env.Redis.Close()
	got := do(t, "POST", url+"/v1/push", appJSON, `{"op":1,"body":"x","results":false,"targets":[{"mid":1},{"key":"k1"}]}`)
	if got.status != http.StatusAccepted || !regexp.MustCompile(`^\{"msg_id":"[0-9a-f]{32}"\}\n?$`).MatchString(got.body) {
		t.Errorf("%d %s", got.status, got.body)
	}
	failures := env.Metrics.Counter("perseid_presence_errors_total", "Presence calls that failed, by what they were for.",
		"purpose", []string{"connect", "disconnect", "refresh", "leave", "route", "state", "online", "broadcast", "request"})
	const state = 5
	if n := failures.Value(state); n != 0 {
		t.Errorf("presence was asked, and failed %d times", n)
	}
	if got := do(t, "POST", url+"/v1/push", appJSON, onePush[:len(onePush)-1]+`,"results":true}`); !strings.Contains(got.body, `"results":[{"target":{"mid":1}`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if failures.Value(state) != 1 {
		t.Error("presence was not asked")
	}
}

func TestPushBase64(t *testing.T) {
	env := logictest.New(t)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	if got := do(t, "POST", url+"/v1/push", appJSON, `{"op":-1,"body_base64":"AP8=","targets":[{"mid":1}]}`); got.status != http.StatusAccepted {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if r := env.Records(t); len(r) != 1 || string(r[0].Msg) != "\x00\xff" || r[0].Operation != -1 {
		t.Errorf("records %v", r)
	}
}

func TestPushErrors(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.MaxBodyBytes, c.MaxTargets = 1000, 3 })
	url, _ := serve(t, env, core, nil)
	const target = `"targets":[{"mid":1}]`
	for _, c := range []struct {
		name, method, path, contentType, body string
		status                                int
		reason                                logic.Reason
	}{
		{"no JSON", "POST", "/v1/push", appJSON, `hello`, 400, httpapi.BadJSON},
		{"nothing", "POST", "/v1/push", appJSON, ``, 400, httpapi.BadJSON},
		{"null", "POST", "/v1/push", appJSON, `null`, 400, httpapi.BadJSON},
		{"cut off", "POST", "/v1/push", appJSON, `{"op":1`, 400, httpapi.BadJSON},
		{"two objects", "POST", "/v1/push", appJSON, `{"op":1,"body":"",` + target + `} {}`, 400, httpapi.BadJSON},
		{"not UTF-8", "POST", "/v1/push", appJSON, "{\"op\":1,\"body\":\"\xff\"," + target + "}", 400, httpapi.BadJSON},
		{"unknown field", "POST", "/v1/push", appJSON, `{"op":1,"body":"","to":1,` + target + `}`, 400, httpapi.UnknownField},
		{"unknown field of a target", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"user":1}]}`, 400, httpapi.UnknownField},
		{"no op", "POST", "/v1/push", appJSON, `{"body":"",` + target + `}`, 400, httpapi.BadField},
		{"op is text", "POST", "/v1/push", appJSON, `{"op":"1","body":"",` + target + `}`, 400, httpapi.BadField},
		{"op is large", "POST", "/v1/push", appJSON, `{"op":2147483648,"body":"",` + target + `}`, 400, httpapi.BadField},
		{"no body", "POST", "/v1/push", appJSON, `{"op":1,` + target + `}`, 400, httpapi.BadField},
		{"two bodies", "POST", "/v1/push", appJSON, `{"op":1,"body":"","body_base64":"",` + target + `}`, 400, httpapi.BadField},
		{"bad base64", "POST", "/v1/push", appJSON, `{"op":1,"body_base64":"A",` + target + `}`, 400, httpapi.BadField},
		{"no targets", "POST", "/v1/push", appJSON, `{"op":1,"body":""}`, 400, logic.NoTargets},
		{"empty targets", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[]}`, 400, logic.NoTargets},
		{"many targets", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"mid":1},{"mid":2},{"mid":3},{"mid":4}]}`, 400, logic.TooManyTargets},
		{"empty target", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{}]}`, 400, logic.BadTarget},
		{"null target", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[null]}`, 400, logic.BadTarget},
		{"two in one", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"mid":1,"key":"k"}]}`, 400, logic.BadTarget},
		{"all false", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"all":false}]}`, 400, logic.BadTarget},
		{"speed of a key", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"key":"k","speed":1}]}`, 400, logic.BadTarget},
		{"negative speed", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"all":true,"speed":-1}]}`, 400, logic.BadTarget},
		{"mid 0", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"mid":0}]}`, 400, logic.BadTarget},
		{"empty key", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"key":""}]}`, 400, logic.BadTarget},
		{"long key", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"key":"` + strings.Repeat("k", 257) + `"}]}`, 400, logic.BadTarget},
		{"room without type", "POST", "/v1/push", appJSON, `{"op":1,"body":"","targets":[{"room":"1000"}]}`, 400, logic.BadTarget},
		{"store", "POST", "/v1/push", appJSON, `{"op":1,"body":"","store":true,` + target + `}`, 400, logic.NotSupported},
		{"stored by its kind", "POST", "/v1/push", appJSON, `{"op":1,"body":"","kind":"chat",` + target + `}`, 400, logic.NotSupported},
		{"unknown kind", "POST", "/v1/push", appJSON, `{"op":1,"body":"","kind":"chit",` + target + `}`, 400, httpapi.BadField},
		{"unknown priority", "POST", "/v1/push", appJSON, `{"op":1,"body":"","priority":"highest",` + target + `}`, 400, httpapi.BadField},
		{"two priorities", "POST", "/v1/push", appJSON, `{"op":1,"body":"","priority":"high","urgent":true,` + target + `}`, 400, httpapi.BadField},
		{"low for a user", "POST", "/v1/push", appJSON, `{"op":1,"body":"","priority":"low",` + target + `}`, 400, logic.BadFlags},
		{"conflate for a user", "POST", "/v1/push", appJSON, `{"op":1,"body":"","conflate":"k",` + target + `}`, 400, logic.BadFlags},
		{"long conflate", "POST", "/v1/push", appJSON, `{"op":1,"body":"","conflate":"` + strings.Repeat("k", 65) + `","targets":[{"room":"a://b"}]}`, 400, httpapi.BadField},
		{"negative ttl", "POST", "/v1/push", appJSON, `{"op":1,"body":"","ttl_ms":-1,` + target + `}`, 400, httpapi.BadField},
		{"absurd ttl", "POST", "/v1/push", appJSON, `{"op":1,"body":"","ttl_ms":9223372036854775807,` + target + `}`, 400, httpapi.BadField},
		{"long ttl", "POST", "/v1/push", appJSON, `{"op":1,"body":"","ttl_ms":9223372036854,` + target + `}`, 400, httpapi.BadField},
		{"wait for nothing", "POST", "/v1/push", appJSON, `{"op":1,"body":"","wait":"stored",` + target + `}`, 400, logic.BadFlags},
		{"wait without results", "POST", "/v1/push", appJSON, `{"op":1,"body":"","store":true,"wait":"stored","results":false,` + target + `}`, 400, httpapi.BadField},
		{"wait without what", "POST", "/v1/push", appJSON, `{"op":1,"body":"","wait_ms":1,` + target + `}`, 400, httpapi.BadField},
		{"unread but not stored", "POST", "/v1/push", appJSON, `{"op":1,"body":"","unread":true,` + target + `}`, 400, logic.BadFlags},
		{"archive but not store", "POST", "/v1/push", appJSON, `{"op":1,"body":"","archive":true,"store":false,` + target + `}`, 400, logic.BadFlags},
		{"client id of nobody", "POST", "/v1/push", appJSON, `{"op":1,"body":"","client_msg_id":"1",` + target + `}`, 400, httpapi.BadField},
		{"negative sender", "POST", "/v1/push", appJSON, `{"op":1,"body":"","sender":-1,` + target + `}`, 400, httpapi.BadField},
		{"large body", "POST", "/v1/push", appJSON, `{"op":1,"body":"` + strings.Repeat("x", 1001) + `",` + target + `}`, 413, logic.TooLarge},
		{"large request", "POST", "/v1/push", appJSON, strings.Repeat(" ", 100_000), 413, logic.TooLarge},
		{"form", "POST", "/v1/push", "application/x-www-form-urlencoded", `{"op":1,"body":"",` + target + `}`, 415, httpapi.UnsupportedMediaType},
		{"no type", "POST", "/v1/push", "", `{"op":1,"body":"",` + target + `}`, 415, httpapi.UnsupportedMediaType},
		{"wrong method", "GET", "/v1/push", "", "", 405, httpapi.MethodNotAllowed},
		{"wrong path", "POST", "/v1/pull", appJSON, "{}", 404, httpapi.NotFound},
		{"slash too much", "POST", "/v1/push/x", appJSON, "{}", 404, httpapi.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(t, c.method, url+c.path, c.contentType, c.body)
			reason, text := problemOf(t, got)
			if got.status != c.status || reason != c.reason || text == "" {
				t.Errorf("got %d %s, want %d %s", got.status, got.body, c.status, c.reason)
			}
			if allow := got.header.Get("Allow"); (c.status == 405) != (allow == "POST") {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
	if n := len(env.Records(t)); n != 0 {
		t.Errorf("%d records of refused pushes", n)
	}
}

// problemOf reads the error body and checks that its code is the status.
func problemOf(t testing.TB, a answer) (logic.Reason, string) {
	t.Helper()
	var p struct {
		Code    int
		Reason  logic.Reason
		Message string
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.contentType != jsonType || p.Code != a.status {
		t.Errorf("no problem: %d %s %s (%v)", a.status, a.contentType, a.body, err)
	}
	return p.Reason, p.Message
}

const onePush = `{"op":1,"body":"x","targets":[{"mid":1},{"room":"a://b"}]}`

// Presence away must not keep anybody from pushing.
func TestPushWithoutPresence(t *testing.T) {
	env := logictest.New(t)
	world(t, env)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	env.Redis.Close()
	got := do(t, "POST", url+"/v1/push", appJSON, onePush)
	if got.status != http.StatusAccepted || !strings.Contains(got.body, `"results":[{"target":{"mid":1},"state":"unknown"},{"target":{"room":"a://b"},"state":"unknown"}]`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := do(t, "POST", url+"/goim/push/keys?operation=1&keys=k1", "", "x"); got.body != `{"code":0,"message":""}` {
		t.Errorf("%d %s", got.status, got.body)
	}
	// What was known is still told.
	if got := do(t, "GET", url+"/goim/online/room?type=live&rooms=1000", "", ""); !strings.Contains(got.body, `"1000":100`) {
		t.Errorf("%s", got.body)
	}
	if n := len(env.Records(t)); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
}

// failingLog is a log that does not take messages.
type failingLog struct {
	append func(context.Context) error
}

func (l failingLog) Append(ctx context.Context, _ message.Message, _ []message.Target) error {
	return l.append(ctx)
}
func (failingLog) Ping(context.Context) error { return errors.New("away") }

func TestLogAway(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
		d.Log = failingLog{func(context.Context) error { return errors.New("broker 10.1.2.3 is away") }}
	})
	url, _ := serve(t, env, core, nil)
	const text = "logic: the message log did not accept the push in time"
	for _, c := range []struct{ path, body string }{
		{"/goim/push/keys?operation=1&keys=k", `{"code":-400,"message":""}`},
		{"/goim/push/mids?operation=1&mids=1", `{"code":-500,"message":"` + text + `"}`},
		{"/goim/push/room?operation=1&type=a&room=b", `{"code":-500,"message":"` + text + `"}`},
		{"/goim/push/all?operation=1", `{"code":-500,"message":"` + text + `"}`},
	} {
		if got := do(t, "POST", url+c.path, "", "x"); got.status != 200 || got.contentType != jsonType || got.body != c.body {
			t.Errorf("%s: %d %s %s", c.path, got.status, got.contentType, got.body)
		}
	}
	got := do(t, "POST", url+"/v1/push", appJSON, onePush)
	if reason, _ := problemOf(t, got); got.status != 503 || reason != httpapi.LogUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	if strings.Contains(got.body, "10.1.2.3") {
		t.Errorf("the answer names a broker: %s", got.body)
	}
}

// A log that hangs is given up at its deadline.
func TestLogHangs(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, d *logic.Deps) {
		c.AppendTimeout, d.Log = 100_000_000, failingLog{func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	})
	url, _ := serve(t, env, core, nil)
	if got := do(t, "POST", url+"/v1/push", appJSON, onePush); got.status != 503 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestDraining(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	url, _ := serve(t, env, core, nil)
	core.Drain()
	got := do(t, "POST", url+"/v1/push", appJSON, onePush)
	if reason, _ := problemOf(t, got); got.status != 503 || reason != httpapi.Draining || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	got = do(t, "POST", url+"/goim/push/all?operation=1", "", "x")
	if got.status != 503 || !strings.HasPrefix(got.body, `{"code":-500,`) || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	if got := do(t, "GET", url+"/goim/online/total", "", ""); got.status != 200 {
		t.Errorf("reading while draining: %d", got.status)
	}
}
