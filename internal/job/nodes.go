package job

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
)

// life names one life of a comet.
type life struct {
	name        string
	incarnation uint64
}

// nodes is the set of comets that logic says are alive. Readers work on an
// immutable snapshot; changes are made under mu, which no message waits for
// unless the set changes.
type nodes struct {
	job  *Job
	edge Edge

	mu      sync.Mutex
	ctx     context.Context // the lifetime: set by begin, before the first update
	log     string          // log that the lanes open with
	retired map[life]*comet // left, but their lanes may still finish
	wg      sync.WaitGroup

	live atomic.Pointer[map[life]*comet]
}

func newNodes(j *Job, edge Edge) *nodes {
	n := &nodes{job: j, edge: edge, retired: map[life]*comet{}}
	n.live.Store(&map[life]*comet{})
	return n
}

func (n *nodes) begin(ctx context.Context, log string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ctx, n.log = ctx, log
}

// wait returns when every comet of an ended lifetime has stopped.
func (n *nodes) wait() { n.wg.Wait() }

// update brings the set up to an answer of logic: asked and answered are the
// moments around the call. The comets of list are appended to buf in its
// order.
//
// Answers overtake each other, since each worker asks for itself. A comet is
// taken out only by an answer that was asked for after the last answer that
// listed it came in; so a late answer cannot take out a comet that is newer
// than itself.
func (n *nodes) update(asked, answered since, list []Node, buf []*comet) []*comet {
	set := *n.live.Load()
	start := len(buf)
	for _, node := range list {
		c := set[life{node.Name, node.Incarnation}]
		if c == nil || c.outdated(node) {
			return n.change(asked, answered, list, buf[:start])
		}
		c.seen(answered)
		buf = append(buf, c)
	}
	if len(set) != len(list) {
		return n.change(asked, answered, list, buf[:start])
	}
	return buf
}

// change is the slow half of update: comets come, go or move.
func (n *nodes) change(asked, answered since, list []Node, buf []*comet) []*comet {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := *n.live.Load()
	set := make(map[life]*comet, len(list))
	for _, node := range list {
		id := life{node.Name, node.Incarnation}
		c := set[id]
		if c == nil {
			c = old[id]
		}
		if c == nil || c.outdated(node) {
			if c != nil {
				n.retire(id, c)
			}
			c = n.start(id, node)
		}
		c.seen(answered)
		set[id] = c
		buf = append(buf, c)
	}
	for id, c := range old {
		if set[id] != nil {
			continue
		}
		if since(c.lastSeen.Load()) >= asked {
			set[id] = c // listed by an answer that is not older than this one
			continue
		}
		n.retire(id, c)
	}
	n.live.Store(&set)
	n.job.meter.comets.Set(int64(len(set)))
	return buf
}

// retire lets a comet finish; mu is held. One that has stopped already, since
// another life has its address, has nobody left to forget it.
func (n *nodes) retire(id life, c *comet) {
	n.job.log.Info("comet left", slog.String("node", id.name), slog.Uint64("incarnation", id.incarnation))
	c.leave()
	select {
	case <-c.done:
	default:
		n.retired[id] = c
	}
}

// start makes the comet of a life; mu is held. If the same life was here
// before, its lanes finish first: two streams for one lane would put pushes
// out of order, and the comet would take the late ones for repeats.
func (n *nodes) start(id life, node Node) *comet {
	n.job.log.Info("comet found", slog.String("node", node.Name),
		slog.Uint64("incarnation", node.Incarnation), slog.String("addr", node.Addr))
	var before <-chan struct{}
	if c := n.retired[id]; c != nil {
		before = c.done
	}
	c := newComet(n.ctx, n.job, node, n.edge.Link(node), n.log)
	n.wg.Go(func() {
		if before != nil {
			select {
			case <-before:
			case <-n.ctx.Done():
			}
		}
		c.run()
		n.forget(id, c)
	})
	return c
}

func (n *nodes) forget(id life, c *comet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.retired[id] == c {
		delete(n.retired, id)
	}
}
