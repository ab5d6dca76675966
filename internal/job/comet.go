package job

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
)

// comet is one life of a comet as this job reaches it, from the first answer
// of logic that listed it until its lease ended and its lanes finished.
type comet struct {
	job   *Job
	node  Node
	link  Link
	log   *slog.Logger
	lanes []*lane
	rooms roomIndex

	lastSeen atomic.Int64 // since; when logic last listed it
	refused  atomic.Bool  // the process at the address is another life

	life    context.Context // of the job
	ctx     context.Context // ends, within life, when the lanes finished
	cancel  context.CancelFunc
	present context.Context // ends, within ctx, when the comet left
	leave   context.CancelFunc
	done    chan struct{} // closed when everything of it has stopped
}

func newComet(ctx context.Context, j *Job, node Node, link Link, log string) *comet {
	c := &comet{
		job:  j,
		node: node,
		link: link,
		life: ctx,
		log:  j.log.With(slog.String("node", node.Name), slog.Uint64("incarnation", node.Incarnation)),
		done: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.present, c.leave = context.WithCancel(c.ctx)
	for i := range j.cfg.Lanes {
		c.lanes = append(c.lanes, newLane(c, i, log))
	}
	return c
}

// run blocks until the comet left and nothing of it is left to do.
func (c *comet) run() {
	defer close(c.done)
	var lanes, rooms sync.WaitGroup
	for _, l := range c.lanes {
		lanes.Go(l.run)
	}
	rooms.Go(c.watchRooms)
	lanes.Wait()
	c.cancel()
	rooms.Wait()
	if err := c.link.Close(); err != nil {
		c.log.Debug("closing the connection failed", slog.Any("error", err))
	}
}

// seen notes that an answer that came in at the moment listed the comet.
func (c *comet) seen(at since) {
	for {
		last := c.lastSeen.Load()
		if int64(at) <= last || c.lastSeen.CompareAndSwap(last, int64(at)) {
			return
		}
	}
}

// outdated tells whether a listing of this life asks for another object: it
// moved, or its lease came back after it had left. A life that was refused at
// its address stays refused.
func (c *comet) outdated(node Node) bool {
	if c.node.Addr != node.Addr {
		return true
	}
	return c.present.Err() != nil && !c.refused.Load()
}

// refuse is called when another life answers at the address: this one is over
// whatever its lease says.
func (c *comet) refuse() {
	if !c.refused.Swap(true) {
		c.log.Info("another life of the comet is at its address")
	}
	c.leave()
}

// hasRoom tells whether a push to the room must go to this comet: it has
// members there, or that is not known. room is a boxed string.
func (c *comet) hasRoom(room any) bool { return c.rooms.has(room) }
