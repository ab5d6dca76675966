package scenario

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func allScenario() scenario {
	return scenario{
		name: "all", about: "pushes to everybody at each of -rate per second, paced by -speed",
		defaults:    func(o *options) { o.rates, o.publishers = floats{1, 10}, 4 },
		needsServer: true, needsHTTP: true, run: runAll,
	}
}

func runAll(ctx context.Context, b *bench) error {
	o := &b.opt
	pub, err := b.publisher(load.GoimAll, []load.Addressee{{Speed: o.speed}})
	if err != nil {
		return err
	}
	defer pub.Close()
	f, err := b.connect(ctx, "connect", b.config([]load.Class{{Name: "all", Conns: o.conns, Timed: o.timed}}, pub.Streams()), b.procs)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for repeat := range o.repeat {
		for _, rate := range o.rates {
			plan := stepPlan{name: fmt.Sprintf("%g pushes/s", rate), repeat: repeat + 1, asked: rate, procs: b.procs}
			if _, err := b.step(ctx, f, plan, b.publishWork(f, []source{{pub: pub, by: load.ByAll, rate: rate}})); err != nil {
				return err
			}
		}
	}
	return nil
}
