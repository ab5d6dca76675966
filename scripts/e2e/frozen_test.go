package e2e

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// A job is frozen until its partitions have gone to another one, and thawed
// under load (F-000.6, F-004.7): what it still has in hand was delivered by the
// new owner already. Nothing is lost, doubled or out of order.
func TestFrozenJob(t *testing.T) {
	c := newCluster(t)
	c.patient()
	logic := c.start("logic", "logic-1")
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	jobs := []*daemon{c.start("job", "job-1"), c.start("job", "job-2")}
	hc := httpClient(t)
	base := "http://" + logic.addrs["http"]
	crowd := newCrowd(t, wire.V1, 40, 4, func() string { return comets[rand.IntN(2)].addrs["tcp"] })
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, base, patience)
	for _, d := range jobs { // both have partitions
		waitFor(t, patience, func() error {
			if status, body, err := get(t.Context(), hc, "http://"+d.addrs["admin"]+"/readyz"); err != nil || status != 200 {
				return fmt.Errorf("%s: %s %v", d.name, body, err)
			}
			return nil
		})
	}
	l := crowd.load(hc, 8, time.Millisecond, func() []string { return []string{base} })
	more := func(n int64) {
		t.Helper()
		was := l.sent.Load()
		waitFor(t, patience, func() error {
			if now := l.sent.Load() - was; now < n {
				return fmt.Errorf("%d pushes; errors %v", now, l.why())
			}
			return nil
		})
	}
	arrived := func(within time.Duration) {
		t.Helper()
		waitFor(t, within, func() error {
			if tally := crowd.tally(l); tally.missing > 200 { // the load goes on
				return fmt.Errorf("%v", tally)
			}
			return nil
		})
	}
	more(1000)
	if err := jobs[0].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	more(500)
	arrived(patience) // the other one has its partitions
	t.Logf("frozen for %s", time.Since(frozen).Round(time.Millisecond))
	if err := jobs[0].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	more(2000)
	l.stop()
	waitFor(t, patience, func() error {
		if tally := crowd.tally(l); tally.missing > 0 {
			return fmt.Errorf("%v", tally)
		}
		return nil
	})
	tally := crowd.tally(l)
	_, by := outcomes(t, hc, jobs...)
	t.Logf("%v; outcomes %v", tally, by)
	if tally.duplicates+tally.inversions > 0 || l.failed.Load() > 0 {
		t.Errorf("%v, %d pushes failed: %v", tally, l.failed.Load(), l.why())
	}
}

// A comet is frozen until its lease has ended, and thawed: its sessions are
// reachable again at once, nobody had to reconnect, and clients of the other
// comet were served all the time.
func TestFrozenComet(t *testing.T) {
	c := newCluster(t)
	c.patient()
	c.settings["logic"] = append(c.settings["logic"], "logic.lease_ttl=15s") // shorter than how long the test waits, longer than a standstill
	logic := c.start("logic", "logic-1")
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	job := c.start("job", "job-1")
	hc := httpClient(t)
	base := "http://" + logic.addrs["http"]
	var others, all *crowd
	others = newCrowd(t, wire.V1, 20, 0, func() string { return comets[0].addrs["tcp"] })
	others.waitConnected(patience)
	others.waitReachable(hc, base, patience)
	l := others.load(hc, 4, 2*time.Millisecond, func() []string { return []string{base} })
	// Users of their own: the crowds have the same keys.
	all = newCrowdOf(t, "frozen", 1000, wire.V1, 20, 4, func() string { return comets[1].addrs["tcp"] })
	all.waitConnected(patience)
	all.waitReachable(hc, base, patience)
	if err := comets[1].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	for i := range 200 { // in the lanes of the frozen one
		q := fmt.Sprintf("keys?operation=1000&keys=frozen-%d", i%20)
		if status, answer, err := post(t.Context(), hc, base+"/goim/push/"+q, "text/plain", "into the ice"); err != nil || status != 200 {
			t.Fatalf("%s: %d %s %v", q, status, answer, err)
		}
	}
	was := l.sent.Load()
	waitFor(t, patience, func() error {
		if n := l.sent.Load() - was; n < 1000 {
			return fmt.Errorf("%d pushes; errors %v", n, l.why())
		}
		return nil
	})
	waitFor(t, patience, func() error {
		status, answer, err := post(t.Context(), hc, base+"/v1/push", "application/json", `{"op":1000,"body":"x","targets":[{"key":"frozen-0"}]}`)
		if err != nil || status != 202 || !containsState(answer, "offline") {
			return fmt.Errorf("the lease has not ended: %d %s %v", status, answer, err)
		}
		return nil
	})
	waitFor(t, patience, func() error {
		if tally := others.tally(l); tally.missing > 200 {
			return fmt.Errorf("clients of the other comet: %v", tally)
		}
		return nil
	})
	t.Logf("frozen for %s", time.Since(frozen).Round(time.Millisecond))
	if err := comets[1].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	thawed := time.Now()
	all.waitReachable(hc, base, patience)
	t.Logf("reachable %s after the thaw", time.Since(thawed).Round(time.Millisecond))
	l.stop()
	waitFor(t, patience, func() error {
		if tally := others.tally(l); tally.missing > 0 {
			return fmt.Errorf("clients of the other comet: %v", tally)
		}
		return nil
	})
	_, by := outcomes(t, hc, job)
	tally := others.tally(l)
	t.Logf("%v; outcomes %v", tally, by)
	if tally.duplicates+tally.inversions > 0 || all.connects.Load() != 20 || others.connects.Load() != 20 {
		t.Errorf("%v; %d and %d connections", tally, all.connects.Load(), others.connects.Load())
	}
}
