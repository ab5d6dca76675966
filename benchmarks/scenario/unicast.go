package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// requestTimeout of one push.
const requestTimeout = 10 * time.Second

func unicastScenario() scenario {
	return scenario{
		name: "unicast", about: "pushes to users, -batch users each, by /goim/push/mids, /goim/push/keys or /v1/push, at each of -rate per second",
		defaults:    func(o *options) { o.timed, o.rates, o.publishers = -1, floats{200, 1000, 4000, 0}, 64 },
		needsServer: true, needsHTTP: true, run: runUnicast, check: (*options).namesUsers,
	}
}

func (o *options) namesUsers() error {
	if o.firstMid == 0 {
		return errors.New("-first-mid 0: allowed is 1 or more, where users are pushed to")
	}
	return nil
}

func runUnicast(ctx context.Context, b *bench) error {
	o := &b.opt
	class := load.Class{Name: "users", Conns: o.conns, Timed: o.timed}
	pub, users, err := b.usersPublisher(class.Conns, o.publishers)
	if err != nil {
		return err
	}
	defer pub.Close()
	f, err := b.connect(ctx, "connect", b.config([]load.Class{class}, pub.Streams()), b.procs)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for repeat := range o.repeat {
		for _, rate := range o.rates {
			sources := []source{{pub: pub, by: load.ByConn, rate: rate, users: users}}
			name := fmt.Sprintf("%g pushes/s", rate)
			if rate == 0 {
				name = fmt.Sprintf("closed loop of %d", o.publishers)
			}
			plan := stepPlan{name: name, repeat: repeat + 1, asked: rate, procs: b.procs}
			if _, err := b.step(ctx, f, plan, b.publishWork(f, sources)); err != nil {
				return err
			}
		}
	}
	return nil
}

// usersPublisher pushes to the users of conns connections, -batch at a time.
// The result says which connections an addressee has.
func (b *bench) usersPublisher(conns, publishers int) (*load.Publisher, [][]int, error) {
	var to []load.Addressee
	var users [][]int
	for first := 0; first < conns; first += b.opt.batch {
		var a load.Addressee
		var list []int
		for number := first; number < min(first+b.opt.batch, conns); number++ {
			a.Mids = append(a.Mids, b.opt.firstMid+int64(number))
			list = append(list, number)
		}
		to, users = append(to, a), append(users, list)
	}
	route := load.GoimMids
	switch b.opt.route {
	case "keys":
		route = load.GoimKeys
	case "v1":
		route = load.V1Batch
	}
	pub, err := load.NewPublisher(load.PublishConfig{
		HTTP: split(b.opt.http), Route: route, To: to, Publishers: min(publishers, len(to)), BodyBytes: b.opt.body, Store: b.opt.store, NoResults: !b.opt.results, Timeout: requestTimeout, Patience: b.opt.patience,
	})
	return pub, users, err
}
