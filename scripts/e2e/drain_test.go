package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// A comet is stopped in good order under load: every client of version 2 hears
// why and that it should come back, goes elsewhere, and is pushed to there. No
// push is left without an outcome, none comes twice or out of order.
func TestCometDrainsUnderLoad(t *testing.T) {
	const sessions = 100
	c := newCluster(t)
	c.patient()
	c.settings["job"] = append(c.settings["job"], "kafka.session_timeout=45s", "job.dispatch_timeout=1m") // or there are repeats, and targets that are dropped
	logic := c.start("logic", "logic-1")
	first, second := c.start("comet", "comet-1"), c.start("comet", "comet-2", "comet.drain_window=2s")
	jobs := []*daemon{c.start("job", "job-1"), c.start("job", "job-2")}
	hc := httpClient(t)
	base := "http://" + logic.addrs["http"]
	var where atomic.Pointer[daemon]
	where.Store(second)
	crowd := newCrowd(t, wire.V2, sessions, 4, func() string { return where.Load().addrs["tcp"] })
	crowd.waitConnected(patience)
	crowd.waitProbes(hc, base, patience, false)
	before, _ := crowd.counted(hc, jobs...)

	l := crowd.load(hc, 8, time.Millisecond, func() []string { return []string{base} })
	waitFor(t, patience, func() error {
		if n := l.sent.Load(); n < 500 {
			return fmt.Errorf("%d pushes; errors %v", n, l.why())
		}
		return nil
	})
	where.Store(first) // as nodes/weighted would say now
	began := time.Now()
	if err := second.Stop(); err != nil {
		t.Errorf("the comet did not stop in good order: %v\n%s", err, second.log.tail(2000))
	}
	t.Logf("stopped after %s", time.Since(began).Round(time.Millisecond))
	crowd.waitConnected(patience)
	was := l.sent.Load()
	waitFor(t, patience, func() error {
		if n := l.sent.Load() - was; n < 500 {
			return fmt.Errorf("%d pushes since; errors %v", n, l.why())
		}
		return nil
	})
	l.stop()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d pushes were answered with an error: %v", n, l.why())
	}
	for _, m := range crowd.members {
		m.mu.Lock()
		var bye struct {
			Code      int
			Reconnect bool
		}
		if len(m.byes) != 1 || json.Unmarshal([]byte(m.byes[0]), &bye) != nil || bye.Code != 3001 || !bye.Reconnect || m.conns != 2 {
			t.Errorf("%s connected %d times and was told %s", m.key, m.conns, strings.Join(m.byes, " "))
		}
		m.mu.Unlock()
	}

	// Everybody is reachable at the other comet, and every push has an outcome.
	accepted := float64(l.sent.Load())
	var by map[string]float64
	waitFor(t, patience, func() error {
		var sum float64
		if sum, by = outcomes(t, hc, jobs...); sum-before != accepted {
			return fmt.Errorf("%g outcomes for %g pushes: %v", sum-before, accepted, by)
		}
		return nil
	})
	waitFor(t, patience, func() error { // what was delivered is on its way
		if tally := crowd.tally(l); float64(tally.missing) > by["offline"]+by["not_here"] {
			return fmt.Errorf("%v, outcomes %v", tally, by)
		}
		return nil
	})
	tally := crowd.tally(l)
	t.Logf("%v; outcomes %v", tally, by)
	if tally.duplicates+tally.inversions > 0 {
		t.Errorf("%v", tally)
	}
	if by["unreachable"]+by["slow"]+by["draining"]+by["repeat"] > 0 {
		t.Errorf("outcomes %v", by)
	}
	crowd.waitReachable(hc, base, patience)
}
