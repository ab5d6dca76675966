package scenario

import (
	"context"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// meter measures processes and the machine over a stretch of time.
type meter struct {
	b       *bench
	procs   []process
	times   []processTimes
	rss     []int64
	machine machineTimes
	tcp     int64
	slab    int64
	dropped int64
	watch   processTimes
	known   map[int]bool // pids of the measured processes and of the measuring ones
	others  otherCPU
	loops   []time.Duration
	clients time.Duration
	self    time.Duration
	metrics map[string]sample
	began   time.Time

	done    chan struct{}
	once    sync.Once
	sampler sync.WaitGroup
	mu      sync.Mutex
	maxRSS  []int64
}

// usage is what a meter read.
type meterUse struct {
	processes []ProcessUse
	clients   ClientUse
	system    SystemUse
	metrics   map[string]float64
	disturbed []load.Span // where Speed is known
}

const memoryEvery = 250 * time.Millisecond

// startMeter begins; stop must be called.
func (b *bench) startMeter(ctx context.Context, f *fleet, procs []process) (*meter, error) {
	m := &meter{b: b, procs: procs, times: make([]processTimes, len(procs)), rss: make([]int64, len(procs)), maxRSS: make([]int64, len(procs)), done: make(chan struct{})}
	s, err := f.Stats(ctx)
	if err != nil {
		return nil, err
	}
	m.metrics = b.scrape(ctx)
	m.loops, m.clients, m.self = s.LoopCPU, s.ProcessCPU, ownCPU()
	_, m.tcp = sockets()
	m.slab, m.dropped = slab(), droppedPackets()
	if _, m.watch, err = b.stalls(ctx); err != nil {
		return nil, err
	}
	m.known = b.knownPIDs(f, procs)
	m.others = readOthers(m.known)
	m.began = time.Now()
	m.machine = readMachineTimes()
	for i, p := range procs {
		m.rss[i] = p.rss()
		if m.times[i], err = p.times(); err != nil {
			return nil, err
		}
	}
	m.sampler.Go(m.sample)
	return m, nil
}

// knownPIDs are the processes that are measured, and those that measure.
func (b *bench) knownPIDs(f *fleet, procs []process) map[int]bool {
	known := map[int]bool{os.Getpid(): true}
	for _, p := range procs {
		known[p.pid] = true
	}
	for _, pid := range f.PIDs() {
		known[pid] = true
	}
	if b.stallWatch != nil {
		known[b.stallWatch.PID] = true
	}
	return known
}

// Servers are calm when they use less than calmCores together.
const (
	calmCores = 0.25
	calmEvery = 250 * time.Millisecond
)

// calm waits until the servers are done with what came before: connections
// that ended, a backlog. It gives up after -calm.
func (b *bench) calm(ctx context.Context) error {
	if len(b.procs) == 0 || b.opt.calm <= 0 {
		return nil
	}
	tick := time.NewTicker(calmEvery)
	defer tick.Stop()
	began, last, before := time.Now(), time.Now(), -1.0
	for {
		used := 0.0
		for _, p := range b.procs {
			t, err := p.times()
			if err != nil {
				return err
			}
			used += t.total()
		}
		cores := (used - before) / time.Since(last).Seconds()
		if before >= 0 && cores < calmCores {
			return nil
		}
		if time.Since(began) > b.opt.calm {
			b.note("the servers were not calm before a step: they used %.2f cores", cores)
			return nil
		}
		before, last = used, time.Now()
		b.line.show("waiting for the servers to be calm")
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *meter) sample() {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		m.mu.Lock()
		for i, p := range m.procs {
			m.maxRSS[i] = max(m.maxRSS[i], p.rss())
		}
		m.mu.Unlock()
		select {
		case <-tick.C:
		case <-m.done:
			return
		}
	}
}

func (m *meter) stop() {
	m.once.Do(func() { close(m.done) })
	m.sampler.Wait()
}

// read ends the stretch. s are the clients' counts at its end.
func (m *meter) read(ctx context.Context, s *load.Stats) (meterUse, error) {
	var use meterUse
	took := time.Since(m.began).Seconds()
	machine := readMachineTimes()
	measured := 0.0
	times := make([]processTimes, len(m.procs))
	for i, p := range m.procs {
		var err error
		if times[i], err = p.times(); err != nil {
			return use, err
		}
	}
	m.stop()
	for i, p := range m.procs {
		u := ProcessUse{Name: p.name, PID: p.pid, Threads: p.threads(), RSSBefore: m.rss[i]}
		u.CPUSeconds = round(times[i].total()-m.times[i].total(), 3)
		u.UserSeconds = round(times[i].user-m.times[i].user, 3)
		u.RSSBytes, u.PSSBytes = p.memory()
		u.MaxRSSBytes = max(m.maxRSS[i], u.RSSBytes)
		measured += u.CPUSeconds
		use.processes = append(use.processes, u)
	}
	stalls, watch, err := m.b.stalls(ctx)
	if err != nil {
		return use, err
	}
	measured += watch.total() - m.watch.total()
	c := &use.clients
	c.CPUSeconds = round((s.ProcessCPU - m.clients).Seconds(), 3)
	c.PublisherSeconds = round((ownCPU() - m.self).Seconds(), 3)
	measured += c.CPUSeconds + c.PublisherSeconds
	for i := range s.LoopCPU {
		if i < len(m.loops) {
			c.BusiestLoop = max(c.BusiestLoop, round((s.LoopCPU[i]-m.loops[i]).Seconds()/took, 3))
		}
	}
	c.DrainMaxMS = round(float64(s.DrainMax)/1e6, 1)
	c.Reads, c.Bytes = s.Reads, s.Bytes
	y := &use.system
	if all := machine.all - m.machine.all; all > 0 {
		busy := all - (machine.idle - m.machine.idle)
		y.Busy = round(busy/all, 3)
		y.Other = round(max(0, busy-measured)/all, 3)
		y.SoftIRQ = round((machine.softirq-m.machine.softirq)/all, 3)
	}
	y.Others = readOthers(m.known).since(m.others, took)
	if stalls != nil {
		y.Stalls = &StallUse{
			Count: stalls.Count, LongestMS: round(float64(stalls.Longest)/1e6, 1),
			Share: round(stalls.Total.Seconds()/took/float64(runtime.NumCPU()), 5),
		}
		y.Speed, use.disturbed = speedOf(stalls, took), stalls.Disturbed
	}
	y.Dropped = droppedPackets() - m.dropped
	y.Load1 = load1()
	y.TCPSockets, y.TCPMemoryBytes = sockets()
	y.TCPMemoryBefore = m.tcp
	y.SlabBytes, y.SlabBefore = slab(), m.slab
	use.metrics = changes(m.metrics, m.b.scrape(ctx))
	return use, nil
}
