package scenario

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func roomScenario() scenario {
	return scenario{
		name: "room", about: "one room with all connections, at each of -rate messages per second",
		needsServer: true, needsHTTP: true, comparesTransports: true, run: runRoom,
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
	turns := o.transports()
	if !o.limit && len(turns) == 1 {
		return b.roomSteps(ctx, class, 1, o.repeat)
	}
	for repeat := range o.repeat {
		for _, b.transport = range turns {
			if o.limit {
				if err := b.limitSteps(ctx, o.rates, repeat+1); err != nil {
					return err
				}
			}
			if err := b.roomSteps(ctx, class, repeat+1, 1); err != nil {
				return err
			}
		}
		slices.Reverse(turns) // who is first has no advantage
	}
	b.compare()
	return nil
}

// stepName tells the transport where there are several.
func (b *bench) stepName(format string, rate float64) string {
	name := fmt.Sprintf(format, rate)
	if len(b.opt.transports()) > 1 {
		name += ", " + b.transport
	}
	return name
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
			plan := stepPlan{name: b.stepName("%g messages/s", rate), repeat: first + repeat, asked: rate, procs: b.procs}
			if _, err := b.step(ctx, f, plan, b.publishWork(f, sources)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) publisher(route load.Route, to []load.Addressee) (*load.Publisher, error) {
	return load.NewPublisher(load.PublishConfig{
		HTTP: split(b.opt.http), Route: route, To: to, Publishers: b.opt.publishers, BodyBytes: b.opt.body, Store: b.opt.store, Timeout: requestTimeout, Patience: b.opt.patience,
	})
}

// compare puts ratios into the summary, the medians over the repeats: those of
// comet to the bare loop of its repeat, and of WebSocket to TCP.
func (b *bench) compare() {
	ratios := map[string][]float64{}
	put := func(name string, a, b float64) {
		if a > 0 && b > 0 {
			ratios[name] = append(ratios[name], a/b)
		}
	}
	type which struct {
		rate      float64
		repeat    int
		transport string
		bare      bool
	}
	steps := map[which]*Step{}
	for i := range b.report.Steps {
		st := &b.report.Steps[i]
		key := which{st.AskedPerSec, st.Repeat, st.Transport, st.Limit != nil}
		steps[key] = st
		key.bare = true
		if bare := steps[key]; st.Limit == nil && bare != nil {
			put(st.Name+": comet CPU per delivery / bare CPU per write", cometCPU(st), bare.Limit.CPUPerMillion)
			put(st.Name+": p99 / bare round p50", st.Classes[0].Latency.P99, bare.Limit.RoundTime.P50)
			put(st.Name+": p99 / bare round p99", st.Classes[0].Latency.P99, bare.Limit.RoundTime.P99)
			if u := st.Classes[0].Undisturbed; u != nil {
				put(st.Name+": p99 undisturbed / bare round p50", u.P99, bare.Limit.RoundTime.P50)
			}
		}
	}
	for key, ws := range steps {
		if key.transport != "ws" || key.bare {
			continue
		}
		key.transport = "tcp"
		if tcp := steps[key]; tcp != nil {
			name := strings.TrimSuffix(ws.Name, ", ws")
			put(name+": ws comet CPU / tcp", cometCPU(ws), cometCPU(tcp))
			put(name+": ws p50 / tcp", ws.Classes[0].Latency.P50, tcp.Classes[0].Latency.P50)
			put(name+": ws p99 / tcp", ws.Classes[0].Latency.P99, tcp.Classes[0].Latency.P99)
		}
	}
	b.report.Results = medians(ratios)
}

// cometCPU is what all comets used, seconds per million deliveries.
func cometCPU(st *Step) (cpu float64) {
	for i := range st.Processes {
		if strings.HasPrefix(st.Processes[i].Name, "comet") {
			cpu += st.Processes[i].CPUPerMillion
		}
	}
	return cpu
}
