package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/pkg/wire"
)

// The broker is killed and started again under load. A push is answered with an
// error or it arrives, once; the order of each producer is kept through it; and
// both logic and job work again by themselves.
func TestBrokerRestartsUnderLoad(t *testing.T) {
	c := newCluster(t)
	broker := testdeps.KafkaServer(t)
	c.kafka = broker.Addr
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	job := c.start("job", "job-1")
	hc := httpClient(t)
	crowd := newCrowd(t, wire.V1, 40, 0, func() string { return comets[rand.IntN(2)].addrs["tcp"] })
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, "http://"+logics[0].addrs["http"], patience)
	l := crowd.load(hc, 16, 2*time.Millisecond, func() []string {
		return []string{"http://" + logics[0].addrs["http"], "http://" + logics[1].addrs["http"]}
	})
	more := func(n int64) {
		t.Helper()
		was := l.sent.Load()
		waitFor(t, patience, func() error {
			if now := l.sent.Load() - was; now < n {
				return fmt.Errorf("%d pushes were accepted, want %d; errors: %v", now, n, l.why())
			}
			return nil
		})
	}
	more(1000)
	broker.Kill()
	killed := time.Now()
	broker.Restart()
	t.Logf("the broker was away for %s", time.Since(killed).Round(time.Millisecond))
	more(1000)
	t.Logf("1,000 more pushes were accepted %s after the kill", time.Since(killed).Round(time.Millisecond))
	l.stop()
	waitFor(t, patience, func() error {
		if tally := crowd.tally(l); tally.missing > 0 {
			return fmt.Errorf("%v", tally)
		}
		return nil
	})
	t.Logf("%v, %d answered with an error: %v", crowd.tally(l), l.failed.Load(), l.why())
	if tally := crowd.tally(l); tally.missing+tally.duplicates+tally.inversions > 0 {
		t.Errorf("%v", tally)
	}
	for _, d := range append(logics, job) {
		if status, body, err := get(t.Context(), hc, "http://"+d.addrs["admin"]+"/readyz"); err != nil || status != 200 {
			t.Errorf("%s is not ready: %s %v", d.name, body, err)
		}
	}
}
