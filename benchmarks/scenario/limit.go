package scenario

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func limitScenario() scenario {
	return scenario{
		name: "limit", about: "the bare write loop: threads that only call write(2), same connections, same frame, same clients",
		defaults: func(o *options) { o.rates = floats{0, 10} },
		run: func(ctx context.Context, b *bench) error {
			for repeat := range b.opt.repeat {
				if err := b.limitSteps(ctx, b.opt.rates, repeat+1); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// bareLoop is the bare write loop in a child, and clients that are connected to it.
type bareLoop struct {
	*fleet
	child *load.Process
	procs []process
}

func (b *bench) openBare(ctx context.Context) (*bareLoop, error) {
	o := &b.opt
	child, err := load.Start(b.child)
	if err != nil {
		return nil, err
	}
	l := &bareLoop{child: child}
	bare, err := newProcess("bare", child.PID)
	var addr string
	if err == nil {
		l.procs = []process{bare}
		err = child.Call(ctx, "Listen", load.BareConfig{Conns: o.conns, Writers: o.writers, WebSocket: b.transport == "ws", Address: b.clientsAt()}, &addr)
	}
	if err == nil {
		cfg := b.config([]load.Class{{Name: "room", Conns: o.conns, Timed: o.timed}}, 1)
		cfg.Servers = []string{addr}
		l.fleet, err = b.connect(ctx, "connect to the bare loop", cfg, l.procs)
	}
	if err != nil {
		return nil, errors.Join(err, child.Close())
	}
	return l, nil
}

// Close closes the clients and ends the child.
func (l *bareLoop) Close() error { return errors.Join(l.fleet.Close(), l.child.Close()) }

// limitSteps runs the bare write loop at each rate of rounds.
func (b *bench) limitSteps(ctx context.Context, rates []float64, repeat int) (err error) {
	o := &b.opt
	bare, err := b.openBare(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.Close()) }()
	f, child := bare.fleet, bare.child
	next := uint32(0)
	for _, rate := range rates {
		run := load.BareRun{PerSecond: rate, FirstSeq: next, BodyBytes: o.body}
		if run.Rounds, err = b.rounds(ctx, f, child, &run, rate); err != nil {
			return err
		}
		plan := stepPlan{name: b.stepName("bare loop, %g rounds/s", rate), repeat: repeat, asked: rate, procs: bare.procs}
		st, err := b.step(ctx, f, plan, func(ctx context.Context, beginNS int64, sent *atomic.Uint64) (published, error) {
			run.BeginNS, run.UntilNS = beginNS, beginNS+int64(b.opt.duration)
			p, err := b.writeRounds(ctx, child, run, sent)
			if err == nil {
				run.FirstSeq += uint32(p.limit.Rounds)
			}
			return p, err
		})
		if err != nil {
			return err
		}
		next = run.FirstSeq
		if st.Limit.Broken > 0 {
			return fmt.Errorf("bench: %d writes of the bare loop failed", st.Limit.Broken)
		}
	}
	return nil
}

// rounds is how many rounds fill the duration. Without a rate a few are
// written first, to see how long one takes.
func (b *bench) rounds(ctx context.Context, f *fleet, child *load.Process, run *load.BareRun, rate float64) (int, error) {
	if rate > 0 {
		return max(1, int(math.Round(b.opt.duration.Seconds()*rate))), nil
	}
	const trial = 3
	var res load.BareResult
	try := *run
	try.Rounds = trial
	if err := f.Begin(ctx, b.clock.Now()); err != nil {
		return 0, err
	}
	if err := child.Call(ctx, "Write", try, &res); err != nil {
		return 0, err
	}
	run.FirstSeq += trial
	if _, _, err := b.settleDown(ctx, f, stepPlan{name: "trial"}, trial*uint64(b.opt.conns)); err != nil {
		return 0, err
	}
	if err := f.Tally(ctx, []load.Expect{{By: load.ByAll, Counts: []uint32{res.LastSeq}}}); err != nil {
		return 0, err
	}
	return max(1, int(b.opt.duration/max(time.Microsecond, res.Took/trial))), nil
}

func (b *bench) writeRounds(ctx context.Context, child *load.Process, run load.BareRun, sent *atomic.Uint64) (published, error) {
	var res load.BareResult
	if err := child.Call(ctx, "Write", run, &res); err != nil {
		return published{}, err
	}
	sent.Add(uint64(res.Rounds))
	p := published{expected: uint64(res.Rounds) * uint64(b.opt.conns)}
	p.Accepted, p.Targets, p.Failed = uint64(res.Rounds), uint64(res.Rounds), map[string]int{}
	p.expects = []load.Expect{{By: load.ByAll, Counts: []uint32{res.LastSeq}}}
	cpu := (res.User + res.Sys).Seconds()
	l := &LimitResult{
		Writers: b.opt.writers, Rounds: res.Rounds, Writes: res.Writes, Full: res.Full, Broken: res.Broken,
		CPUSeconds: round(cpu, 4), UserSeconds: round(res.User.Seconds(), 4), CPUPerMillion: round(cpu/float64(res.Writes)*1e6, 4),
		WritesPerSecond: round(float64(res.Writes)/res.Took.Seconds(), 1), WritesPerCPU: round(float64(res.Writes)/cpu, 1), RoundTime: latencyOf(&res.RoundTime),
	}
	for _, ns := range res.WriterNS {
		l.WriterCPUSeconds = append(l.WriterCPUSeconds, round(float64(ns)/1e9, 4))
	}
	p.limit = l
	return p, nil
}
