package discovery

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// askGap is the least time between two questions after the first of them brought
// nothing new, should a server answer polls without waiting.
const askGap = 100 * time.Millisecond

// watcher implements registry.Watcher. All fields below release belong to the
// goroutine in Next.
type watcher struct {
	directory *Directory
	service   string
	grace     time.Duration
	ctx       context.Context
	cancel    context.CancelFunc
	release   func() bool

	synced bool // last came from a server that has not failed since
	last   list // what the server said last
	wait   backoff

	started bool                        // Next returned once
	given   []*registry.ServiceInstance // what Next returned last
	outage  bool                        // a poll or a fetch failed since then
	silent  bool                        // no server answered for a while since then
	missing map[string]absent           // known before an outage, not seen since
}

// absent is an instance that is listed though the server does not know it.
type absent struct {
	instance *registry.ServiceInstance
	until    time.Time // when it is given up
}

// Next implements registry.Watcher.
func (w *watcher) Next() ([]*registry.ServiceInstance, error) {
	for gap := time.Duration(0); pause(w.ctx, gap); {
		asked := time.Now()
		l, polled, err := w.ask()
		if err != nil {
			// The client logs that a server does not answer.
			w.synced, w.outage, w.silent = false, true, true
			gap = w.wait.next()
			continue
		}
		if polled {
			w.wait.reset()
		}
		w.last, w.synced = l, true
		instances := w.withMissing(l.instances)
		if !w.started || !directory.Same(instances, w.given) {
			w.started, w.given = true, instances
			return directory.CloneAll(instances), nil
		}
		if gap = askGap - time.Since(asked); !polled {
			gap = w.wait.next()
		}
	}
	return nil, w.ctx.Err()
}

// Stop implements registry.Watcher.
func (w *watcher) Stop() error {
	w.release()
	w.cancel()
	return nil
}

// ask returns the list as soon as it may have changed. polled is false when the
// poll for it failed.
func (w *watcher) ask() (l list, polled bool, err error) {
	polled = true
	if w.synced {
		var ok bool
		if l, ok, err = w.directory.poll(w.ctx, w.service, w.last); ok {
			return l, true, nil
		}
		if err != nil {
			// Other servers may answer: fetch before any back-off.
			polled, w.outage = false, true
		}
	}
	l, err = w.directory.fetch(w.ctx, w.service)
	return l, polled, err
}

// withMissing adds the instances that were known before an outage and were not
// seen since, for as long as their processes may not have noticed that the
// server forgot them.
//
// What is missing already gets more time only when no server answered for a
// while: where polls fail and fetches do not, each of them is an outage.
func (w *watcher) withMissing(instances []*registry.ServiceInstance) []*registry.ServiceInstance {
	now := time.Now()
	if w.outage {
		before := w.missing
		w.missing = make(map[string]absent)
		for _, i := range w.given {
			m := absent{i, now.Add(w.grace)}
			if known, ok := before[identity(i)]; ok && !w.silent {
				m.until = known.until
			}
			w.missing[identity(i)] = m
		}
		w.outage, w.silent = false, false
	}
	maps.DeleteFunc(w.missing, func(_ string, m absent) bool { return now.After(m.until) })
	if len(w.missing) == 0 {
		return instances
	}
	addresses := make(map[string]bool)
	for _, i := range instances {
		delete(w.missing, identity(i))
		addresses[directory.GRPCAddress(i)] = true
	}
	all := slices.Clone(instances)
	for _, m := range w.missing {
		if address := directory.GRPCAddress(m.instance); address == "" || !addresses[address] { // else another ID lives there now
			all = append(all, m.instance)
		}
	}
	directory.Sort(all)
	return all
}

func identity(i *registry.ServiceInstance) string {
	return i.Metadata[directory.MetaZone] + "/" + i.ID
}
