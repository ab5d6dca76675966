package discovery

import (
	"context"
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

	started bool                                 // Next returned once
	given   []*registry.ServiceInstance          // what Next returned last
	outage  bool                                 // no server answered since then
	missing map[string]*registry.ServiceInstance // known before an outage, not seen since
	until   time.Time                            // when missing is given up
}

// Next implements registry.Watcher.
func (w *watcher) Next() ([]*registry.ServiceInstance, error) {
	for gap := time.Duration(0); pause(w.ctx, gap); {
		asked := time.Now()
		l, err := w.ask()
		if err != nil {
			// The client logs that a server does not answer.
			w.synced, w.outage = false, true
			gap = w.wait.next()
			continue
		}
		w.wait.reset()
		w.last, w.synced = l, true
		instances := w.withMissing(l.instances)
		if !w.started || !directory.Same(instances, w.given) {
			w.started, w.given = true, instances
			return directory.CloneAll(instances), nil
		}
		gap = askGap - time.Since(asked)
	}
	return nil, w.ctx.Err()
}

// Stop implements registry.Watcher.
func (w *watcher) Stop() error {
	w.release()
	w.cancel()
	return nil
}

// ask returns the list as soon as it may have changed.
func (w *watcher) ask() (list, error) {
	if !w.synced {
		return w.directory.fetch(w.ctx, w.service)
	}
	l, ok, err := w.directory.poll(w.ctx, w.service, w.last)
	switch {
	case err != nil:
		// Other servers may answer: fetch before any back-off.
		w.outage = true
	case ok:
		return l, nil
	}
	return w.directory.fetch(w.ctx, w.service)
}

// withMissing adds the instances that were known before an outage and were not
// seen since, for as long as their processes may not have noticed that the
// server forgot them.
func (w *watcher) withMissing(instances []*registry.ServiceInstance) []*registry.ServiceInstance {
	if w.outage {
		w.outage = false
		w.until = time.Now().Add(w.grace)
		w.missing = make(map[string]*registry.ServiceInstance)
		for _, i := range w.given {
			w.missing[identity(i)] = i
		}
	}
	if time.Now().After(w.until) {
		w.missing = nil
	}
	if len(w.missing) == 0 {
		return instances
	}
	addresses := make(map[string]bool)
	for _, i := range instances {
		delete(w.missing, identity(i))
		addresses[directory.GRPCAddress(i)] = true
	}
	all := slices.Clone(instances)
	for _, i := range w.missing {
		if address := directory.GRPCAddress(i); address == "" || !addresses[address] { // else another ID lives there now
			all = append(all, i)
		}
	}
	directory.Sort(all)
	return all
}

func identity(i *registry.ServiceInstance) string {
	return i.Metadata[directory.MetaZone] + "/" + i.ID
}
