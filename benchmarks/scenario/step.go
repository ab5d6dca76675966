package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// source is something that publishes to a class during a step.
type source struct {
	pub    *load.Publisher
	class  int
	others []int // classes that get the same, but need not get all of it
	by     load.By
	rate   float64
	stream int // its streams are this one and the following
	// users: the connections of each addressee, where by is ByConn
	users [][]int
	begun [][]uint32 // Published before the step
}

// published is what a step sent.
type published struct {
	load.PublishStats
	expected uint64 // deliveries
	expects  []load.Expect
	limit    *LimitResult
}

// publish runs the sources at the same time.
func (b *bench) publish(ctx context.Context, f *fleet, sources []source, beginNS int64, lasting time.Duration, sent *atomic.Uint64) published {
	stats := make([]load.PublishStats, len(sources))
	var wait sync.WaitGroup
	for i := range sources {
		sources[i].begun = sources[i].pub.Published()
		wait.Go(func() { stats[i] = sources[i].pub.RunAt(ctx, beginNS, sources[i].rate, lasting, sent) })
	}
	wait.Wait()
	var p published
	p.Failed = map[string]int{}
	for i := range sources {
		p.Accepted += stats[i].Accepted
		p.Targets += stats[i].Targets
		p.Unsent += stats[i].Unsent
		for why, n := range stats[i].Failed {
			p.Failed[why] += n
		}
		p.API.Merge(&stats[i].API)
		p.Lag.Merge(&stats[i].Lag)
		sources[i].account(f.cfg.Classes, &p)
	}
	return p
}

// account adds what the source published to what is expected.
func (s *source) account(classes []load.Class, p *published) {
	class := &classes[s.class]
	for stream, counts := range s.pub.Published() {
		for _, other := range s.others {
			p.expects = append(p.expects, load.Expect{Class: other, Stream: s.stream + stream, By: s.by, Counts: counts})
		}
		e := load.Expect{Class: s.class, Stream: s.stream + stream, By: s.by, Counts: counts}
		if s.by == load.ByConn {
			e.Counts = make([]uint32, class.Conns)
		}
		for to, n := range counts {
			more := uint64(n - s.begun[stream][to])
			switch s.by {
			case load.ByRoom:
				p.expected += more * uint64(membersOf(class, to))
			case load.ByAll:
				p.expected += more * uint64(class.Conns)
			case load.ByConn:
				p.expected += more * uint64(len(s.users[to]))
				for _, number := range s.users[to] {
					e.Counts[number] = n
				}
			}
		}
		p.expects = append(p.expects, e)
	}
}

// membersOf the room: connection i is in room i mod Rooms.
func membersOf(c *load.Class, room int) int { return (c.Conns - room + c.Rooms - 1) / c.Rooms }

// work publishes for a step and says what is expected.
type work func(ctx context.Context, beginNS int64, sent *atomic.Uint64) (published, error)

// stepPlan names a step.
type stepPlan struct {
	name   string
	repeat int
	asked  float64
	procs  []process
	count  []int // classes whose deliveries are awaited; nil = all
	// before is run before each attempt; nil = nothing.
	before func(context.Context) error
	once   bool // there are no further attempts
}

// leadTime is between the beginning of a step and its first message.
const leadTime = 100 * time.Millisecond

// step measures one stretch of publishing, again where the machine was slow,
// and puts it into the report.
func (b *bench) step(ctx context.Context, f *fleet, plan stepPlan, do work) (*Step, error) {
	for attempt := 1; ; attempt++ {
		if plan.before != nil {
			if err := plan.before(ctx); err != nil {
				return nil, err
			}
		}
		st, err := b.measure(ctx, f, plan, do)
		if err != nil {
			return nil, err
		}
		if !plan.once && b.again(st.Name, &st.System, attempt) {
			b.report.Disturbed = append(b.report.Disturbed, *st)
			continue
		}
		b.report.Steps = append(b.report.Steps, *st)
		if st.Accepted == 0 && len(st.Failed) > 0 {
			return nil, fmt.Errorf("bench: %s: no push to -http %s was accepted: %s", plan.name, b.opt.http, counted(st.Failed))
		}
		return &b.report.Steps[len(b.report.Steps)-1], nil
	}
}

// counted lists what happened how often.
func counted(reasons map[string]int) string {
	var all []string
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		all = append(all, fmt.Sprintf("%s (%d times)", why, reasons[why]))
	}
	return strings.Join(all, ", ")
}

// again tells whether the machine was too slow for a measurement to count, and
// it may be tried again. It does not look at what was measured.
func (b *bench) again(name string, use *SystemUse, attempt int) bool {
	switch {
	case b.opt.attempts == 1 || !b.tooSlow(use):
		return false
	case attempt < b.opt.attempts:
		return true
	}
	b.note("%s: processors were slow for more than %g of the time in all of its %d attempts", name, b.opt.maxSlow, attempt)
	return false
}

// slowMachine tells whether processors were slow for more than -max-slow.
func (o *options) slowMachine(use *SystemUse) bool {
	return use.Speed != nil && use.Speed.SlowShare > o.maxSlow
}

// measure is one attempt of a step, to the last delivery.
func (b *bench) measure(ctx context.Context, f *fleet, plan stepPlan, do work) (*Step, error) {
	if err := b.calm(ctx); err != nil {
		return nil, err
	}
	meter, err := b.startMeter(ctx, f, plan.procs)
	if err != nil {
		return nil, err
	}
	defer meter.stop()
	beginNS := b.clock.Now() + int64(leadTime)
	if err := f.Begin(ctx, beginNS); err != nil {
		return nil, err
	}
	var sent atomic.Uint64
	watching, unwatch := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { b.watch(watching, f, plan.name, &sent) })
	if b.opt.profiles != "" {
		for _, a := range b.opt.admins {
			watch.Go(func() {
				if err := b.profile(ctx, fmt.Sprintf("%s-%d", plan.name, plan.repeat), a[0], split(a[1])[0]); err != nil {
					b.line.show("%s", err)
				}
			})
		}
	}
	p, err := do(ctx, beginNS, &sent)
	publishedNS := b.clock.Now()
	unwatch()
	watch.Wait()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("bench: %s: %w", plan.name, context.Cause(ctx))
	}
	s, arrivedNS, err := b.settleDown(ctx, f, plan, p.expected)
	if err != nil {
		return nil, err
	}
	use, err := meter.read(ctx, &s)
	if err != nil {
		return nil, err
	}
	if err := f.Tally(ctx, p.expects); err != nil {
		return nil, err
	}
	if s, err = f.Stats(ctx); err != nil {
		return nil, err
	}
	st := b.result(&plan, &p, &s, &use)
	if st.System.Speed != nil {
		// What is left out must not depend on how long a message took, or
		// slow ones would be left out more often.
		left := make([][]load.Span, len(s.Classes))
		for i := range left {
			left[i] = load.Widened(use.disturbed, time.Duration(s.Classes[i].Latency.Quantile(0.99)))
		}
		undisturbed, err := f.Outside(ctx, left)
		if err != nil {
			return nil, err
		}
		for i := range undisturbed {
			u := &undisturbed[i]
			if st.Classes[i].UndisturbedShare = round(u.Share(), 3); u.Share() >= minUndisturbed {
				l := latencyOf(&u.Latency)
				st.Classes[i].Undisturbed = &l
			}
		}
	}
	seconds := float64(publishedNS-beginNS) / 1e9
	if plan.asked > 0 { // the last message is due before the end
		seconds = max(seconds, b.opt.duration.Seconds())
	}
	st.Seconds = round(seconds, 3)
	st.AcceptedPS, st.TargetsPS = round(float64(p.Accepted)/seconds, 2), round(float64(p.Targets)/seconds, 2)
	st.SettledSeconds = round(max(0, float64(arrivedNS-publishedNS)/1e9), 3)
	st.DeliveredPS = round(float64(st.Delivered)/max(seconds, float64(arrivedNS-beginNS)/1e9), 1)
	b.bounds(&st)
	return &st, nil
}

// minUndisturbed is how much must remain for the rest to say something.
const minUndisturbed = 0.2

// lookEvery is the time between two looks at what has arrived.
const lookEvery = 20 * time.Millisecond

// silence is how long nothing has arrived.
type silence struct {
	got      uint64
	lookedNS int64
	lasted   time.Duration
}

// look adds the time since the last look, at most that of a few: where it is
// longer the machine stood still, and what has arrived is not read yet.
func (q *silence) look(got uint64, atNS int64) time.Duration {
	q.lasted += min(time.Duration(atNS-q.lookedNS), 5*lookEvery)
	if got != q.got {
		q.lasted = 0
	}
	q.got, q.lookedNS = got, atNS
	return q.lasted
}

// settleDown waits until everything arrived, or nothing has for a while. It
// returns when the last arrived.
func (b *bench) settleDown(ctx context.Context, f *fleet, plan stepPlan, expected uint64) (load.Stats, int64, error) {
	arrived := b.clock.Now()
	quiet := silence{lookedNS: arrived}
	s, err := load.Await(ctx, lookEvery, func() (load.Stats, error) { return f.Stats(ctx) }, func(s *load.Stats) bool {
		got := delivered(s, plan.count)
		lasted := quiet.look(got, s.AtNS)
		if lasted == 0 {
			arrived = s.AtNS
		}
		b.line.show("%s: %d of %d deliveries", plan.name, got, expected)
		return got >= expected || lasted > b.opt.settle
	})
	if err != nil || plan.count == nil {
		return s, arrived, err
	}
	// The other classes have what was sent to them, and two rounds to read it.
	until := b.clock.Now() + 2*int64(b.opt.drain)
	s, err = load.Await(ctx, lookEvery, func() (load.Stats, error) { return f.Stats(ctx) }, func(s *load.Stats) bool { return s.AtNS > until })
	return s, arrived, err
}

// delivered counts each message once.
func delivered(s *load.Stats, classes []int) uint64 {
	n := uint64(0)
	for i := range s.Classes {
		c := &s.Classes[i]
		if classes == nil || slices.Contains(classes, i) {
			n += c.Received - c.Duplicates - c.Late - c.Unknown
		}
	}
	return n
}

// watch shows the progress line until ctx ends.
func (b *bench) watch(ctx context.Context, f *fleet, name string, sent *atomic.Uint64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var before load.Stats
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s, err := f.Stats(ctx)
		if err != nil {
			continue
		}
		perSecond := 0.0
		if before.AtNS > 0 {
			perSecond = float64(delivered(&s, nil)-delivered(&before, nil)) / (float64(s.AtNS-before.AtNS) / 1e9)
		}
		var all load.Hist
		broken := uint64(0)
		for i := range s.Classes {
			all.Merge(&s.Classes[i].Latency)
			broken += s.Classes[i].Duplicates + s.Classes[i].Inversions
		}
		b.line.show("%s: %d sent, %.0f deliveries/s, p50 %.1f p99 %.1f ms, %d duplicates and inversions, %d of %d open", name, sent.Load(), perSecond,
			ms(all.Quantile(0.5)), ms(all.Quantile(0.99)), broken, ready(&s), connsOf(&s))
		before = s
	}
}

func connsOf(s *load.Stats) int {
	n := 0
	for i := range s.Classes {
		n += s.Classes[i].Conns
	}
	return n
}

// result puts the numbers together.
func (b *bench) result(plan *stepPlan, p *published, s *load.Stats, use *meterUse) Step {
	st := Step{
		Name: plan.name, Repeat: plan.repeat, Transport: b.transport, AskedPerSec: plan.asked, Accepted: p.Accepted, Targets: p.Targets, Failed: p.Failed, Unsent: p.Unsent,
		Expected: p.expected, API: latencyOf(&p.API), Lag: latencyOf(&p.Lag), Limit: p.limit,
		Processes: use.processes, Metrics: use.metrics, Clients: use.clients, System: use.system,
	}
	if len(st.Failed) == 0 {
		st.Failed = nil
	}
	for i := range s.Classes {
		c := classOf(&s.Classes[i])
		st.Classes = append(st.Classes, c)
		st.Delivered += c.Delivered
		if plan.count == nil || slices.Contains(plan.count, i) { // the others need not get all of it
			st.Lost += c.Lost + c.LostOnClosed
		}
		st.Duplicates += c.Duplicates
		st.Inversions += c.Inversions
	}
	if p.expected > 0 {
		st.LostPercent = round(100*float64(st.Lost)/float64(p.expected), 4)
	}
	for i := range st.Processes {
		u := &st.Processes[i]
		if st.Delivered > 0 {
			u.CPUPerMillion = round(u.CPUSeconds/float64(st.Delivered)*1e6, 4)
		}
		if p.Targets > 0 {
			u.CPUPerMessage = round(u.CPUSeconds/float64(p.Targets)*1e6, 2)
		}
	}
	return st
}

// overran says that the pushes took longer than their schedule.
func (b *bench) overran(st *Step) bool {
	return st.Seconds > 1.02*b.opt.duration.Seconds()+0.1
}

// undisturbed says which of the latencies is without the noise.
func (st *Step) undisturbed() string {
	var text strings.Builder
	for i := range st.Classes {
		if c := &st.Classes[i]; c.Undisturbed != nil {
			fmt.Fprintf(&text, "; without what was due then, %s has p50 %.2f p99 %.2f ms", c.Name, c.Undisturbed.P50, c.Undisturbed.P99)
		}
	}
	return text.String()
}

// bounds says what held the step back.
func (b *bench) bounds(st *Step) {
	add := func(clients bool, format string, args ...any) {
		st.BoundBy = append(st.BoundBy, fmt.Sprintf(format, args...))
		st.ClientSide = st.ClientSide || clients
	}
	if st.Unsent > 0 {
		add(false, "rate: %d messages were due and could not be sent", st.Unsent)
	}
	for why, n := range st.Failed {
		add(false, "pushes: %d failed: %s", n, why)
	}
	c := &st.Clients
	if c.BusiestLoop > 0.85 {
		add(true, "clients: their busiest loop used %.0f %% of a core", 100*c.BusiestLoop)
	}
	if late := 2*b.opt.drain.Seconds()*1e3 + 50; c.DrainMaxMS > late {
		add(true, "clients: a round over the connections that are not timed took %.0f ms", c.DrainMaxMS)
	}
	if st.AskedPerSec > 0 && st.Idle == nil {
		if b.overran(st) {
			add(false, "rate: %.1f of %.1f messages/s", st.AcceptedPS, st.AskedPerSec)
		}
		if busy := st.API.Mean / 1e3 * st.AcceptedPS / float64(b.opt.publishers); busy > 0.7 {
			add(false, "publishers: they waited for answers %.0f %% of the time", 100*busy)
		} else if st.Lag.P99 > 10 {
			add(true, "publishers: 1 %% of the messages were sent %.1f ms late", st.Lag.P99)
		}
	}
	if st.System.Busy > 0.95 {
		add(false, "machine: %.0f %% busy", 100*st.System.Busy)
	}
	busiest := ""
	if o := st.System.Others; len(o) > 0 && st.Seconds > 0 {
		busiest = fmt.Sprintf("; of all others %s used most, %.2g %% of a core", o[0].Name, 100*o[0].CPUSeconds/st.Seconds)
	}
	if st.System.Other > 0.05 {
		add(false, "noise: others used %.0f %% of the machine%s", 100*st.System.Other, busiest)
	}
	if s := st.System.Stalls; s != nil && (s.Share > 0.001 || s.LongestMS > 10) {
		add(false, "noise: processors stood still %d times, for %.2g %% of the time and up to %.0f ms%s", s.Count, 100*s.Share, s.LongestMS, busiest)
	}
	if s := st.System.Speed; s != nil && s.SlowShare > 0.01 {
		add(false, "noise: processors were slow for %.2g %% of the time; in the slowest 1 %% they took %.2g times as long%s", 100*s.SlowShare, s.P99US/s.WorkUS, st.undisturbed())
	}
	if n := st.System.Dropped; n > 0 {
		add(false, "noise: %d packets were dropped, net.core.netdev_max_backlog is %d", n, b.report.Machine.Backlog)
	}
}
