// Package static is the node directory of small set-ups and of Kubernetes: the
// addresses stand in the configuration, host names among them are resolved
// again and again, and each address found is one instance (a headless service
// gives one address per pod). Nothing is registered anywhere. The all-in-one
// process, whose ports are known only after it listens, tells its addresses
// with Set.
//
// # Guarantees
//
// Those of package registry, and:
//
//   - The ID of an instance is its ip:port, its one endpoint grpc://ip:port.
//   - A name that does not exist, or has no address, has no instances: that is
//     how DNS says that no pod is ready. Any other failure of DNS keeps the
//     last known addresses.
//   - A name with addresses of both families counts with its IPv4 addresses
//     only: a dual-stack pod has one of each, and two instances of one node
//     would be served twice.
//
// # Concurrency
//
// One goroutine resolves; it lives from New to Close. All methods may be called
// from any goroutine; a watcher is used by one goroutine at a time, except Stop.
package static

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("static registry: closed")

// Resolver finds the addresses of a host name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Directory is a directory.Directory of fixed addresses.
type Directory struct {
	resolver Resolver
	log      *slog.Logger
	interval time.Duration

	life   context.Context // ends with Close
	end    context.CancelFunc
	done   chan struct{} // closed when the resolving goroutine has ended
	wakeUp chan struct{} // there is a new name to resolve; capacity 1

	mu       sync.Mutex
	services map[string]*service
	hosts    map[string]*host // every host name of every service
}

var _ directory.Directory = (*Directory)(nil)

// service is what is known about one service; guarded by Directory.mu.
type service struct {
	entries   []entry
	instances []*registry.ServiceInstance // sorted; replaced, never changed
	state     state
	err       error         // why the state is failed
	version   uint64        // grows with every change of the fields above
	changed   chan struct{} // closed and replaced when version grows
}

type state int

const (
	pending state = iota // a host name was not asked for yet
	failed               // no host name could be resolved ever since
	known                // instances is the truth, empty or not
)

// entry is one configured address.
type entry struct {
	ip   netip.Addr // valid for a literal address
	name string     // else the host name
	port uint16
}

// host is what DNS said last about a name; guarded by Directory.mu.
type host struct {
	addrs []netip.Addr
	known bool  // DNS gave an answer once
	err   error // of the last question
	tried bool
}

// New starts to resolve at once, and does not wait for it.
func New(cfg directory.StaticConfig, resolver Resolver, log *slog.Logger) (*Directory, error) {
	d := &Directory{
		resolver: resolver,
		log:      log,
		interval: cfg.ResolveInterval,
		done:     make(chan struct{}),
		wakeUp:   make(chan struct{}, 1),
		services: make(map[string]*service),
		hosts:    make(map[string]*host),
	}
	if d.interval <= 0 {
		return nil, fmt.Errorf("static registry: resolve interval %v: not positive", d.interval)
	}
	for name, addresses := range cfg.Services() {
		if err := d.replace(name, addresses); err != nil {
			return nil, err
		}
	}
	d.life, d.end = context.WithCancel(context.Background())
	go d.resolveUntilClosed()
	return d, nil
}

// Set replaces the addresses (host:port) of a service. Literal addresses are in
// force when it returns, host names as soon as they are resolved.
func (d *Directory) Set(serviceName string, addresses []string) error {
	if err := d.replace(serviceName, addresses); err != nil {
		return err
	}
	select {
	case d.wakeUp <- struct{}{}:
	default:
	}
	return nil
}

func (d *Directory) replace(serviceName string, addresses []string) error {
	entries := make([]entry, 0, len(addresses))
	for _, address := range addresses {
		e, err := parse(address)
		if err != nil {
			return fmt.Errorf("static registry: set %s: %w", serviceName, err)
		}
		entries = append(entries, e)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.service(serviceName).entries = entries
	d.refresh()
	return nil
}

// Register does nothing: the directory is what the configuration says.
func (d *Directory) Register(context.Context, *registry.ServiceInstance) error { return nil }

// Deregister does nothing.
func (d *Directory) Deregister(context.Context, *registry.ServiceInstance) error { return nil }

// GetService answers at once, except before the first answer of DNS.
func (d *Directory) GetService(ctx context.Context, serviceName string) ([]*registry.ServiceInstance, error) {
	for {
		d.mu.Lock()
		s := d.service(serviceName)
		instances, state, err, changed := s.instances, s.state, s.err, s.changed
		d.mu.Unlock()
		switch {
		case d.life.Err() != nil:
			return nil, ErrClosed
		case state == known:
			return directory.CloneAll(instances), nil
		case state == failed:
			return nil, fmt.Errorf("static registry: get %s: %w", serviceName, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("static registry: get %s: %w", serviceName, ctx.Err())
		case <-d.life.Done():
		}
	}
}

// Watch returns a watcher that lives until Stop, the end of ctx, or Close.
func (d *Directory) Watch(ctx context.Context, serviceName string) (registry.Watcher, error) {
	if d.life.Err() != nil {
		return nil, ErrClosed
	}
	w := &watcher{directory: d, service: serviceName}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.release = context.AfterFunc(d.life, w.cancel)
	return w, nil
}

// Ready is nil unless a host name was never resolved.
func (d *Directory) Ready() error {
	if d.life.Err() != nil {
		return ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for name, s := range d.services {
		switch s.state {
		case pending:
			errs = append(errs, fmt.Errorf("static registry: %s: not resolved yet", name))
		case failed:
			errs = append(errs, fmt.Errorf("static registry: %s: %w", name, s.err))
		}
	}
	return errors.Join(errs...)
}

// Close ends the watchers and waits for the resolving goroutine.
func (d *Directory) Close(ctx context.Context) error {
	d.end()
	select {
	case <-d.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("static registry: close: %w", ctx.Err())
	}
}

// service returns the entry of a service, which it makes when there is none: a
// service nobody configured is one without instances, and Set may come later.
// Must be called with mu held.
func (d *Directory) service(name string) *service {
	s, ok := d.services[name]
	if !ok {
		s = &service{state: known, version: 1, changed: make(chan struct{})}
		d.services[name] = s
	}
	return s
}

// refresh brings hosts and all services up to date with the entries and the
// answers of DNS. Must be called with mu held.
func (d *Directory) refresh() {
	used := make(map[string]*host)
	for name, s := range d.services {
		var errs []error
		var instances []*registry.ServiceInstance
		allKnown, allTried := true, true
		for _, e := range s.entries {
			addrs := []netip.Addr{e.ip}
			if e.name != "" {
				h := d.hosts[e.name]
				if h == nil {
					h = used[e.name]
				}
				if h == nil {
					h = new(host)
				}
				used[e.name] = h
				addrs, allKnown, allTried = h.addrs, allKnown && h.known, allTried && h.tried
				if h.err != nil {
					errs = append(errs, h.err)
				}
			}
			for _, addr := range addrs {
				id := netip.AddrPortFrom(addr, e.port).String()
				instances = append(instances, &registry.ServiceInstance{ID: id, Name: name, Endpoints: []string{"grpc://" + id}})
			}
		}
		directory.Sort(instances)
		instances = slices.CompactFunc(instances, func(a, b *registry.ServiceInstance) bool { return a.ID == b.ID })

		state, err := known, error(nil)
		switch {
		case len(instances) > 0 || allKnown:
		case allTried:
			state, err = failed, errors.Join(errs...)
		default:
			state = pending
		}
		s.err = err
		if state != s.state || !directory.Same(instances, s.instances) {
			s.instances, s.state = instances, state
			s.version++
			close(s.changed)
			s.changed = make(chan struct{})
		}
	}
	d.hosts = used
}

func (d *Directory) current(serviceName string) (instances []*registry.ServiceInstance, version uint64, isKnown bool, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.service(serviceName)
	return s.instances, s.version, s.state == known, s.changed
}

type watcher struct {
	directory *Directory
	service   string
	ctx       context.Context
	cancel    context.CancelFunc
	release   func() bool

	seen  uint64                      // version last looked at; 0: none
	given []*registry.ServiceInstance // what Next returned last
}

// Next implements registry.Watcher.
func (w *watcher) Next() ([]*registry.ServiceInstance, error) {
	for {
		instances, version, isKnown, changed := w.directory.current(w.service)
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		if isKnown && version != w.seen {
			first := w.seen == 0
			w.seen = version
			if first || !directory.Same(instances, w.given) { // it may have changed and changed back
				w.given = instances
				return directory.CloneAll(instances), nil
			}
		}
		select {
		case <-changed:
		case <-w.ctx.Done():
		}
	}
}

// Stop implements registry.Watcher.
func (w *watcher) Stop() error {
	w.release()
	w.cancel()
	return nil
}
