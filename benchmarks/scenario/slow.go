package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func slowScenario() scenario {
	return scenario{
		name: "slow", about: "one room at -rate with healthy clients only, then with -slow per cent that stop reading and as many that read 1 KB/s",
		defaults:    func(o *options) { o.rates, o.duration, o.timed = floats{100, 1000}, 20*time.Second, 500 },
		needsServer: true, needsHTTP: true, run: runSlow,
		check: func(o *options) error {
			if o.conns-2*o.slowClients() < 1 {
				return fmt.Errorf("-conns %d: allowed is more than the %d that stop and the %d that trickle", o.conns, o.slowClients(), o.slowClients())
			}
			return nil
		},
	}
}

// slowClients stop reading, and as many read little.
func (o *options) slowClients() int { return max(1, int(float64(o.conns)*o.slow/100)) }

const (
	trickleBytes = 1024 // per second
	outcomeWait  = 15 * time.Second
)

func runSlow(ctx context.Context, b *bench) error {
	o := &b.opt
	ratios := map[string][]float64{}
	for repeat := range o.repeat {
		for _, rate := range o.rates {
			healthy, err := b.slowStep(ctx, rate, repeat+1, 0)
			if err != nil {
				return err
			}
			slow, err := b.slowStep(ctx, rate, repeat+1, o.slowClients())
			if err != nil {
				return err
			}
			putP99(ratios, fmt.Sprintf("%g messages/s: p99 of the healthy, with slow ones / without", rate), slow, healthy)
		}
	}
	b.report.Results = medians(ratios)
	return nil
}

// slowStep runs one step with so many stopped and so many trickling clients,
// on connections of its own: slow ones may not survive it.
func (b *bench) slowStep(ctx context.Context, rate float64, repeat, slow int) (_ p99s, err error) {
	o := &b.opt
	room := b.roomName(fmt.Sprintf("s%d-%d-%g-", repeat, slow, rate))
	classes := []load.Class{{Name: "healthy", Conns: o.conns - 2*slow, Rooms: 1, RoomPrefix: room, Timed: o.timed}}
	src := source{rate: rate}
	name := fmt.Sprintf("all healthy, %g messages/s", rate)
	if slow > 0 {
		classes = append(classes,
			load.Class{Name: "stopped", Conns: slow, Rooms: 1, RoomPrefix: room, BytesPerSecond: -1, RecvBuffer: o.slowBuffer},
			load.Class{Name: "trickle", Conns: slow, Rooms: 1, RoomPrefix: room, BytesPerSecond: trickleBytes, RecvBuffer: o.slowBuffer})
		src.others = []int{1, 2}
		name = fmt.Sprintf("%d stopped, %d at 1 KB/s, %g messages/s", slow, slow, rate)
	}
	if src.pub, err = b.publisher(load.GoimRoom, []load.Addressee{{Room: classes[0].Room(0)}}); err != nil {
		return p99s{}, err
	}
	defer src.pub.Close()
	f, err := b.connect(ctx, "connect", b.config(classes, src.pub.Streams()), b.procs)
	if err != nil {
		return p99s{}, err
	}
	defer func() { _ = f.Close() }()
	st, err := b.step(ctx, f, stepPlan{name: name, repeat: repeat, asked: rate, procs: b.procs, count: []int{0}, once: true}, b.publishWork(f, []source{src}))
	if err != nil || slow == 0 {
		return st.p99s(), err
	}
	// Whoever was closed finds out by reading on.
	for _, class := range src.others {
		if err := f.Release(ctx, class); err != nil {
			return p99s{}, err
		}
	}
	bytes, began := uint64(0), b.clock.Now()
	changed := began
	s, err := load.Await(ctx, 50*time.Millisecond, func() (load.Stats, error) { return f.Stats(ctx) }, func(s *load.Stats) bool {
		if s.Bytes != bytes {
			bytes, changed = s.Bytes, s.AtNS
		}
		return s.Classes[1].Ready+s.Classes[2].Ready == 0 || s.AtNS-changed > int64(o.settle) || s.AtNS-began > int64(outcomeWait)
	})
	if err != nil {
		return p99s{}, err
	}
	for i := range src.others {
		c := &s.Classes[1+i]
		st.Classes[1+i].ClosedByServer, st.Classes[1+i].Ready, st.Classes[1+i].CloseCodes = c.ClosedByServer, c.Ready, c.Codes
		b.note("%s, %s: %d of %d were closed by the server", name, c.Name, c.ClosedByServer, c.Conns)
	}
	return st.p99s(), nil
}
