package job_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
)

// What a comet that does not answer costs is a matter of time, so these tests
// have a fake clock, and comets in memory: with a real one, a pause of the
// process makes every comet silent.

// paperComet is such a comet. It answers at once, or never.
type paperComet struct {
	mu     sync.Mutex
	silent bool          // takes batches and answers none
	dead   chan struct{} // closed when it was killed
	bodies []string
}

var errKilled = errors.New("killed")

func (c *paperComet) set(silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = silent
}

func (c *paperComet) kill() { close(c.dead) }

func (c *paperComet) check(want map[message.Timeline]int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return checkSession(c.bodies, want)
}

func (*paperComet) Close() error { return nil }

func (c *paperComet) Dispatch(ctx context.Context, _ job.Hello) (job.DispatchStream, error) {
	select {
	case <-c.dead:
		return nil, errKilled
	default:
		return &paperLane{c, ctx, make(chan []job.Result, 1000)}, nil
	}
}

func (c *paperComet) Rooms(ctx context.Context, _ string) (job.RoomStream, error) {
	return paperRooms{ctx}, nil
}

type paperLane struct {
	*paperComet
	ctx     context.Context
	answers chan []job.Result
}

func (l *paperLane) Send(pushes []job.Push) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silent || l.ctx.Err() != nil {
		return l.ctx.Err()
	}
	results := make([]job.Result, len(pushes))
	for i, p := range pushes {
		l.bodies = append(l.bodies, string(p.Message.Body))
		results[i].Counts[job.Delivered] = uint64(len(p.Sessions))
	}
	l.answers <- results
	return nil
}

func (l *paperLane) Recv() ([]job.Result, error) {
	select {
	case r := <-l.answers:
		return r, nil
	case <-l.dead:
		return nil, errKilled
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
}

// paperRooms is an index that stays unknown.
type paperRooms struct{ context.Context }

func (r paperRooms) Recv() (job.RoomChange, error) {
	<-r.Done()
	return job.RoomChange{}, r.Err()
}
func (paperRooms) Ack(uint64) error { return nil }

// paperWorld is a job before two comets: the key "ka" is on a, "kb" on b.
type paperWorld struct {
	*testJob
	a, b *paperComet
}

func newPaperWorld(t *testing.T, change func(*job.Config)) *paperWorld {
	cfg := testConfig()
	cfg.DispatchTimeout = time.Second
	if change != nil {
		change(&cfg)
	}
	w := &paperWorld{a: &paperComet{dead: make(chan struct{})}, b: &paperComet{dead: make(chan struct{})}}
	metrics := obs.NewMetrics()
	j, err := job.New(cfg, job.Deps{Name: "j", Router: w, Storage: struct{ job.Storage }{}, Edge: w,
		Logger: slog.New(slog.DiscardHandler), Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	w.testJob = newTestJob(t, j, metrics)
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
		w.wg.Wait()
	})
	return w
}

func (w *paperWorld) Link(n job.Node) job.Link {
	return map[string]*paperComet{"a": w.a, "b": w.b}[n.Name]
}

func (w *paperWorld) Route(_ context.Context, items []job.RouteItem) (job.Routes, error) {
	out := job.Routes{Nodes: []job.Node{{Name: "a", Incarnation: 1, Addr: "a:1"}, {Name: "b", Incarnation: 1, Addr: "b:1"}}}
	for _, item := range items {
		var l job.Located
		for i, key := range item.Keys {
			l.Locations = append(l.Locations, job.Location{Session: 1, Target: uint32(i), Node: map[string]uint32{"ka": 0, "kb": 1}[key]})
		}
		out.Results = append(out.Results, l)
	}
	return out, nil
}

// A comet that does not answer costs its own targets, after the dispatch
// timeout, and nobody else's.
func TestSilentCometCostsItsOwnTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPaperWorld(t, nil)
		w.a.set(true)
		p := newStubPartition(t, 0)
		for i := range 5 {
			p.append(text("k:ka", i), message.ToKey("ka"))
			p.append(text("k:kb", i), message.ToKey("kb"))
		}
		begin := time.Now()
		w.work(p)
		synctest.Wait()
		if err := w.b.check(map[message.Timeline]int{"k:kb": 5}); err != nil {
			t.Errorf("b had to wait: %v", err)
		}
		committed(t, p)
		if took := time.Since(begin); took < time.Second || took > 1100*time.Millisecond {
			t.Errorf("given up after %v, want the dispatch timeout", took)
		}
		w.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 5, job.Unreachable: 5})

		// It answers again: the lane is open again by itself.
		w.a.set(false)
		p.append(text("k:ka", 0), message.ToKey("ka"))
		committed(t, p)
		if err := w.a.check(map[message.Timeline]int{"k:ka": 1}); err != nil {
			t.Error(err)
		}
		w.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 6, job.Unreachable: 5})
	})
}

// A stuck comet with a full lane holds its partition back once, for the
// dispatch timeout; what comes after that is dropped at once and counted, and
// targets on other comets go on.
func TestStuckCometHoldsThePartitionBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPaperWorld(t, func(c *job.Config) { c.LaneQueueBytes = 64 << 10 })
		w.a.set(true)
		p := newStubPartition(t, 0)
		w.work(p)
		big := message.Message{Op: 1, Body: []byte(strings.Repeat("x", 30<<10))}
		const rounds = 40
		begin := time.Now()
		for i := range rounds {
			for range 5 {
				p.append(big, message.ToKey("ka"))
			}
			p.append(text("k:kb", i), message.ToKey("kb"))
			checkFor(t, "delivered to b", func() error { return w.b.check(map[message.Timeline]int{"k:kb": i + 1}) })
		}
		committed(t, p)
		// Each round overfills the lane; a wait for each would be 40 timeouts.
		if took := time.Since(begin); took > rounds*time.Second/3 {
			t.Errorf("%d rounds took %v", rounds, took)
		}
		w.wantOutcomes(map[job.Outcome]uint64{job.Delivered: rounds, job.Unreachable: 5 * rounds})
	})
}

// Symptom: with one comet silent, everybody on its partitions got messages at
// the pace of expiry. Cause: each record for it stayed in flight for a whole
// dispatch timeout, and a partition has a bounded number in flight.
func TestSilentCometDoesNotThrottleItsPartition(t *testing.T) {
	for name, silence := range map[string]func(*paperComet){
		"killed":     (*paperComet).kill,
		"deadlocked": func(c *paperComet) { c.set(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPaperWorld(t, nil)
				p := newStubPartition(t, 0)
				claim := p.claim()
				claim.maxInFlight = 4
				done := make(chan error, 1)
				go func() { done <- w.Work(t.Context(), claim) }()
				synctest.Wait() // the lanes are open
				silence(w.a)
				p.append(text("k:ka", 0), message.ToKey("ka"))
				committed(t, p) // the first one waits for the whole timeout
				begin := time.Now()
				const n = 16
				for i := range n {
					p.append(text("k:ka", 1+i), message.ToKey("ka"))
					p.append(text("k:kb", i), message.ToKey("kb"))
				}
				checkFor(t, "delivered to b", func() error { return w.b.check(map[message.Timeline]int{"k:kb": n}) })
				// Eight windows of four records: eight timeouts, if each took one.
				if took := time.Since(begin); took > 4*time.Second {
					t.Errorf("b waited %v for a", took)
				}
				committed(t, p)
				claim.revoke()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
