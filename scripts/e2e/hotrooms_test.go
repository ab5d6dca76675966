package e2e

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
)

// Users talk in rooms, through both logics: both give the same ranking, by how
// many users spoke and not by how much, and one goes on when the other, which
// built it, is killed.
func TestHotRoomsThroughTwoLogics(t *testing.T) {
	c := newCluster(t)
	c.settings["logic"] = []string{"hot_rooms.interval=200ms", "hot_rooms.flush_interval=50ms"}
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comet := c.start("comet", "comet-1")
	c.start("job", "job-1")
	hc := httpClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	base := func(i int) string { return "http://" + logics[i].addrs["http"] }

	// Room n has n speakers; user 9 says most, in room 1.
	say := func(room, sender, n int) {
		t.Helper()
		body := fmt.Sprintf(`{"op":1000,"kind":"chat","body":"%d|%d|%d","sender":%d,"targets":[{"room":"live://%d"}]}`, room, sender, n, sender, room)
		if status, answer, err := post(ctx, hc, base(n%2)+"/v1/push", "application/json", body); err != nil || status != http.StatusAccepted {
			t.Fatalf("%s: %d %s %v", body, status, answer, err)
		}
	}
	for room := 1; room <= 4; room++ {
		for sender := range room {
			say(room, 9-sender, sender)
		}
	}
	for n := range 20 {
		say(1, 9, n)
	}
	// A user on a connection counts as well; what is not stored does not.
	d := newDevice(t, comet, 100, &client.MemoryCursors{}, "live://2")
	for _, kind := range []string{"chat", "signal"} {
		if _, err := d.Publish(ctx, client.Outgoing{To: "r:live://2", Op: 1000, Kind: kind, Body: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
	}
	hot := func(from *daemon, want string) {
		t.Helper()
		waitFor(t, time.Minute, func() error {
			status, answer, err := get(ctx, hc, "http://"+from.addrs["http"]+"/v1/rooms/hot")
			if err != nil || status != http.StatusOK || !strings.HasPrefix(answer, `{"rooms":[`+want+`],"built_ms":1`) {
				return fmt.Errorf("%s: %d %s %v", from.name, status, answer, err)
			}
			return nil
		})
	}
	const want = `{"room":"live://4","speakers":4},{"room":"live://2","speakers":3},{"room":"live://3","speakers":3},{"room":"live://1","speakers":1}`
	hot(logics[0], want)
	hot(logics[1], want)

	logics[0].Kill()
	say(1, 8, 1)
	say(1, 7, 1)
	say(1, 6, 1)
	hot(logics[1], regexp.MustCompile(`,{"room":"live://1".*`).ReplaceAllString(`{"room":"live://1","speakers":4},`+want, ""))
}
