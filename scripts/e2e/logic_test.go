package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/pkg/wire"
)

// One logic of two is killed while clients connect all the time and pushes go
// through the other: auths and routes go on there. Nobody is refused for longer
// than a moment, nothing that was accepted is lost or comes twice.
func TestLogicIsKilledUnderLoad(t *testing.T) {
	c := newCluster(t)
	c.patient()
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	job := c.start("job", "job-1")
	hc := httpClient(t)
	base := "http://" + logics[1].addrs["http"]
	pick := func() string { return comets[rand.IntN(2)].addrs["tcp"] }
	crowd := newCrowd(t, wire.V1, 40, 0, pick)
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, base, patience)
	_, before := crowd.counted(hc, job)
	l := crowd.load(hc, 8, 2*time.Millisecond, func() []string { return []string{base} })

	// Others come and go.
	var auths, refused atomic.Int64
	var longest atomic.Int64
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			began := time.Now()
			cl, err := connect(t.Context(), pick(), fmt.Sprintf(`{"mid":%d,"key":"guest-%d","accepts":[1]}`, 5000+i%50, i%50), func(wire.Op, []byte) {})
			longest.Store(max(longest.Load(), time.Since(began).Milliseconds()))
			if err != nil {
				refused.Add(1)
				continue
			}
			auths.Add(1)
			cl.close()
		}
	}()
	progress := func() {
		t.Helper()
		a, s := auths.Load(), l.sent.Load()
		waitFor(t, patience, func() error {
			if auths.Load()-a < 300 || l.sent.Load()-s < 500 {
				return fmt.Errorf("%d auths, %d pushes, refused %d, errors %v", auths.Load()-a, l.sent.Load()-s, refused.Load(), l.why())
			}
			return nil
		})
	}
	progress()
	if err := logics[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	progress()
	t.Logf("300 auths and 500 pushes within %s after the kill; %d auths refused, the longest took %d ms",
		time.Since(killed).Round(time.Millisecond), refused.Load(), longest.Load())
	close(stop)
	<-done
	l.stop()
	if n := refused.Load(); n > 0 {
		t.Errorf("%d auths were refused", n)
	}
	waitFor(t, patience, func() error {
		if tally := crowd.tally(l); tally.missing > 0 {
			return fmt.Errorf("%v", tally)
		}
		return nil
	})
	tally := crowd.tally(l)
	var by map[string]float64
	waitFor(t, patience, func() (err error) {
		if _, by = outcomes(t, hc, job); by["delivered"]-before["delivered"] < float64(tally.accepted) {
			err = fmt.Errorf("%g counted as delivered, %d accepted", by["delivered"]-before["delivered"], tally.accepted)
		}
		return err
	})
	t.Logf("%v; outcomes %v", tally, by)
	if tally.duplicates+tally.inversions > 0 || l.failed.Load() > 0 || crowd.connects.Load() != 40 {
		t.Errorf("%v, %d pushes failed (%v), %d connections", tally, l.failed.Load(), l.why(), crowd.connects.Load())
	}
	if n := by["delivered"] - before["delivered"]; n != float64(tally.accepted) {
		t.Errorf("%g counted as delivered, %d accepted", n, tally.accepted)
	}
}

// The service directory goes away after everything has started, and does not
// come back: pushes, clients that connect, jobs that come with other comets'
// leases, and clean stops work as before.
func TestDiscoveryStaysAway(t *testing.T) {
	c := newCluster(t)
	c.patient()
	discovery := testdeps.DiscoveryServer(t)
	c.discovery = discovery.Addr
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	jobs := []*daemon{c.start("job", "job-1"), c.start("job", "job-2")}
	hc := httpClient(t)
	base := "http://" + logics[1].addrs["http"]
	var where atomic.Pointer[daemon]
	crowd := newCrowd(t, wire.V1, 20, 4, func() string {
		if d := where.Load(); d != nil {
			return d.addrs["tcp"]
		}
		return comets[rand.IntN(2)].addrs["tcp"]
	})
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, base, patience)
	discovery.Kill()
	l := crowd.load(hc, 4, 2*time.Millisecond, func() []string { return []string{base} })

	// A logic and a job are killed, and a comet leaves in good order: nobody
	// hears of it from the directory.
	where.Store(comets[0])
	for _, d := range []*daemon{logics[0], jobs[0]} {
		if err := d.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := comets[1].Stop(); err != nil {
		t.Errorf("comet-2 did not stop in good order: %v\n%s", err, comets[1].log.tail(2000))
	}
	crowd.waitConnected(patience)
	crowd.waitReachable(hc, base, patience) // the dead job's partitions move first
	was := l.sent.Load()
	waitFor(t, patience, func() error {
		if n := l.sent.Load() - was; n < 500 {
			return fmt.Errorf("%d pushes; errors %v", n, l.why())
		}
		return nil
	})
	l.stop()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d pushes failed: %v", n, l.why())
	}
	tally := crowd.tally(l)
	t.Logf("%v", tally) // what was pushed to clients on their way is missing
	if tally.duplicates+tally.inversions > 0 {
		t.Errorf("%v", tally)
	}
	for _, d := range slices.Concat(jobs[1:], comets[:1], logics[1:]) {
		began := time.Now()
		if err := d.Stop(); err != nil {
			t.Errorf("%s did not stop in good order: %v\n%s", d.name, err, d.log.tail(2000))
		}
		t.Logf("%s stopped after %s", d.name, time.Since(began).Round(time.Millisecond))
	}
}
