// Package logic decides: who may connect, where who is, and what is accepted
// for whom. It is the core of the logic daemon, one file for each thing it is
// asked to do; httpapi and grpcapi bring the questions in, the ports
// in Deps are what it answers from.
//
// # Ownership
//
// Core owns one goroutine, from Start to Close, which keeps a snapshot of the
// cluster (online.go). Everything else runs in the caller's goroutine, except
// that Push, Connect and Publish ask in goroutines of their own, which end
// before they do. OfflinePush and Upstream own theirs.
//
// # Concurrency
//
// All methods of Core are safe for concurrent use.
//
// # Guarantees
//
// Accept answers without an error only when the message is durable in the log
// for all its targets. Every call of a port has a deadline of its own. Without
// presence pushes are still accepted, and what was last known about the
// cluster is still told; readiness says so.
//
// # Non-goals
//
// No identity is proved: TrustClient believes the client, as goim does.
package logic

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/stream"
)

// Deps is what Core works with. Presence and Log are required.
type Deps struct {
	Presence   presence.Registry
	Log        stream.Producer
	Broadcasts presence.Broadcasts // nil = nothing is known about pushes to all
	Timelines  Timelines           // nil = nothing is stored
	Requests   Requests            // nil = an Idempotency-Key used twice is not noticed
	Offline    *OfflinePush        // nil = nobody wants to know who misses what
	Upstream   *Upstream           // nil = the backend is not told of what sessions publish
	HotRooms   HotRooms            // nil = nobody counts who speaks where
	Policy     Policy              // who may publish what; nil = MembersPolicy
	Auth       Authenticator       // nil = TrustClient
	Logger     *slog.Logger        // nil = silent
	Metrics    *obs.Metrics        // nil = not counted
	Now        func() time.Time
	Rand       io.Reader // nil = crypto/rand
}

// Core is the logic daemon without its transports.
type Core struct {
	cfg        Config
	presence   presence.Registry
	log        stream.Producer
	broadcasts presence.Broadcasts
	timelines  Timelines // nil = nothing is stored
	requests   Requests
	offline    *OfflinePush
	upstream   *Upstream
	hot        HotRooms
	policy     Policy
	auth       Authenticator
	logger     *slog.Logger
	storms     *obs.Limited // what goes wrong for every caller at once
	metrics    metrics
	now        func() time.Time
	random     io.Reader

	regions  regionTable
	balancer balancer
	snapshot atomic.Pointer[snapshot]
	draining atomic.Bool

	lifecycle sync.Mutex
	closed    bool
	stop      context.CancelFunc // nil until Start
	stopped   chan struct{}
}

// New returns a core that answers at once; Start makes it know the cluster.
func New(cfg Config, deps Deps) (*Core, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("logic: %s", p[0])
	}
	if deps.Presence == nil || deps.Log == nil {
		return nil, errors.New("logic: presence and log are required")
	}
	c := &Core{
		cfg: cfg, presence: deps.Presence, log: deps.Log, broadcasts: deps.Broadcasts, timelines: deps.Timelines, requests: deps.Requests, offline: deps.Offline, upstream: deps.Upstream, hot: deps.HotRooms, policy: deps.Policy, auth: deps.Auth,
		logger: deps.Logger, metrics: newMetrics(deps.Metrics), now: deps.Now, random: deps.Rand,
		regions: newRegionTable(cfg.Regions),
	}
	if c.policy == nil {
		c.policy = MembersPolicy{deps.Timelines}
	}
	if c.auth == nil {
		c.auth = TrustClient{}
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	c.storms = obs.NewLimited(c.logger, 5*time.Second)
	if c.now == nil {
		c.now = time.Now
	}
	if c.random == nil {
		c.random = rand.Reader
	}
	c.snapshot.Store(&snapshot{})
	return c, nil
}

// Start reads the cluster once, within the presence deadline, and then keeps
// it read until Close. A registry that is away is not an error: it is asked
// again, and Ready says so.
func (c *Core) Start(ctx context.Context) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	if c.closed || c.stop != nil {
		return errors.New("logic: started twice or after Close")
	}
	r := &refresher{core: c}
	r.refresh(ctx)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	c.stop, c.stopped = stop, stopped
	go func() {
		defer close(stopped)
		r.run(run)
	}()
	return nil
}

// Drain refuses new pushes with ErrDraining and makes Ready fail. Pushes that
// are under way finish.
func (c *Core) Drain() { c.draining.Store(true) }

// Close drains and ends the goroutine of Start. It is idempotent; the ports
// stay open.
func (c *Core) Close(ctx context.Context) error {
	c.Drain()
	c.lifecycle.Lock()
	c.closed = true
	stop, stopped := c.stop, c.stopped
	c.lifecycle.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("logic: close: %w", ctx.Err())
	}
}

// Ready tells why this logic should get no traffic; nil = it should.
func (c *Core) Ready(ctx context.Context) error {
	if c.draining.Load() {
		return ErrDraining
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	var problems []error
	if err := c.presence.Ping(ctx); err != nil {
		problems = append(problems, fmt.Errorf("presence: %w", err))
	}
	if err := c.log.Ping(ctx); err != nil {
		problems = append(problems, fmt.Errorf("log: %w", err))
	}
	if c.snapshot.Load().nodesAt.IsZero() {
		problems = append(problems, errors.New("the comets were not read yet"))
	}
	return errors.Join(problems...)
}
