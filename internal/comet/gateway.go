// Package comet is the edge: it keeps client connections and delivers pushes
// to them. It knows sessions, rooms and frames; it knows no store, no log and
// no network library (gnetio, grpcapi and logicclient are its adapters).
//
// # Ownership
//
// One Bucket owns everything of one event loop: its sessions, rooms and
// deadlines have no lock, because only the loop touches them. Everybody else
// leaves commands in the bucket's mailboxes. The Gateway holds what all loops
// share, and is safe for concurrent use.
//
// # Guarantees
//
// Pushes of one lane are written in the order of Dispatch; a push that was
// applied is not applied again (see guard). A slow client, a bad frame or a
// panic in a handler costs one session. Every session that ends and every
// push that is not delivered is counted by reason.
package comet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// Gateway is one comet.
type Gateway struct {
	cfg     Config
	windows map[string]time.Duration // merge windows by room type
	node    Node
	logic   Logic
	log     *slog.Logger
	stats   *stats

	buckets     atomic.Pointer[[]*Bucket]
	bucketsMu   sync.Mutex
	rooms       *RoomIndex
	guard       guard
	deflation   deflation
	broadcasts  *broadcasts
	connects    *batchQueue[ConnectItem]
	disconnects *batchQueue[ended]
	asks        *batchQueue[ask]
	publishes   *batchQueue[PublishItem]
	acks        *batchQueue[AckItem]
	stored      atomic.Int32 // storedUnknown, storedYes or storedNo
	draining    atomic.Bool
	sessions    atomic.Int64
	maxSessions int64

	infoMu sync.Mutex
	info   NodeInfo
	ips    map[netip.Addr]int // sessions per address

	clock   func() time.Time
	born    time.Time
	life    context.Context // ends with Close
	end     context.CancelFunc
	stopped <-chan struct{} // life.Done()
	running sync.WaitGroup

	unsynced atomic.Bool  // the registry may lack sessions: report all of them
	leasedMS atomic.Int64 // when the lease was last renewed; 0 = never
	closing  atomic.Bool
	leaving  chan struct{} // closed when the lease is not renewed any more
	leasing  sync.WaitGroup
}

// Deps are what a Gateway needs from outside.
type Deps struct {
	Logic   Logic
	Log     *slog.Logger
	Metrics *obs.Metrics
	Clock   func() time.Time
}

// New makes a comet named node. maxSessions is the bound that the open-file
// limit sets; Config.MaxSessions may lower it.
func New(cfg Config, node Node, info NodeInfo, maxSessions int, deps Deps) (*Gateway, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("comet: %s", p[0])
	}
	if node.Name == "" || node.Incarnation == 0 {
		return nil, errors.New("comet: a node has a name and an incarnation other than 0")
	}
	windows, err := mergeWindows(cfg.MergeWindows)
	if err != nil {
		return nil, fmt.Errorf("comet: %w", err)
	}
	if cfg.MaxSessions > 0 {
		maxSessions = min(maxSessions, cfg.MaxSessions)
	}
	g := &Gateway{
		cfg: cfg, windows: windows, node: node, info: info, logic: deps.Logic, log: deps.Log, clock: deps.Clock,
		connects:    newBatchQueue[ConnectItem](cfg.ConnectQueue, cfg.ConnectBatch, connectPatience),
		disconnects: newBatchQueue[ended](maxSlots, cfg.ConnectBatch, connectPatience),
		asks:        newBatchQueue[ask](cfg.UpstreamQueue, 1, 0),
		publishes:   newBatchQueue[PublishItem](cfg.UpstreamQueue, cfg.ConnectBatch, 0),
		acks:        newBatchQueue[AckItem](cfg.UpstreamQueue, cfg.ConnectBatch, 0),
		broadcasts:  newBroadcasts(),
		guard:       guard{lanes: map[Lane]*laneGuard{}},
		ips:         map[netip.Addr]int{},
		maxSessions: int64(maxSessions),
		leaving:     make(chan struct{}),
	}
	g.born = g.clock()
	g.life, g.end = context.WithCancel(context.Background())
	g.stopped = g.life.Done()
	g.buckets.Store(&[]*Bucket{})
	g.stats = newStats(deps.Metrics, g)
	g.deflation = newDeflation(cfg, deps.Metrics)
	g.rooms = newRoomIndex(cfg.JoinTimeout, g.stats.unconfirmed.Inc)
	return g, nil
}

// Node is this life of the comet.
func (g *Gateway) Node() Node { return g.node }

// Rooms is the index that jobs watch.
func (g *Gateway) Rooms() *RoomIndex { return g.rooms }

// SetGRPCAddr sets the address that jobs dial, once it is known.
func (g *Gateway) SetGRPCAddr(addr string) {
	g.infoMu.Lock()
	defer g.infoMu.Unlock()
	g.info.GRPCAddr = addr
}

// Start takes the lease of this node, retrying until ctx ends, and starts the
// workers. The edge must not accept clients before it returned: jobs find a
// comet by its lease.
func (g *Gateway) Start(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		reply, err := g.announce(ctx)
		if err == nil {
			g.unsynced.Store(false) // there are no sessions
			g.broadcasts.setCanceled(reply.Canceled)
			break
		}
		g.log.Warn("the lease was not taken, trying again", "node", g.node.Name, "error", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("comet: lease: %w", err)
		}
	}
	for range g.cfg.ConnectWorkers {
		g.running.Go(g.connectLoop)
		g.running.Go(g.disconnectLoop)
		g.running.Go(g.publishLoop)
		g.running.Go(g.ackLoop)
	}
	for range g.cfg.UpstreamWorkers {
		g.running.Go(g.askLoop)
	}
	g.running.Go(g.topsLoop)
	g.leasing.Go(g.leaseLoop)
	return nil
}

// Ready tells why this comet should get no clients; nil = it should. Without a
// lease no push finds them.
func (g *Gateway) Ready(context.Context) error {
	if g.draining.Load() {
		return errors.New("comet: draining")
	}
	at := g.leasedMS.Load()
	if at == 0 {
		return errors.New("comet: the lease was not taken yet")
	}
	age := time.Duration(g.nowMS()-at) * time.Millisecond
	if age > 2*g.cfg.LeaseInterval+g.cfg.LogicTimeout {
		return fmt.Errorf("comet: the lease was last renewed %s ago", age.Round(time.Second))
	}
	return nil
}

// Close ends the workers. It gives up the lease first, so that jobs send
// nothing more: with it all locations of this node are void. The edge must be
// closed before.
func (g *Gateway) Close(ctx context.Context) error {
	if !g.closing.CompareAndSwap(false, true) {
		return nil
	}
	g.connects.close()
	g.disconnects.close()
	g.asks.close()
	g.publishes.close()
	g.acks.close()
	// A renewal that is under way must not come behind Leave: it would bring
	// the lease of a dead comet back.
	close(g.leaving)
	renewed := make(chan struct{})
	go func() {
		g.leasing.Wait()
		close(renewed)
	}()
	select {
	case <-renewed:
	case <-ctx.Done():
	}
	if err := g.logic.Leave(ctx, g.node); err != nil {
		g.log.Warn("the lease was not given up, it expires by itself", "node", g.node.Name, "error", err)
	}
	g.end()
	for _, b := range *g.buckets.Load() {
		b.pushes.Close()
		b.control.Close()
	}
	g.running.Wait()
	<-renewed // its calls ended with the life
	return nil
}

// MaxLoops is what the 8 bits of a session id for its loop have room for.
const MaxLoops = 256

// addBucket numbers a bucket and makes it visible to Dispatch.
func (g *Gateway) addBucket(b *Bucket) error {
	g.bucketsMu.Lock()
	defer g.bucketsMu.Unlock()
	old := *g.buckets.Load()
	if len(old) >= MaxLoops {
		return fmt.Errorf("comet: more than %d event loops", MaxLoops)
	}
	b.index = uint8(len(old))
	next := append(append([]*Bucket(nil), old...), b)
	g.buckets.Store(&next)
	return nil
}

// Tick moves the deadlines; a transport calls it about every 100 ms.
func (g *Gateway) Tick() {
	for _, b := range *g.buckets.Load() {
		b.tick()
	}
}

// nowMS is the clock of deadlines, monotonic: Sub does not see a jump of the
// wall clock, which would close every session, or none.
func (g *Gateway) nowMS() int64 { return 1 + g.clock().Sub(g.born).Milliseconds() }

// window is the merge window of a room.
func (g *Gateway) window(roomKey string) time.Duration {
	if len(g.windows) == 0 {
		return 0
	}
	typ, _, _ := strings.Cut(roomKey, "://")
	return g.windows[typ]
}

// admit counts a new connection in, unless the node is full or draining.
func (g *Gateway) admit(ip netip.Addr) bool {
	if g.draining.Load() {
		g.stats.refused(Draining)
		return false
	}
	if g.sessions.Add(1) > g.maxSessions {
		g.sessions.Add(-1)
		g.stats.refused(Limits)
		return false
	}
	g.infoMu.Lock()
	g.ips[ip]++
	g.infoMu.Unlock()
	return true
}

func (g *Gateway) gone(ip netip.Addr) {
	g.sessions.Add(-1)
	g.infoMu.Lock()
	if g.ips[ip]--; g.ips[ip] <= 0 {
		delete(g.ips, ip)
	}
	g.infoMu.Unlock()
}

// Sessions is the number of connections, authenticated or not.
func (g *Gateway) Sessions() int { return int(g.sessions.Load()) }

// Kick closes sessions and returns at once.
func (g *Gateway) Kick(ids []uint64, why Reason) {
	buckets := *g.buckets.Load()
	for _, id := range ids {
		if loop, _, _ := splitID(id); int(loop) < len(buckets) {
			buckets[loop].post(func(b *Bucket) {
				if s := b.find(id); s != nil {
					b.Close(s, why)
				}
			})
		}
	}
}

// Drain refuses new sessions, hides the node from new clients and closes the
// sessions paced over the window. It returns when none is left or ctx ended.
func (g *Gateway) Drain(ctx context.Context, window time.Duration) error {
	g.draining.Store(true)
	if _, err := g.announce(ctx); err != nil {
		g.log.Warn("could not tell that this node drains", "error", err)
	}
	const step = 50 * time.Millisecond
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	// Each loop has its own pace, by what it still has: one with more sessions
	// than others ends with them.
	for steps := max(int(window/step), 1); g.Sessions() > 0; steps = max(steps-1, 1) {
		for _, b := range *g.buckets.Load() {
			if err := b.call(ctx, func(b *Bucket) { b.closeSome(steps, Draining) }); err != nil {
				return fmt.Errorf("comet: drain: %d sessions left: %w", g.Sessions(), err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("comet: drain: %d sessions left: %w", g.Sessions(), ctx.Err())
		}
	}
	return nil
}

// StartDrain begins a drain in the background and returns the number of
// sessions; a drain that is under way goes on.
func (g *Gateway) StartDrain(window time.Duration) int {
	n := g.Sessions() // before the first are closed
	if g.draining.CompareAndSwap(false, true) {
		g.running.Go(func() {
			if err := g.Drain(g.life, window); err != nil {
				g.log.Warn("drain", "error", err)
			}
		})
	}
	return n
}
