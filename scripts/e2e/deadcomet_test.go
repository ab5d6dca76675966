package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// A comet is killed while much is pushed to its clients: until its lease ends,
// clients of the other comet are served as before.
func TestDeadCometHoldsUpNobody(t *testing.T) {
	c := newCluster(t)
	// As many records in flight as a busy cluster has in a tenth of the time.
	// The lease outlives the test, and so does what waits for the dead one.
	c.settings["job"] = []string{"kafka.max_in_flight_records=200", "job.dispatch_timeout=2m"}
	c.settings["logic"] = []string{"logic.lease_ttl=2m"}
	logic := c.start("logic", "logic-1")
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	job := c.start("job", "job-1")
	hc := httpClient(t)
	base := "http://" + logic.addrs["http"]
	living := newCrowdOf(t, "living", 1000, wire.V1, 16, 0, func() string { return comets[0].addrs["tcp"] })
	dying := newCrowdOf(t, "dying", 2000, wire.V1, 16, 0, func() string { return comets[1].addrs["tcp"] })
	for _, crowd := range []*crowd{living, dying} {
		crowd.waitConnected(patience)
		crowd.waitReachable(hc, base, patience)
	}
	probe := func(i int) time.Duration {
		t.Helper()
		m := living.members[i%len(living.members)]
		body := fmt.Sprintf("probe %d", i)
		began := time.Now()
		if status, answer, err := post(t.Context(), hc, base+"/goim/push/keys?operation=1000&keys="+m.key, "text/plain", body); err != nil || status != 200 {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		waitFor(t, patience, func() error {
			if !m.has(body) {
				return fmt.Errorf("%s has not come", body)
			}
			return nil
		})
		return time.Since(began)
	}
	l := dying.load(hc, 16, time.Millisecond, func() []string { return []string{base} })
	n := 0
	for ; n < 30; n++ {
		probe(n)
	}
	if err := comets[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	var longest time.Duration
	for ; time.Since(killed) < 12*time.Second; n++ {
		longest = max(longest, probe(n))
	}
	l.stop()
	_, by := outcomes(t, hc, job)
	t.Logf("%d pushes to the dead; the slowest of %d probes took %s; outcomes %v", l.sent.Load(), n, longest.Round(time.Millisecond), by)
	if longest > 20*time.Second { // of a machine that stands still
		t.Errorf("a push to a client of the other comet took %s", longest)
	}
}
