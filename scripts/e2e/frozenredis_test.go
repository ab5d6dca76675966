package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Redis hangs while clients connect, and goes on. Symptom: a fifth of those who
// had come back meanwhile was not reachable by key, for up to half an hour.
// Cause: the attempts that had been given up were served late, behind the
// newer ones of the same clients.
func TestFrozenRedis(t *testing.T) {
	const sessions = 200
	c := newCluster(t)
	logic := c.start("logic", "logic-1")
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	c.start("job", "job-1")
	hc := httpClient(t)
	base := "http://" + logic.addrs["http"]
	pick := func() string { return comets[rand.IntN(2)].addrs["tcp"] }
	before := newCrowdOf(t, "before", 5000, wire.V1, 10, 0, pick)
	before.waitConnected(patience)
	before.waitReachable(hc, base, patience)
	c.redis.Pause()
	crowd := newCrowd(t, wire.V1, sessions, 0, pick)
	waitFor(t, patience, func() error { // all were turned away, and have come again
		if n := crowd.refused.Load(); n < sessions {
			return fmt.Errorf("%d were turned away", n)
		}
		return nil
	})
	c.redis.Resume()
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, base, patience)
	before.waitReachable(hc, base, patience)
	if n := before.connects.Load(); n != 10 {
		t.Errorf("%d connections of those who were there before, want 10", n)
	}
}
