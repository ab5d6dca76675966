package scenario

import (
	"context"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func connectScenario() scenario {
	return scenario{
		name: "connect", about: "opens all connections with auth, as fast as -inflight or -connect-rate allow; -repeat times",
		defaults:    func(o *options) { o.conns, o.timed, o.inFlight = 19_000, -1, 1024 },
		needsServer: true, run: runConnect,
	}
}

func runConnect(ctx context.Context, b *bench) error {
	o := &b.opt
	var rates []float64
	for attempt := 1; len(rates) < o.repeat; attempt++ {
		// All connections are in a room, as those of a live show.
		class := load.Class{Name: "room", Conns: o.conns, Rooms: 1, RoomPrefix: b.roomName("c"), Timed: o.timed}
		f, err := b.connect(ctx, "connect", b.config([]load.Class{class}, 1), b.procs)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		last := len(b.report.Connects) - 1
		if c := b.report.Connects[last]; b.again(c.Name, &c.System, attempt) {
			b.report.DisturbedConnects = append(b.report.DisturbedConnects, c)
			b.report.Connects = b.report.Connects[:last]
			continue
		}
		attempt = 0
		rates = append(rates, b.report.Connects[last].PerSecond)
	}
	b.report.Results = map[string]float64{"connections/s": median(rates)}
	return nil
}
