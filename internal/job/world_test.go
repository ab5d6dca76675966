package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/job/cometclient"
	"github.com/perseid-im/perseid/internal/job/logicclient"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/registry/static"
)

// patience is how long a condition may take on a loaded machine.
const patience = time.Minute

// checkFor waits until f is content.
func checkFor(t testing.TB, what string, f func() error) {
	t.Helper()
	checkWithin(t, patience, what, f)
}

func checkWithin(t testing.TB, within time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// checkLeaks fails when goroutines of the job outlive the test. It is the
// first thing a test says, so that it is the last that runs.
//
//archtest:leaks checkLeaks
func checkLeaks(t testing.TB) {
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		checkFor(t, "goroutines left", func() error {
			buf := make([]byte, 1<<20)
			buf = buf[:runtime.Stack(buf, true)]
			for _, g := range strings.Split(string(buf), "\n\n") {
				if strings.Contains(g, "perseid/internal/job") && !strings.Contains(g, "testing.(*common).runCleanup") &&
					!strings.Contains(g, "job_test.Test") && !strings.Contains(g, "job_test.Benchmark") {
					return errors.New(g)
				}
				if strings.Contains(g, "grpc/internal/transport") {
					return errors.New(g)
				}
			}
			return nil
		})
	})
}

// world is the cluster around the jobs under test.
type world struct {
	t        testing.TB
	presence *presenceStub
	logics   []*stubLogic
	comets   map[string]*stubComet
	next     uint64
	store    *storage // nil = the logics', which have none
}

func newWorld(t testing.TB, comets ...string) *world {
	checkLeaks(t)
	w := &world{
		t:        t,
		presence: &presenceStub{keys: map[string]place{}, mids: map[int64][]place{}},
		comets:   map[string]*stubComet{},
	}
	w.logics = []*stubLogic{newStubLogic(t, w.presence), newStubLogic(t, w.presence)}
	for _, name := range comets {
		w.comet(name)
	}
	return w
}

// comet starts a comet and its lease.
func (w *world) comet(name string) *stubComet {
	c := newStubComet(w.t, name)
	w.comets[name] = c
	w.presence.lease(c)
	return c
}

// connect makes a session of a key (and a user, if mid is not 0).
func (w *world) connect(comet, key string, mid int64) uint64 {
	w.next++
	id := w.next
	c := w.comets[comet]
	c.set(func() { c.sessions[id] = true })
	w.presence.set(func() {
		w.presence.keys[key] = place{comet, id}
		if mid != 0 {
			w.presence.mids[mid] = append(w.presence.mids[mid], place{comet, id})
		}
	})
	return id
}

// testJob is a job with real gRPC clients.
type testJob struct {
	*job.Job
	t          testing.TB
	dispatched *obs.CounterSet
	laneBytes  *obs.Gauge
	metrics    *obs.Metrics
	wg         sync.WaitGroup
}

func testConfig() job.Config {
	cfg := job.DefaultConfig()
	cfg.NodeRefresh = 100 * time.Millisecond
	cfg.RetryMin, cfg.RetryMax = 2*time.Millisecond, 50*time.Millisecond
	// A pause of the process is no outage, except where a test means one.
	cfg.ConnectTimeout, cfg.RouteTimeout = patience, patience/2
	cfg.DispatchTimeout = patience
	return cfg
}

func (w *world) job(cfg job.Config) *testJob {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	}
	sc := registry.DefaultConfig().Static
	sc.Logic = nil
	for _, l := range w.logics {
		sc.Logic = append(sc.Logic, l.addr)
	}
	directory, err := static.New(sc, nil, log)
	if err != nil {
		w.t.Fatal(err)
	}
	router, err := logicclient.New(directory, log)
	if err != nil {
		w.t.Fatal(err)
	}
	metrics := obs.NewMetrics()
	var store job.Storage = router
	if w.store != nil {
		store = &located{storage: w.store, router: router}
	}
	j, err := job.New(cfg, job.Deps{Name: w.t.Name(), Router: router, Storage: store, Settles: 200 * time.Millisecond, Edge: cometclient.New(), Logger: log, Metrics: metrics})
	if err != nil {
		w.t.Fatal(err)
	}
	tj := newTestJob(w.t, j, metrics)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(j.Close(ctx), router.Close(), directory.Close(ctx)); err != nil {
			w.t.Error(err)
		}
		tj.wg.Wait()
	})
	return tj
}

func newTestJob(t testing.TB, j *job.Job, metrics *obs.Metrics) *testJob {
	return &testJob{
		Job: j, t: t, metrics: metrics,
		dispatched: metrics.Counter("perseid_dispatch_total",
			"", "outcome", job.OutcomeNames[:]),
		laneBytes: metrics.PlainGauge("perseid_lane_queue_bytes", ""),
	}
}

// running is a worker on a claim.
type running struct {
	*stubClaim
	done   chan error
	cancel context.CancelFunc
}

func (j *testJob) work(p *stubPartition) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{stubClaim: p.claim(), done: make(chan error, 1), cancel: cancel}
	j.wg.Go(func() {
		err := j.Work(ctx, r.stubClaim)
		r.release()
		r.done <- err
	})
	return r
}

// ended waits for the worker to return.
func (r *running) ended(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		t.Fatal("the worker does not return")
		return nil
	}
}

// wantOutcomes compares the counters of the outcomes that are not zero.
func (j *testJob) wantOutcomes(want map[job.Outcome]uint64) {
	j.t.Helper()
	for o := range job.Outcome(job.Outcomes) {
		if got := j.dispatched.Value(int(o)); got != want[o] {
			j.t.Errorf("outcome %v: %d, want %d", o, got, want[o])
		}
	}
}

// text is a message whose body says what it is: timeline and number.
func text(tl message.Timeline, n int) message.Message {
	return message.Message{
		ID: message.ID{15: 1}, Op: 1000, AcceptedMS: time.Now().UnixMilli(),
		Body: []byte(string(tl) + "|" + strconv.Itoa(n)),
	}
}

// checkSession is the independent checker: bodies must be, per timeline that
// the session listens to, exactly 0..n-1 in order, and nothing else.
func checkSession(bodies []string, want map[message.Timeline]int) error {
	next := map[message.Timeline]int{}
	for i, body := range bodies {
		tl, number, _ := strings.Cut(body, "|")
		n, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("body %q", body)
		}
		if at := next[message.Timeline(tl)]; n != at {
			return fmt.Errorf("%s: number %d at place %d, expected %d", tl, n, i, at)
		}
		next[message.Timeline(tl)]++
	}
	for tl, n := range want {
		if next[tl] != n {
			return fmt.Errorf("%s: %d of %d", tl, next[tl], n)
		}
		delete(next, tl)
	}
	if len(next) > 0 {
		return fmt.Errorf("not expected: %v", next)
	}
	return nil
}

func TestCheckerSeesPlantedFaults(t *testing.T) {
	want := map[message.Timeline]int{"k:a": 2, "r:x://1": 1}
	if err := checkSession([]string{"k:a|0", "r:x://1|0", "k:a|1"}, want); err != nil {
		t.Error(err)
	}
	for name, bodies := range map[string][]string{
		"missing":   {"k:a|0", "r:x://1|0"},
		"doubled":   {"k:a|0", "k:a|0", "r:x://1|0", "k:a|1"},
		"inverted":  {"k:a|1", "k:a|0", "r:x://1|0"},
		"misplaced": {"k:a|0", "r:x://1|0", "k:a|1", "k:b|0"},
	} {
		if checkSession(bodies, want) == nil {
			t.Errorf("%s is not seen", name)
		}
	}
}
