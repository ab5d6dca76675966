package scenario

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func idleScenario() scenario {
	return scenario{
		name: "idle", about: "connections in rooms that only send heartbeats: bytes, goroutines and CPU",
		defaults: func(o *options) {
			o.conns, o.timed, o.heartbeat, o.duration, o.rooms = 19_000, -1, time.Minute, time.Minute, 100
		},
		needsServer: true, run: runIdle,
	}
}

func runIdle(ctx context.Context, b *bench) error {
	o := &b.opt
	class := load.Class{Name: "idle", Conns: o.conns, Rooms: o.rooms, RoomPrefix: b.roomName("i"), Timed: o.timed}
	if o.repeat > 1 {
		b.note("only the first repeat tells bytes per connection: the later ones find the memory of the first")
	}
	for repeat := range o.repeat {
		before := b.scrape(ctx)
		f, err := b.connect(ctx, "connect", b.config([]load.Class{class}, 1), b.procs)
		if err != nil {
			return err
		}
		err = b.idleStep(ctx, f, repeat+1, before)
		if err2 := f.Close(); err == nil {
			err = err2
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) idleStep(ctx context.Context, f *fleet, repeat int, before map[string]sample) error {
	o := &b.opt
	conns := float64(o.conns)
	began := &b.report.Connects[len(b.report.Connects)-1]
	plan := stepPlan{name: "idle", repeat: repeat, procs: b.procs, once: true}
	st, err := b.step(ctx, f, plan, func(ctx context.Context, _ int64, _ *atomic.Uint64) (published, error) {
		timer := time.NewTimer(o.duration)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return published{}, nil
	})
	if err != nil {
		return err
	}
	s, err := f.Stats(ctx)
	if err != nil {
		return err
	}
	idle := &IdleResult{
		Conns: ready(&s), Heartbeats: s.Heartbeats, Echoes: s.HeartbeatEchoes,
		ResidentPerConn: map[string]float64{}, TotalPerConn: map[string]float64{}, CoresByName: map[string]float64{},
		KernelPerConn: round(float64(st.System.TCPMemoryBytes-began.System.TCPMemoryBefore+st.System.SlabBytes-began.System.SlabBefore)/conns, 1),
	}
	results := map[string]float64{}
	for i := range st.Processes {
		u, base := &st.Processes[i], began.Processes[i].RSSBefore
		idle.ResidentPerConn[u.Name] = round(float64(u.RSSBytes-base)/conns, 1)
		idle.TotalPerConn[u.Name] = round(float64(u.RSSBytes)/conns, 1)
		idle.CoresByName[u.Name] = round(u.CPUSeconds/o.duration.Seconds(), 5)
		results[u.Name+": bytes per connection"] = idle.ResidentPerConn[u.Name]
		results[u.Name+": cores"] = idle.CoresByName[u.Name]
	}
	if repeat == 1 {
		b.report.Results = results
	}
	after := b.scrape(ctx)
	for _, a := range o.admins {
		key := a[0] + " go_goroutines"
		if _, ok := after[key]; ok {
			idle.Goroutines = addTo(idle.Goroutines, a[0], round((after[key].value-before[key].value)/conns, 5))
		}
		if b.collect(ctx, split(a[1])[0]) != nil {
			continue
		}
		for i, p := range b.procs {
			if p.name == a[0] {
				idle.AfterGC = addTo(idle.AfterGC, p.name, round(float64(p.rss()-began.Processes[i].RSSBefore)/conns, 1))
			}
		}
	}
	st.Idle = idle
	if st.Classes[0].ClosedByServer > 0 {
		return fmt.Errorf("bench: %d connections were closed while they were idle", st.Classes[0].ClosedByServer)
	}
	return nil
}

func addTo(m map[string]float64, key string, v float64) map[string]float64 {
	if m == nil {
		m = map[string]float64{}
	}
	m[key] = v
	return m
}

// collect asks a Go server for a garbage collection, through its heap profile.
func (b *bench) collect(ctx context.Context, addr string) error {
	return b.fetch(ctx, "http://"+addr+"/debug/pprof/heap?gc=1", time.Minute, func(r *http.Response) error {
		if r.StatusCode != http.StatusOK || strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
			return fmt.Errorf("bench: the heap profile answered %s", r.Status)
		}
		return nil
	})
}
