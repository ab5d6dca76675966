package logic_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/logic"
)

func TestParseAuth(t *testing.T) {
	for _, c := range []struct {
		token string
		want  logic.Identity
	}{
		{`{"mid":1,"room_id":"live://1000","platform":"web","accepts":[1000]}`, logic.Identity{Mid: 1, Room: "live://1000", Platform: "web", Accepts: []int32{1000}}},
		{`{"mid":-5,"key":"k"}`, logic.Identity{Mid: -5, Key: "k"}},
		{`{}`, logic.Identity{}},
		{" \r\n\t{} ", logic.Identity{}},
		{`{"mid":null,"key":null,"accepts":null}`, logic.Identity{}},
		{`{"mid":9223372036854775807,"accepts":[2147483647,-2147483648]}`, logic.Identity{Mid: 9223372036854775807, Accepts: []int32{2147483647, -2147483648}}},
		{`{"MID":3}`, logic.Identity{Mid: 3}}, // goim's decoder does not mind
		{`{"mid":1,"token":"x","resume":[{"tl":"u:1","epoch":2,"after":3}]}`, logic.Identity{Mid: 1}},
		{`{"key":"` + strings.Repeat("k", 256) + `"}`, logic.Identity{Key: strings.Repeat("k", 256)}},
	} {
		got, err := logic.ParseAuth([]byte(c.token))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%.80s: got %+v, %v, want %+v", c.token, got, err, c.want)
		}
	}
}

func TestParseAuthNamesTheField(t *testing.T) {
	for _, c := range []struct{ token, field string }{
		{``, "token"},
		{`null`, "token"},
		{`[]`, "token"},
		{`"live"`, "token"},
		{`{"mid":1`, "token"},
		{`{"mid":1}{}`, "token"},
		{"{}\x00", "token"},
		{`{"pad":"` + strings.Repeat("x", 4096) + `"}`, "token"},
		{`{"mid":"1"}`, "mid"},
		{`{"mid":1.5}`, "mid"},
		{`{"mid":9223372036854775808}`, "mid"},
		{`{"key":1}`, "key"},
		{`{"key":"` + strings.Repeat("k", 257) + `"}`, "key"},
		{`{"room_id":{}}`, "room_id"},
		{`{"room_id":"1000"}`, "room_id"},
		{`{"room_id":"live://"}`, "room_id"},
		{`{"room_id":"a://` + strings.Repeat("r", 253) + `"}`, "room_id"},
		{`{"platform":7}`, "platform"},
		{`{"accepts":"1000"}`, "accepts"},
		{`{"accepts":[2147483648]}`, "accepts"},
		{`{"accepts":["1000"]}`, "accepts"},
		{`{"accepts":[1` + strings.Repeat(",1", 1024) + `]}`, "accepts"},
	} {
		_, err := logic.ParseAuth([]byte(c.token))
		var bad *logic.BadToken
		if !errors.As(err, &bad) || bad.Field != c.field || bad.Rule == "" {
			t.Errorf("%.80s: %v, want the field %s", c.token, err, c.field)
		}
	}
}

// FuzzAuth: what is accepted is within the limits and says what the token
// said; what is refused is refused with a reason that repeats no value.
func FuzzAuth(f *testing.F) {
	f.Add([]byte(`{"mid":1,"key":"k","room_id":"live://1000","platform":"web","accepts":[1000,1001]}`))
	f.Add([]byte(`{"mid":"secret-value-123"}`))
	f.Add([]byte(`{"accepts":[1,2,null,3e2],"accepts":[-1]}`))
	f.Add([]byte(`{"key":"\ud800\u0000","room_id":"a://\"b"}`))
	f.Add([]byte(`[[[[{{{`))
	f.Fuzz(func(t *testing.T, token []byte) {
		id, err := logic.ParseAuth(token)
		if err != nil {
			var bad *logic.BadToken
			if !errors.As(err, &bad) || bad.Field == "" || bad.Rule == "" || len(err.Error()) > 200 {
				t.Fatalf("refused without a good reason: %v", err)
			}
			return
		}
		if len(token) > 4096 || len(id.Key) > 256 || len(id.Room) > 256 || len(id.Accepts) > 1024 {
			t.Fatalf("over the limits: %+v", id)
		}
		if id.Room != "" && !strings.Contains(id.Room, "://") {
			t.Fatalf("room %q", id.Room)
		}
		again, err := json.Marshal(map[string]any{"mid": id.Mid, "key": id.Key, "room_id": id.Room, "platform": id.Platform, "accepts": id.Accepts})
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > 4096 {
			return // escapes made it longer than a token may be
		}
		same, err := logic.ParseAuth(again)
		if err != nil || fmt.Sprint(same) != fmt.Sprint(id) {
			t.Fatalf("%+v read again: %+v, %v", id, same, err)
		}
	})
}
