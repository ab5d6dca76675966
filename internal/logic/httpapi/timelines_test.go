package httpapi_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
	"github.com/perseid-im/perseid/pkg/wire"
)

// world with stored messages: the real store on a window and an archive in
// memory, and the worker of the one partition.
type storedWorld struct {
	env    *logictest.Env
	url    string
	store  *timeline.Store
	fold   timeline.Fold
	offset int64
}

func serveStored(t *testing.T) *storedWorld {
	t.Helper()
	cfg := timeline.DefaultConfig()
	cfg.RoomTypes = map[string]string{"live": "off"}
	store, err := timeline.NewStore(cfg, timelinetest.NewWindow(), timelinetest.NewArchive(),
		timeline.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := store.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	w := &storedWorld{env: logictest.New(t), store: store}
	w.url, _ = serve(t, w.env, w.env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines = store }), nil)
	w.fold, err = store.TakeFence(t.Context(), timeline.Partition{Log: "log", Generation: 1}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// put appends a message and archives it, as a worker does.
func (w *storedWorld) put(t *testing.T, tl message.Timeline, body string) message.ID {
	t.Helper()
	w.offset++
	m := message.Message{ID: message.ID{15: byte(w.offset)}, Op: 1000, Kind: message.Chat, Flags: message.Store | message.Unread, Sender: 9, AcceptedMS: 1_700_000_000_000, Body: []byte(body)}
	r, err := w.store.Append(t.Context(), timeline.Batch{Fold: w.fold, Records: []timeline.Record{{Offset: w.offset, Message: m, Timelines: []message.Timeline{tl}}}})
	if err != nil {
		t.Fatal(err)
	}
	at := r.Records[0][0]
	if at.Mode == timeline.Off {
		return m.ID
	}
	err = w.store.Archive(t.Context(), timeline.Archiving{Fold: w.fold, Records: []timeline.Positioned{
		{Offset: w.offset, Message: m, Places: []timeline.Place{{Timeline: tl, Position: at.Position, Mode: at.Mode}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return m.ID
}

// wants asks and compares status and body; a body that begins with "reason:"
// is the reason of a problem.
func (w *storedWorld) wants(t *testing.T, method, path, body string, status int, want string) {
	t.Helper()
	contentType := ""
	if body != "" {
		contentType = appJSON
	}
	got := do(t, method, w.url+path, contentType, body)
	text := got.body
	if strings.HasPrefix(want, "reason:") {
		reason, _ := problemOf(t, got)
		text = "reason:" + string(reason)
	}
	if got.status != status || text != want {
		t.Errorf("%s %s %s\n got %d %s\nwant %d %s", method, path, body, got.status, got.body, status, want)
	}
}

func TestMembers(t *testing.T) {
	w := serveStored(t)
	const members = "/v1/rooms/group/1/members"
	w.put(t, "r:group://1", "before")
	w.wants(t, "GET", members, "", 200, `{"members":[]}`)
	w.wants(t, "POST", members, `{"members":[{"mid":7,"role":"owner"},{"mid":5}]}`, 200, `{}`)
	w.wants(t, "POST", "/v1/rooms/group/2/members", `{"members":[{"mid":5,"role":"admin"}]}`, 200, `{}`)
	w.wants(t, "GET", members, "", 200, `{"members":[{"mid":5,"role":"plain","joined_seq":1},{"mid":7,"role":"owner","joined_seq":1}]}`)
	w.wants(t, "GET", members+"?limit=1", "", 200, `{"members":[{"mid":5,"role":"plain","joined_seq":1}],"after":5}`)
	w.wants(t, "GET", members+"?limit=1&after=5", "", 200, `{"members":[{"mid":7,"role":"owner","joined_seq":1}],"after":7}`)
	w.wants(t, "GET", "/v1/users/5/rooms", "", 200, `{"rooms":[{"room":"group://1","role":"plain"},{"room":"group://2","role":"admin"}]}`)
	w.wants(t, "GET", "/v1/users/5/rooms?limit=1", "", 200, `{"rooms":[{"room":"group://1","role":"plain"}],"after":"group://1"}`)
	w.wants(t, "GET", "/v1/users/5/rooms?limit=1&after=group://1", "", 200, `{"rooms":[{"room":"group://2","role":"admin"}],"after":"group://2"}`)
	w.wants(t, "DELETE", members+"?mid=7&mid=8", "", 200, `{}`)
	w.wants(t, "GET", members, "", 200, `{"members":[{"mid":5,"role":"plain","joined_seq":1}]}`)
	w.wants(t, "GET", "/v1/users/7/rooms", "", 200, `{"rooms":[]}`)

	for _, bad := range []struct{ method, path, body, reason string }{
		{"POST", members, `{"members":[]}`, "bad_field"},
		{"POST", members, `{"members":[{"mid":0}]}`, "bad_field"},
		{"POST", members, `{"members":[{"mid":1},{"mid":1}]}`, "bad_field"},
		{"POST", members, `{"members":[{"mid":1,"role":"king"}]}`, "bad_field"},
		{"POST", members, `{"mids":[1]}`, "unknown_field"},
		{"POST", members, `{"members":[` + strings.TrimSuffix(strings.Repeat(`{"mid":1},`, 1001), ",") + `]}`, "bad_field"},
		{"POST", "/v1/rooms/sys/all/members", `{"members":[{"mid":1}]}`, "bad_target"},
		{"POST", "/v1/rooms/a/" + strings.Repeat("b", 250) + "/members", `{"members":[{"mid":1}]}`, "bad_target"},
		{"GET", "/v1/rooms/a/%ff/members", "", "bad_target"},
		{"DELETE", members, "", "bad_field"},
		{"DELETE", members + "?mid=x", "", "bad_field"},
		{"GET", members + "?limit=0", "", "bad_limit"},
		{"GET", members + "?limit=1001", "", "bad_limit"},
		{"GET", members + "?after=-1", "", "bad_field"},
		{"GET", "/v1/users/0/rooms", "", "bad_field"},
		{"GET", "/v1/users/x/rooms", "", "bad_field"},
	} {
		w.wants(t, bad.method, bad.path, bad.body, 400, "reason:"+bad.reason)
	}
	w.wants(t, "PUT", members, "", 405, "reason:method_not_allowed")
}

const messagesOf = "/v1/messages?timeline=u:1"

func shown(seq int, body string) string {
	return fmt.Sprintf(`{"seq":%d,"msg_id":"%032x","kind":"chat","accepted_ms":1700000000000,"op":1000,"flags":%d,"sender":9,"body_base64":%q}`, seq, seq, 5, body)
}

func gone(seq int, why string) string {
	return fmt.Sprintf(`{"seq":%d,"msg_id":"%032x","kind":"chat","gone":%q,"accepted_ms":1700000000000}`, seq, seq, why)
}

func page(top int, next int, more bool, entries ...string) string {
	return fmt.Sprintf(`{"timeline":"u:1","epoch":1,"messages":[%s],"next":%d,"has_more":%v,"top":%d,"floor":0}`, strings.Join(entries, ","), next, more, top)
}

func TestMessagesAreShown(t *testing.T) {
	w := serveStored(t)
	for range 3 {
		w.put(t, "u:1", "x")
	}
	w.wants(t, "GET", messagesOf, "", 200, page(3, 3, false, shown(1, "eA=="), shown(2, "eA=="), shown(3, "eA==")))
	w.wants(t, "GET", messagesOf+"&after=1&limit=1&mid=1", "", 200, page(3, 2, true, shown(2, "eA==")))
	w.wants(t, "GET", messagesOf+"&mid=2", "", 403, "reason:forbidden")
	w.wants(t, "GET", "/v1/users/1/unread", "", 200, `{"timelines":[{"timeline":"u:1","epoch":1,"acked":0,"read":0,"unread":3}]}`)
	for _, bad := range []string{"&before=1&after=1", "&after=-1", "&after=99999999999999999999", "&mid=-1"} {
		w.wants(t, "GET", messagesOf+bad, "", 400, "reason:bad_field")
	}
	for _, name := range []string{"", "u:0", "u:01", "k:key", "r:live", "x"} {
		w.wants(t, "GET", "/v1/messages?timeline="+name, "", 400, "reason:bad_field")
		w.wants(t, "GET", "/v1/users/1/unread?timeline="+name, "", 400, "reason:bad_field")
	}
}

// Revoking leaves the position, tells by a message in the same timeline, and
// can be repeated.
func TestRevoke(t *testing.T) {
	w := serveStored(t)
	w.put(t, "u:1", "secret")
	id := w.put(t, "u:1", "y")
	const path = "/v1/messages/revoke"
	event := message.DeriveID("revoke:u:1", fmt.Sprintf("1 %032x", 1))
	for range 2 {
		w.wants(t, "POST", path, `{"timeline":"u:1","seq":1,"by":9}`, 200, fmt.Sprintf(`{"seq":1,"msg_id":"%032x","event_msg_id":"%v"}`, 1, event))
	}
	w.wants(t, "POST", path, `{"timeline":"u:1","msg_id":"`+id.String()+`"}`, 200,
		fmt.Sprintf(`{"seq":2,"msg_id":"%v","event_msg_id":"%v"}`, id, message.DeriveID("revoke:u:1", "2 "+id.String())))
	w.wants(t, "GET", messagesOf, "", 200, page(2, 2, false, gone(1, "revoked"), gone(2, "revoked")))
	records := w.env.Records(t)
	if len(records) != 3 {
		t.Fatalf("%d records", len(records))
	}
	r := records[0]
	if r.Operation != int32(wire.OpRevoke) || message.Kind(r.Kind) != message.Revoke || r.Sender != 9 || !slices.Equal(r.Mids, []int64{1}) ||
		message.Flags(r.Flags) != message.Store|message.Archive || message.ID(r.MsgId) != event || string(r.Msg) != fmt.Sprintf(`{"seq":1,"msg_id":"%032x"}`, 1) {
		t.Errorf("record %v", r)
	}

	w.wants(t, "POST", path, `{"timeline":"u:1","seq":3}`, 404, "reason:unknown_message")
	w.wants(t, "POST", path, `{"timeline":"u:2","msg_id":"`+id.String()+`"}`, 404, "reason:unknown_message")
	for _, bad := range []string{`{"timeline":"u:1"}`, `{"timeline":"u:1","seq":0}`, `{"timeline":"u:1","seq":1,"msg_id":"` + id.String() + `"}`,
		`{"timeline":"u:1","msg_id":"x"}`, `{"timeline":"k:1","seq":1}`, `{"timeline":"u:1","seq":1,"by":-1}`, `{"timeline":"u:1","seq":-1}`} {
		w.wants(t, "POST", path, bad, 400, "reason:bad_field")
	}
}

// What one user hides or clears is gone for that one alone.
func TestHideAndClear(t *testing.T) {
	w := serveStored(t)
	for range 3 {
		w.put(t, "u:1", "x")
	}
	w.wants(t, "POST", "/v1/users/1/hide", `{"timeline":"u:1","seqs":[2,9]}`, 200, `{}`)
	w.wants(t, "GET", messagesOf+"&mid=1", "", 200, page(3, 3, false, shown(1, "eA=="), gone(2, "hidden"), shown(3, "eA==")))
	w.wants(t, "POST", "/v1/users/1/clear", `{"timeline":"u:1","up_to":2}`, 200, `{}`)
	w.wants(t, "GET", "/v1/users/1/unread", "", 200, `{"timelines":[{"timeline":"u:1","epoch":1,"acked":0,"read":0,"unread":1}]}`)
	w.wants(t, "GET", messagesOf, "", 200, page(3, 3, false, shown(1, "eA=="), shown(2, "eA=="), shown(3, "eA==")))
	w.wants(t, "POST", "/v1/users/2/hide", `{"timeline":"u:1","seqs":[1]}`, 403, "reason:forbidden")
	w.wants(t, "POST", "/v1/users/2/clear", `{"timeline":"u:1","up_to":1}`, 403, "reason:forbidden")
	w.wants(t, "POST", "/v1/users/1/hide", `{"timeline":"u:1","seqs":[]}`, 400, "reason:bad_field")
	w.wants(t, "POST", "/v1/users/1/hide", `{"timeline":"u:1","seqs":[`+strings.TrimSuffix(strings.Repeat("1,", 201), ",")+`]}`, 400, "reason:bad_field")
}

// An installation that keeps nothing says so.
func TestNothingIsKept(t *testing.T) {
	env := logictest.New(t)
	w := &storedWorld{env: env}
	w.url, _ = serve(t, env, env.Core(t, nil), nil)
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/rooms/a/b/members", ""}, {"POST", "/v1/rooms/a/b/members", `{"members":[{"mid":1}]}`}, {"DELETE", "/v1/rooms/a/b/members?mid=1", ""},
		{"GET", "/v1/users/1/rooms", ""}, {"GET", "/v1/users/1/unread", ""}, {"GET", messagesOf, ""},
		{"POST", "/v1/users/1/hide", `{"timeline":"u:1","seqs":[1]}`}, {"POST", "/v1/users/1/clear", `{"timeline":"u:1","up_to":1}`},
		{"POST", "/v1/messages/revoke", `{"timeline":"u:1","seq":1}`},
	} {
		w.wants(t, c.method, c.path, c.body, 400, "reason:"+string(logic.NotSupported))
	}
}
