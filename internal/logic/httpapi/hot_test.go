package httpapi_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/hotrooms"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
)

// ranked is a ranking that is known.
type ranked []hotrooms.Room

func (ranked) Note(string, int64, time.Time) {}
func (ranked) Window() time.Duration         { return time.Minute }
func (r ranked) Top(limit int) hotrooms.Ranking {
	return hotrooms.Ranking{BuiltMS: 5, Rooms: r[:min(limit, len(r))]}
}

func TestHotRooms(t *testing.T) {
	env := logictest.New(t)
	for _, c := range []struct {
		rooms  ranked
		query  string
		status int
		want   string
	}{
		{ranked{{Name: "live://1", Speakers: 3}, {Name: "a://b/c", Speakers: 1}}, "", 200,
			`{"rooms":[{"room":"live://1","speakers":3},{"room":"a://b/c","speakers":1}],"built_ms":5,"window_ms":60000}`},
		{ranked{{Name: "live://1", Speakers: 3}, {Name: "live://2", Speakers: 1}}, "?limit=1", 200,
			`{"rooms":[{"room":"live://1","speakers":3}],"built_ms":5,"window_ms":60000}`},
		{ranked{}, "?limit=1000", 200, `{"rooms":[],"built_ms":5,"window_ms":60000}`},
		{ranked{}, "?limit=0", 400, "bad_limit"},
		{ranked{}, "?limit=1001", 400, "bad_limit"},
		{ranked{}, "?limit=x", 400, "bad_limit"},
		{nil, "", 400, "not_supported"},
	} {
		core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
			if c.rooms != nil {
				d.HotRooms = c.rooms
			}
		})
		url, _ := serve(t, env, core, nil)
		got := do(t, "GET", url+"/v1/rooms/hot"+c.query, "", "")
		text := got.body
		if c.status != 200 {
			reason, _ := problemOf(t, got)
			text = fmt.Sprint(reason)
		}
		if got.status != c.status || text != c.want {
			t.Errorf("%s: %d %s", c.query, got.status, got.body)
		}
	}
}
