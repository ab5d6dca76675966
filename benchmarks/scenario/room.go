package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func roomScenario() scenario {
	return scenario{
		name: "room", about: "one room with all connections, at each of -rate messages per second",
		needsServer: true, needsHTTP: true, run: runRoom,
	}
}

// roomName keeps the rooms of runs apart: a late message of an earlier run
// must not count.
func (b *bench) roomName(kind string) string {
	return fmt.Sprintf("%s%d-", kind, b.report.Started.Unix()%1e6)
}

func runRoom(ctx context.Context, b *bench) error {
	o := &b.opt
	class := load.Class{Name: "room", Conns: o.conns, Rooms: 1, RoomPrefix: b.roomName("r"), Timed: o.timed}
	if !o.limit {
		return b.roomSteps(ctx, class, 1, o.repeat)
	}
	for repeat := range o.repeat {
		if err := b.limitSteps(ctx, o.rates, repeat+1); err != nil {
			return err
		}
		if err := b.roomSteps(ctx, class, repeat+1, 1); err != nil {
			return err
		}
	}
	b.compare()
	return nil
}

// roomSteps connects and runs all rates, repeats times.
func (b *bench) roomSteps(ctx context.Context, class load.Class, first, repeats int) error {
	o := &b.opt
	to := make([]load.Addressee, class.Rooms)
	for i := range to {
		to[i].Room = class.Room(i)
	}
	pub, err := b.publisher(load.GoimRoom, to)
	if err != nil {
		return err
	}
	defer pub.Close()
	f, err := b.connect(ctx, "connect", b.config([]load.Class{class}, pub.Streams()), b.procs)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for repeat := range repeats {
		for _, rate := range o.rates {
			sources := []source{{pub: pub, by: load.ByRoom, rate: rate}}
			plan := stepPlan{name: fmt.Sprintf("%g messages/s", rate), repeat: first + repeat, asked: rate, procs: b.procs}
			if _, err := b.step(ctx, f, plan, b.publishWork(f, sources)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) publisher(route load.Route, to []load.Addressee) (*load.Publisher, error) {
	return load.NewPublisher(load.PublishConfig{
		HTTP: split(b.opt.http), Route: route, To: to, Publishers: b.opt.publishers, BodyBytes: b.opt.body, Store: b.opt.store, Timeout: requestTimeout,
	})
}

// compare puts the ratios between comet and the bare loop into the summary:
// per rate, the median over the repeats, each against its own bare loop.
func (b *bench) compare() {
	ratios := map[string][]float64{}
	limits := map[string]*Step{} // the latest, by rate
	for i := range b.report.Steps {
		st := &b.report.Steps[i]
		rate := fmt.Sprintf("%g messages/s", st.AskedPerSec)
		if st.Limit != nil {
			limits[rate] = st
			continue
		}
		bare := limits[rate]
		if bare == nil {
			continue
		}
		cpu := 0.0
		for k := range st.Processes {
			if strings.HasPrefix(st.Processes[k].Name, "comet") {
				cpu += st.Processes[k].CPUPerMillion
			}
		}
		if cpu > 0 {
			ratios[rate+": comet CPU per delivery / bare CPU per write"] = append(ratios[rate+": comet CPU per delivery / bare CPU per write"], cpu/bare.Limit.CPUPerMillion)
		}
		ratios[rate+": p99 / bare round p50"] = append(ratios[rate+": p99 / bare round p50"], st.Classes[0].Latency.P99/bare.Limit.RoundTime.P50)
		ratios[rate+": p99 / bare round p99"] = append(ratios[rate+": p99 / bare round p99"], st.Classes[0].Latency.P99/bare.Limit.RoundTime.P99)
	}
	b.report.Results = medians(ratios)
}
