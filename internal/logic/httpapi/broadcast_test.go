package httpapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

// A push to all at a speed is found by the id of its answer, goim's by the
// header, and canceled.
func TestBroadcastRoutes(t *testing.T) {
	env := logictest.New(t)
	world(t, env)
	core := env.Core(t, nil)
	url, _ := serve(t, env, core, nil)
	if got := do(t, "GET", url+"/v1/push/all", "", ""); got.status != 200 || got.contentType != jsonType || got.body != `{"pushes":[]}` {
		t.Errorf("nothing under way: %d %s", got.status, got.body)
	}

	goim := do(t, "POST", url+"/goim/push/all?operation=1000&speed=7", "", "x").header.Get("X-Msg-Id")
	var pushed struct {
		MsgID string `json:"msg_id"`
	}
	if err := json.Unmarshal([]byte(do(t, "POST", url+"/v1/push", appJSON, `{"op":1,"body":"x","targets":[{"all":true,"speed":64}]}`).body), &pushed); err != nil {
		t.Fatal(err)
	}
	id, ok := message.ParseID(pushed.MsgID)
	if !ok {
		t.Fatalf("msg_id %q", pushed.MsgID)
	}
	if _, err := env.Presence.Report(t.Context(), presence.Node{Name: "comet-1", Incarnation: 1}, []presence.Share{{
		ID: id, Comets: 2, Speed: 32, StartedMS: 1_700_000_000_123, Total: 30, Delivered: 4, Filtered: 2, Slow: 1,
	}}); err != nil {
		t.Fatal(err)
	}
	accepted, err := json.Marshal(id.UnixMS())
	if err != nil {
		t.Fatal(err)
	}
	rest := `,"comets":2,"comets_done":0,"comets_lost":0,"sessions_total":30,"sessions_done":7,"outcomes":{"delivered":4,"filtered":2,"slow":1,"canceled":0}}`
	running := `{"msg_id":"` + pushed.MsgID + `","state":"running","speed":64,"accepted_ms":` + string(accepted) + `,"started_ms":1700000000123` + rest
	if got := do(t, "GET", url+"/v1/push/all/"+pushed.MsgID, "", ""); got.status != 200 || got.contentType != jsonType || got.body != running {
		t.Errorf("running: %d %s\nwant %s", got.status, got.body, running)
	}
	list := do(t, "GET", url+"/v1/push/all", "", "")
	if list.status != 200 || !strings.HasPrefix(list.body, `{"pushes":[{"msg_id":"`) || !strings.Contains(list.body, running) ||
		!strings.Contains(list.body, `{"msg_id":"`+goim+`","state":"waiting","speed":7,`) {
		t.Errorf("list: %d %s", list.status, list.body)
	}

	canceled := do(t, "DELETE", url+"/v1/push/all/"+pushed.MsgID, "", "")
	if canceled.status != 200 || !strings.Contains(canceled.body, `"state":"canceled"`) || !strings.Contains(canceled.body, `"canceled_ms":`) || !strings.HasSuffix(canceled.body, rest) {
		t.Errorf("cancel: %d %s", canceled.status, canceled.body)
	}
	for _, method := range []string{"DELETE", "GET"} {
		if got := do(t, method, url+"/v1/push/all/"+pushed.MsgID, "", ""); got.status != 200 || got.body != canceled.body {
			t.Errorf("%s afterwards: %d %s\nwant %s", method, got.status, got.body, canceled.body)
		}
	}
}

func TestBroadcastErrors(t *testing.T) {
	env := logictest.New(t)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	nobody := strings.Repeat("0", 32)
	for _, c := range []struct {
		method, path string
		status       int
		reason       logic.Reason
		allow        string
	}{
		{"GET", "/v1/push/all/" + nobody, 404, logic.UnknownPush, ""},
		{"DELETE", "/v1/push/all/" + nobody, 404, logic.UnknownPush, ""},
		{"GET", "/v1/push/all/1", 400, httpapi.BadField, ""},
		{"DELETE", "/v1/push/all/" + nobody + "0", 400, httpapi.BadField, ""},
		{"DELETE", "/v1/push/all/" + nobody[1:] + "A", 400, httpapi.BadField, ""},
		{"DELETE", "/v1/push/all/" + strings.Repeat("f", 5000), 400, httpapi.BadField, ""},
		{"GET", "/v1/push/all/%00%ff", 400, httpapi.BadField, ""},
		{"GET", "/v1/push/all/" + nobody + "/x", 404, httpapi.NotFound, ""},
		{"GET", "/v1/push/all/", 404, httpapi.NotFound, ""},
		{"POST", "/v1/push/all", 405, httpapi.MethodNotAllowed, "GET"},
		{"DELETE", "/v1/push/all", 405, httpapi.MethodNotAllowed, "GET"},
		{"POST", "/v1/push/all/" + nobody, 405, httpapi.MethodNotAllowed, "GET, DELETE"},
	} {
		got := do(t, c.method, url+c.path, "", "")
		reason, text := problemOf(t, got)
		if got.status != c.status || reason != c.reason || text == "" || got.header.Get("Allow") != c.allow {
			t.Errorf("%s %.60s: %d %s, Allow %q", c.method, c.path, got.status, got.body, got.header.Get("Allow"))
		}
	}
	env.Redis.SetError("LOADING away 10.1.2.3")
	defer env.Redis.SetError("")
	for _, c := range []struct{ method, path string }{{"GET", ""}, {"GET", "/" + nobody}, {"DELETE", "/" + nobody}} {
		got := do(t, c.method, url+"/v1/push/all"+c.path, "", "")
		if reason, _ := problemOf(t, got); got.status != 503 || reason != httpapi.PresenceUnavailable || got.header.Get("Retry-After") == "" || strings.Contains(got.body, "10.1.2.3") {
			t.Errorf("%s %s without presence: %d %s", c.method, c.path, got.status, got.body)
		}
	}
}
