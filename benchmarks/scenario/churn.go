package scenario

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func churnScenario() scenario {
	return scenario{
		name: "churn", about: "one room at -rate; -churners of its connections are closed and opened again, -churn per second",
		defaults:    func(o *options) { o.conns, o.timed = 8000, 1000 },
		needsServer: true, needsHTTP: true, run: runChurn,
	}
}

func runChurn(ctx context.Context, b *bench) error {
	o := &b.opt
	room := b.roomName("ch")
	classes := []load.Class{
		{Name: "stays", Conns: o.conns, Rooms: 1, RoomPrefix: room, Timed: o.timed},
		{Name: "churns", Conns: o.churners, Rooms: 1, RoomPrefix: room},
	}
	pub, err := b.publisher(load.GoimRoom, []load.Addressee{{Room: classes[0].Room(0)}})
	if err != nil {
		return err
	}
	defer pub.Close()
	f, err := b.connect(ctx, "connect", b.config(classes, pub.Streams()), b.procs)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	ratios := map[string][]float64{}
	for repeat := range o.repeat {
		for _, rate := range o.rates {
			sources := []source{{pub: pub, others: []int{1}, rate: rate}}
			plan := stepPlan{name: fmt.Sprintf("calm, %g messages/s", rate), repeat: repeat + 1, asked: rate, procs: b.procs, count: []int{0},
				before: func(ctx context.Context) error { return b.reopen(ctx, f) }}
			calm, err := b.step(ctx, f, plan, b.publishWork(f, sources))
			if err != nil {
				return err
			}
			before := calm.p99s()
			plan.name = fmt.Sprintf("churn %g/s, %g messages/s", o.churn, rate)
			st, err := b.step(ctx, f, plan, func(ctx context.Context, beginNS int64, sent *atomic.Uint64) (published, error) {
				if err := f.Churn(ctx, 1, o.churn); err != nil {
					return published{}, err
				}
				p := b.publish(ctx, f, sources, beginNS, o.duration, sent)
				return p, f.Churn(ctx, 1, 0)
			})
			if err != nil {
				return err
			}
			putP99(ratios, fmt.Sprintf("%g messages/s: p99 of who stays, with churn / calm", rate), st.p99s(), before)
		}
	}
	b.report.Results = medians(ratios)
	return nil
}

// reopen opens what is not open, before the next step.
func (b *bench) reopen(ctx context.Context, f *fleet) error {
	s, err := f.Stats(ctx)
	if err != nil || ready(&s) == connsOf(&s) && s.Pending == 0 {
		return err
	}
	return b.open(ctx, "reconnect", f, b.procs)
}
