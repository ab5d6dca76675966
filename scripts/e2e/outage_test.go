package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Redis comes back empty under live sessions: the comets find their leases gone
// and report all sessions, so that everybody is reachable again by key, user
// and room, and counted, within seconds and without a reconnect.
func TestRedisRestartsEmpty(t *testing.T) {
	const sessions, rooms = 60, 6
	c := newCluster(t)
	logic := c.start("logic", "logic-1")
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	c.start("job", "job-1")
	hc := httpClient(t)
	base := "http://" + logic.addrs["http"]
	crowd := newCrowd(t, wire.V1, sessions, rooms, func() string { return comets[rand.IntN(2)].addrs["tcp"] })
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, base, patience)

	for _, how := range []string{"while it is away for a moment", "longer than the leases"} {
		c.redis.Kill()
		if how == "longer than the leases" {
			waitFor(t, patience, func() error {
				for _, d := range comets {
					if status, body, err := get(t.Context(), hc, "http://"+d.addrs["admin"]+"/readyz"); err != nil || status == 200 {
						return fmt.Errorf("%s without a lease is ready: %s %v", d.name, body, err)
					}
				}
				return nil
			})
		}
		c.redis.Restart()
		began := time.Now()
		crowd.waitReachable(hc, base, patience)
		t.Logf("%s: all %d sessions were reachable by key, user and room after %s", how, sessions, time.Since(began).Round(time.Millisecond))
		waitFor(t, patience, func() error {
			if _, total, err := get(t.Context(), hc, base+"/goim/online/total"); err != nil || !strings.Contains(total, fmt.Sprintf(`"conn_count":%d`, sessions)) {
				return fmt.Errorf("online/total: %s %v", total, err)
			}
			if _, room, err := get(t.Context(), hc, base+"/goim/online/room?type=live&rooms=0"); err != nil || !strings.Contains(room, fmt.Sprintf(`"0":%d`, sessions/rooms)) {
				return fmt.Errorf("online/room: %s %v", room, err)
			}
			return nil
		})
		t.Logf("%s: the counts were right after %s", how, time.Since(began).Round(time.Millisecond))
	}
	if n := crowd.connects.Load(); n != sessions {
		t.Errorf("%d connections were made, want %d: nobody had to reconnect", n, sessions)
	}
}
