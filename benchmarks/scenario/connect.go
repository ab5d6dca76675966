package scenario

import (
	"context"
	"io"

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
	var rates, bareRates, ratios []float64
	for range o.repeat {
		bare := 0.0
		if o.limit {
			var err error
			if bare, err = b.connectOnce(func() (io.Closer, error) { return b.openBare(ctx) }); err != nil {
				return err
			}
			bareRates = append(bareRates, bare)
		}
		rate, err := b.connectOnce(func() (io.Closer, error) {
			// All connections are in a room, as those of a live show.
			class := load.Class{Name: "room", Conns: o.conns, Rooms: 1, RoomPrefix: b.roomName("c"), Timed: o.timed}
			return b.connect(ctx, "connect", b.config([]load.Class{class}, 1), b.procs)
		})
		if err != nil {
			return err
		}
		rates = append(rates, rate)
		if o.limit {
			ratios = append(ratios, rate/bare)
		}
	}
	b.report.Results = map[string]float64{"connections/s": median(rates)}
	if o.limit {
		b.report.Results["bare loop: connections/s"] = median(bareRates)
		b.report.Results["connections/s / bare"] = round(median(ratios), 4)
	}
	return nil
}

// connectOnce connects, again where the machine was slow, and says how fast it was.
func (b *bench) connectOnce(open func() (io.Closer, error)) (perSecond float64, err error) {
	for attempt := 1; ; attempt++ {
		f, err := open()
		if err != nil {
			return 0, err
		}
		if err := f.Close(); err != nil {
			return 0, err
		}
		last := len(b.report.Connects) - 1
		c := b.report.Connects[last]
		if !b.again(c.Name, &c.System, attempt) {
			return c.PerSecond, nil
		}
		b.report.DisturbedConnects = append(b.report.DisturbedConnects, c)
		b.report.Connects = b.report.Connects[:last]
	}
}
