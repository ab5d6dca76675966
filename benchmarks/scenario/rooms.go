package scenario

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func roomsScenario() scenario {
	return scenario{
		name: "rooms", about: "-conns connections in -rooms rooms, -rate messages per second over all of them",
		defaults:    func(o *options) { o.rooms, o.rates, o.timed, o.publishers = 1000, floats{1000}, -1, 64 },
		needsServer: true, needsHTTP: true, run: runRooms,
	}
}

func runRooms(ctx context.Context, b *bench) error {
	o := &b.opt
	return b.roomSteps(ctx, load.Class{Name: "rooms", Conns: o.conns, Rooms: o.rooms, RoomPrefix: b.roomName("m"), Timed: o.timed}, 1, o.repeat)
}

func mixedScenario() scenario {
	return scenario{
		name: "mixed", about: "-rooms small rooms of -members alone, then together with one room of -conns at each of -rate",
		defaults:    func(o *options) { o.conns, o.rates, o.publishers = 9000, floats{10, 100}, 32 },
		needsServer: true, needsHTTP: true, run: runMixed,
		check: func(o *options) error {
			if o.rooms*o.members > maxConns {
				return fmt.Errorf("-rooms %d -members %d: allowed are %d connections together", o.rooms, o.members, maxConns)
			}
			return nil
		},
	}
}

// minSamples of a class that latencies are wanted of.
const minSamples = 1000

func runMixed(ctx context.Context, b *bench) error {
	o := &b.opt
	big := load.Class{Name: "big", Conns: o.conns, Rooms: 1, RoomPrefix: b.roomName("big"), Timed: o.timed}
	small := load.Class{Name: "small", Conns: o.rooms * o.members, Rooms: o.rooms, RoomPrefix: b.roomName("small"), Timed: max(o.timed, minSamples)}
	bigPub, err := b.publisher(load.GoimRoom, []load.Addressee{{Room: big.Room(0)}})
	if err != nil {
		return err
	}
	defer bigPub.Close()
	to := make([]load.Addressee, o.rooms)
	for i := range to {
		to[i].Room = small.Room(i)
	}
	smallPub, err := b.publisher(load.GoimRoom, to)
	if err != nil {
		return err
	}
	defer smallPub.Close()
	f, err := b.connect(ctx, "connect", b.config([]load.Class{small, big}, max(bigPub.Streams(), smallPub.Streams())), b.procs)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	ratios := map[string][]float64{}
	for repeat := range o.repeat {
		alone, err := b.mixedStep(ctx, f, "small rooms alone", repeat+1, []source{{pub: smallPub, rate: o.smallRate}})
		if err != nil {
			return err
		}
		for _, rate := range o.rates {
			both, err := b.mixedStep(ctx, f, fmt.Sprintf("with %g messages/s to the big one", rate), repeat+1,
				[]source{{pub: smallPub, rate: o.smallRate}, {pub: bigPub, class: 1, rate: rate}})
			if err != nil {
				return err
			}
			putP99(ratios, fmt.Sprintf("small rooms' p99 with %g messages/s to the big one / alone", rate), both, alone)
		}
	}
	b.report.Results = medians(ratios)
	return nil
}

// mixedStep's first class are the small rooms.
func (b *bench) mixedStep(ctx context.Context, f *fleet, name string, repeat int, sources []source) (p99s, error) {
	asked := 0.0
	for i := range sources {
		asked += sources[i].rate
	}
	st, err := b.step(ctx, f, stepPlan{name: name, repeat: repeat, asked: asked, procs: b.procs}, b.publishWork(f, sources))
	return st.p99s(), err
}

// p99s of a class in milliseconds; 0 where not known.
type p99s struct{ all, undisturbed float64 }

// p99s of the first class.
func (st *Step) p99s() (p p99s) {
	if st == nil || len(st.Classes) == 0 {
		return p
	}
	c := &st.Classes[0]
	if p.all = c.Latency.P99; c.Undisturbed != nil {
		p.undisturbed = c.Undisturbed.P99
	}
	return p
}

func putP99(ratios map[string][]float64, name string, with, without p99s) {
	if without.all > 0 {
		ratios[name] = append(ratios[name], with.all/without.all)
	}
	if without.undisturbed > 0 {
		name += ", undisturbed"
		ratios[name] = append(ratios[name], with.undisturbed/without.undisturbed)
	}
}

// publishWork publishes for -duration.
func (b *bench) publishWork(f *fleet, sources []source) work {
	return func(ctx context.Context, beginNS int64, sent *atomic.Uint64) (published, error) {
		return b.publish(ctx, f, sources, beginNS, b.opt.duration, sent), nil
	}
}

func medians(values map[string][]float64) map[string]float64 {
	m := map[string]float64{}
	for name, v := range values {
		m[name] = round(median(v), 4)
	}
	return m
}
