package discovery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("discovery: closed")

// The paths of the API.
const (
	pathRegister = "/discovery/register"
	pathRenew    = "/discovery/renew"
	pathCancel   = "/discovery/cancel"
	pathFetch    = "/discovery/fetch"
	pathPolls    = "/discovery/polls"
)

// statusUp is the status of an instance that wants traffic.
const statusUp = "1"

// Directory is a directory.Directory kept by bilibili/discovery.
type Directory struct {
	cfg    directory.DiscoveryConfig
	log    *slog.Logger
	client *client

	life context.Context // ends with Close
	end  context.CancelFunc
	wg   sync.WaitGroup // the goroutines of the registrations

	// poller and polls make the host name of every poll unique among all
	// processes.
	poller string
	polls  atomic.Uint64

	mu            sync.Mutex
	closed        bool
	registrations map[key]*registration
}

var _ directory.Directory = (*Directory)(nil)

// key identifies a registration, in the region, zone and environment of this
// process.
type key struct{ service, id string }

// New checks the configuration and does not talk to any server.
func New(cfg directory.DiscoveryConfig, log *slog.Logger) (*Directory, error) {
	if problems := cfg.Check(); len(problems) > 0 {
		return nil, fmt.Errorf("discovery: configuration: %s", strings.Join(problems, "; "))
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	var unique [8]byte
	_, _ = rand.Read(unique[:]) // never fails
	d := &Directory{
		cfg:           cfg,
		log:           log,
		poller:        hostname + "." + hex.EncodeToString(unique[:]),
		registrations: make(map[key]*registration),
	}
	d.life, d.end = context.WithCancel(context.Background())
	// Any server will do; starting at a random one spreads the polls.
	d.client = newClient(cfg.Nodes, mathrand.IntN(len(cfg.Nodes)), log, d.renewAll)
	return d, nil
}

// GetService asks a server, once each if need be.
func (d *Directory) GetService(ctx context.Context, serviceName string) ([]*registry.ServiceInstance, error) {
	if d.life.Err() != nil {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	l, err := d.fetch(ctx, serviceName)
	if err != nil {
		return nil, fmt.Errorf("discovery: get %s: %w", serviceName, err)
	}
	return l.instances, nil
}

// Watch returns at once, also while no server answers. The watcher lives until
// Stop, the end of ctx, or Close.
func (d *Directory) Watch(ctx context.Context, serviceName string) (registry.Watcher, error) {
	if d.life.Err() != nil {
		return nil, ErrClosed
	}
	w := &watcher{directory: d, service: serviceName, grace: d.cfg.RenewInterval * 3 / 2}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.release = context.AfterFunc(d.life, w.cancel)
	return w, nil
}

// Close deregisters what is still registered, wakes the watchers and waits for
// all goroutines. When ctx ends first, the servers are left with registrations
// that nobody renews, and Close says so.
func (d *Directory) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	left := make([]*registry.ServiceInstance, 0, len(d.registrations))
	for _, r := range d.registrations {
		left = append(left, r.instance)
	}
	d.mu.Unlock()
	var errs []error
	for _, instance := range left {
		if err := d.Deregister(ctx, instance); err != nil {
			errs = append(errs, err)
		}
	}
	d.end()
	d.wg.Wait() // their requests ended with the line above
	d.client.close()
	return errors.Join(errs...)
}

// list is the answer to a fetch or to a poll.
type list struct {
	instances []*registry.ServiceInstance // sorted, and never nil
	timestamp int64                       // what the next poll must name; of the server node only
	node      int
}

// fetch asks for the whole list. That nothing is found is an empty list.
func (d *Directory) fetch(ctx context.Context, service string) (list, error) {
	a, err := d.client.get(ctx, pathFetch, url.Values{
		"env":    {d.cfg.Env},
		"appid":  {service},
		"status": {statusUp},
	})
	if err != nil {
		return list{}, err
	}
	if a.code == codeNotFound {
		return list{instances: []*registry.ServiceInstance{}, node: a.node}, nil
	}
	if err := a.err(pathFetch); err != nil {
		return list{}, err
	}
	return decode(service, a.node, a.data)
}

// poll waits at the server that gave the list before for a newer one. ok is
// false when there was none in time.
func (d *Directory) poll(ctx context.Context, service string, before list) (after list, ok bool, err error) {
	a, err := d.client.once(ctx, before.node, pathPolls, http.MethodGet, url.Values{
		"env":              {d.cfg.Env},
		"appid":            {service},
		"hostname":         {d.poller + "#" + strconv.FormatUint(d.polls.Add(1), 10)},
		"latest_timestamp": {strconv.FormatInt(before.timestamp, 10)},
	}, d.cfg.PollTimeout)
	if err != nil {
		return list{}, false, err
	}
	if a.code == codeNotModified || a.code == codeNotFound {
		return list{}, false, nil
	}
	if err := a.err(pathPolls); err != nil {
		return list{}, false, err
	}
	var services map[string]json.RawMessage
	if err := json.Unmarshal(a.data, &services); err != nil {
		return list{}, false, fmt.Errorf("%s: %w", pathPolls, err)
	}
	data, found := services[service]
	if !found {
		return list{}, false, nil
	}
	after, err = decode(service, a.node, data)
	return after, err == nil, err
}

// backoff is the wait between attempts that fail: doubled up to a bound, with
// jitter so that all nodes do not come back at the same moment.
type backoff struct{ last time.Duration }

const (
	leastBackoff = 200 * time.Millisecond
	mostBackoff  = 5 * time.Second
)

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, leastBackoff), mostBackoff)
	return b.last/2 + mathrand.N(b.last/2)
}

func (b *backoff) reset() { b.last = 0 }

// pause waits, and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
