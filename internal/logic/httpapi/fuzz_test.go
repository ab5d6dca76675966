package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// FuzzQuery feeds parameters to every goim route and a body to /v1/push: no
// panic, goim's envelope with one of goim's codes on its routes, and a reason
// on ours.
func FuzzQuery(f *testing.F) {
	f.Add("operation=1000&keys=a&keys=b&mids=1&type=live&room=1&rooms=1&limit=5&speed=1&platform=web", `{"op":1,"body":"x","targets":[{"mid":1}]}`)
	f.Add("operation=abc", `{"op":1,"body_base64":"AP8=","targets":[{"all":true,"speed":1},{"key":"k"},{"room":"a://b"}]}`)
	f.Add("operation=2147483648&mids=1,2&limit=-1&type=%ff", `{"op":"x"}`)
	f.Add("timeline=u:1&after=1&limit=5&mid=1", `{"timeline":"u:1","seq":1}`)
	f.Add("timeline=r:a://b&store=1&operation=1&mids=1", `{"op":1,"body":"x","kind":"chat","priority":"low","conflate":"k","ttl_ms":5,"wait":"stored","wait_ms":1,"sender":1,"targets":[{"mid":1}]}`)
	f.Add("operation=%2b1&keys=%00&room=%ff&type=a%zz;b", `{"targets":[{}],"op":1,"body":"","store":true}`)
	f.Add("limit=9223372036854775807&type=a&rooms=", `[]`)
	var pushed []message.Target
	server := serverOn(f, logic.Deps{Presence: nobody{}, Log: acceptingLog{&pushed}})
	ask := func(t *testing.T, method, path, query, body string) *httptest.ResponseRecorder {
		request := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		request.URL = &url.URL{Path: path, RawQuery: query}
		request.Header.Set("Content-Type", appJSON)
		w := httptest.NewRecorder()
		pushed = nil
		server.ServeHTTP(w, request)
		for _, target := range pushed {
			if err := logic.CheckTarget(target); err != nil {
				t.Errorf("%s?%s: in the log: %v", path, query, err)
			}
		}
		return w
	}
	f.Fuzz(func(t *testing.T, query, body string) {
		for _, route := range []struct{ method, path string }{
			{"POST", "/goim/push/keys"}, {"POST", "/goim/push/mids"}, {"POST", "/goim/push/room"}, {"POST", "/goim/push/all"},
			{"GET", "/goim/online/top"}, {"GET", "/goim/online/room"}, {"GET", "/goim/online/total"},
			{"GET", "/goim/nodes/weighted"}, {"GET", "/goim/nodes/instances"},
		} {
			method, path := route.method, route.path
			w := ask(t, method, path, query, body)
			var e struct {
				Code    *int
				Message *string
				Data    any
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == nil || e.Message == nil {
				t.Fatalf("%s?%s: %d %q: no envelope (%v)", path, query, w.Code, w.Body, err)
			}
			bound := w.Code == http.StatusOK && (*e.Code == 0 || *e.Code == -400 || *e.Code == -500)
			refused := w.Code == http.StatusBadRequest && *e.Code == -400 && *e.Message != ""
			if !bound && !refused {
				t.Fatalf("%s?%s: %d %q", path, query, w.Code, w.Body)
			}
		}
		for _, route := range []struct{ method, path string }{
			{"GET", "/v1/messages"}, {"GET", "/v1/rooms/hot"}, {"POST", "/v1/messages/revoke"}, {"GET", "/v1/users/1/rooms"}, {"GET", "/v1/users/1/unread"},
			{"POST", "/v1/users/1/hide"}, {"POST", "/v1/users/1/clear"}, {"GET", "/v1/rooms/a/b/members"}, {"POST", "/v1/rooms/a/b/members"}, {"DELETE", "/v1/rooms/a/b/members"},
		} {
			w := ask(t, route.method, route.path, query, body)
			var p struct{ Reason, Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code < 400 || w.Code >= 500 || p.Reason == "" || p.Message == "" {
				t.Fatalf("%s %s?%s: %d %q (%v): nothing is kept here", route.method, route.path, query, w.Code, w.Body, err)
			}
		}
		w := ask(t, "POST", "/v1/push", query, body)
		var p struct {
			Code    int
			Reason  string
			Message string
			MsgID   string `json:"msg_id"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatalf("%d %q: %v", w.Code, w.Body, err)
		}
		switch {
		case w.Code == http.StatusAccepted && len(p.MsgID) == 32:
		case w.Code >= 400 && w.Code < 500 && p.Code == w.Code && p.Reason != "" && p.Message != "":
		default:
			t.Fatalf("%d %q", w.Code, w.Body)
		}
	})
}
