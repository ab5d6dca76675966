package scenario

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/benchmarks/load"
)

func capacityScenario() scenario {
	return scenario{
		name: "capacity", about: "the highest rate without loss whose p99 keeps to -target, from the first of -rate on; of a room or of unicast pushes",
		defaults:    func(o *options) { o.rates, o.publishers = floats{100}, 64 },
		needsServer: true, needsHTTP: true, run: runCapacity,
		check: func(o *options) error {
			if len(o.rates) != 1 || o.rates[0] <= 0 {
				return fmt.Errorf("-rate %s: allowed is one rate above 0, to begin with", &o.rates)
			}
			if o.of == "unicast" {
				return o.namesUsers()
			}
			return nil
		},
	}
}

const (
	maxDoublings = 14
	bisections   = 4 // then the answer is within 1/16 of the last doubling
)

func runCapacity(ctx context.Context, b *bench) error {
	o := &b.opt
	class := load.Class{Name: "room", Conns: o.conns, Rooms: 1, RoomPrefix: b.roomName("cap"), Timed: o.timed}
	src := source{}
	var err error
	if o.of == "unicast" {
		class = load.Class{Name: "users", Conns: o.conns, Timed: -1}
		src.by = load.ByConn
		src.pub, src.users, err = b.usersPublisher(o.conns, o.publishers)
	} else {
		src.pub, err = b.publisher(load.GoimRoom, []load.Addressee{{Room: class.Room(0)}})
	}
	if err != nil {
		return err
	}
	defer src.pub.Close()
	f, err := b.connect(ctx, "connect", b.config([]load.Class{class}, src.pub.Streams()), b.procs)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()

	var best *Step
	try := func(rate float64) (bool, error) {
		src.rate = rate
		plan := stepPlan{name: fmt.Sprintf("%g messages/s", rate), repeat: 1, asked: rate, procs: b.procs,
			before: func(ctx context.Context) error { return b.reopen(ctx, f) }}
		st, err := b.step(ctx, f, plan, b.publishWork(f, []source{src}))
		if err != nil {
			return false, err
		}
		why := b.missed(st)
		if why == "" {
			copied := *st
			best = &copied
		} else {
			b.note("%s: %s", st.Name, why)
		}
		return why == "", nil
	}
	highest, err := search(o.rates[0], try)
	if err != nil {
		return err
	}
	b.report.Results = map[string]float64{"highest messages/s": highest}
	if best != nil {
		b.report.Results["highest deliveries/s"] = best.DeliveredPS
		b.report.Results["its p99 ms"] = best.p99s().all
		for _, bound := range best.BoundBy {
			b.note("at the highest rate: %s", bound)
		}
	}
	return nil
}

// search finds the highest rate that works, 0 if none does, from a first one on.
func search(first float64, try func(rate float64) (bool, error)) (float64, error) {
	low, high := 0.0, first
	for range maxDoublings {
		ok, err := try(high)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		low, high = high, 2*high
	}
	for range bisections {
		mid := float64(int((low + high) / 2))
		if mid <= low || mid >= high {
			break
		}
		ok, err := try(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			low = mid
		} else {
			high = mid
		}
	}
	return low, nil
}

// missed says what a step did not keep to.
func (b *bench) missed(st *Step) string {
	silent := 0
	for i := range st.Classes {
		silent += st.Classes[i].Silent + st.Classes[i].ClosedByServer
	}
	switch {
	case len(st.Failed) > 0:
		return fmt.Sprintf("pushes failed: %v", st.Failed)
	case st.Lost > 0 || silent > 0:
		return fmt.Sprintf("%d lost, %d connections silent or closed", st.Lost, silent)
	case b.overran(st) || st.Unsent > 0:
		return fmt.Sprintf("only %.1f messages/s were accepted", st.AcceptedPS)
	case st.p99s().all > float64(b.opt.target)/1e6:
		return fmt.Sprintf("p99 is %.1f ms", st.p99s().all)
	}
	return ""
}
