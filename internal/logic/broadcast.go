package logic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

// BroadcastState is how far a push to all at a speed is.
type BroadcastState string

// The states of a broadcast.
const (
	Waiting  BroadcastState = "waiting" // no comet has begun
	Running  BroadcastState = "running"
	Done     BroadcastState = "done"
	Canceled BroadcastState = "canceled" // from the call on; Progress.UnderWay tells whether a comet may not know yet
)

// Progress is what is known about a push to all at a speed. Counts are of
// sessions, over the comets that have reported.
type Progress struct {
	ID         message.ID
	State      BroadcastState
	UnderWay   bool // something may still be delivered
	Speed      int64
	AcceptedMS int64
	StartedMS  int64 // 0 = it has not begun
	CanceledMS int64 // 0 = it was not

	Comets     int // that share it, as far as is known
	CometsDone int // of those, have finished
	CometsLost int // of those, died before

	Total     int64 // done and canceled, and what is to come
	Delivered int64
	Filtered  int64
	Slow      int64
	Canceled  int64
}

// Done is the number of sessions that had their turn.
func (p *Progress) Done() int64 { return p.Delivered + p.Filtered + p.Slow }

// ErrPresenceAway answers questions that only presence can answer.
var ErrPresenceAway = errors.New("logic: presence did not answer in time")

// settleTime is how long a broadcast is still under way when all comets that
// have reported are done, but the job named more: those may be about to begin,
// or the job could not reach them, which it counts.
const settleTime = 30 * time.Second

// announce makes the paced pushes to all among targets known. That they are
// not is no reason to fail: the comets tell of them, too.
func (c *Core) announce(ctx context.Context, id message.ID, targets []message.Target) {
	if c.broadcasts == nil {
		return
	}
	for _, t := range targets {
		if t.Kind != message.All || t.Speed <= 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, c.cfg.StateTimeout)
		err := c.broadcasts.Announce(ctx, id, t.Speed)
		cancel()
		if err != nil {
			c.metrics.presence.Inc(forBroadcast)
			c.storms.Warn("announce", "a push to all is not known by its id before the comets report it", "error", err)
		}
		return // check leaves one
	}
}

// report keeps the shares of a comet and returns what is canceled.
func (c *Core) report(ctx context.Context, node presence.Node, shares []presence.Share) ([]message.ID, error) {
	if c.broadcasts == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	return c.broadcasts.Report(ctx, node, shares)
}

// Broadcast tells how far a push to all at a speed is. The error is a
// *Refusal for one that is not known, or ErrPresenceAway (wrapped).
func (c *Core) Broadcast(ctx context.Context, id message.ID) (Progress, error) {
	if c.broadcasts == nil {
		return Progress{}, unknownBroadcast(id)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	b, ok, err := c.broadcasts.Broadcast(ctx, id)
	if err != nil {
		return Progress{}, c.broadcastFailed(err)
	}
	if !ok {
		return Progress{}, unknownBroadcast(id)
	}
	return c.progress(&b), nil
}

// Broadcasts lists those under way, the oldest first.
func (c *Core) Broadcasts(ctx context.Context) ([]Progress, error) {
	list := []Progress{}
	if c.broadcasts == nil {
		return list, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	all, err := c.broadcasts.Broadcasts(ctx)
	if err != nil {
		return nil, c.broadcastFailed(err)
	}
	for i := range all {
		if p := c.progress(&all[i]); p.UnderWay {
			list = append(list, p)
		}
	}
	return list, nil
}

// CancelBroadcast ends a push to all at a speed: comets that have begun stop
// when they hear of it, with their next report, the others do not begin. One
// that is done stays done; to cancel again changes nothing.
func (c *Core) CancelBroadcast(ctx context.Context, id message.ID) (Progress, error) {
	p, err := c.Broadcast(ctx, id)
	if err != nil || p.State == Done {
		return p, err
	}
	// Also one that is canceled: the call that did it may have failed half way.
	cancelCtx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	if err := c.broadcasts.Cancel(cancelCtx, id); err != nil {
		return Progress{}, c.broadcastFailed(err)
	}
	return c.Broadcast(ctx, id)
}

func unknownBroadcast(id message.ID) error {
	return &Refusal{UnknownPush, fmt.Sprintf("msg_id %v: no push to all with a speed has it, or it was forgotten", id)}
}

func (c *Core) broadcastFailed(err error) error {
	c.metrics.presence.Inc(forBroadcast)
	return fmt.Errorf("%w (%w)", ErrPresenceAway, err)
}

// progress sums the shares up.
func (c *Core) progress(b *presence.Broadcast) Progress {
	p := Progress{
		ID: b.ID, Speed: int64(b.Speed), AcceptedMS: b.ID.UnixMS(), CanceledMS: b.CanceledMS,
		Comets: len(b.Shares),
	}
	alive := c.alive()
	var speeds, heardMS int64
	for i := range b.Shares {
		s := &b.Shares[i]
		p.Comets = max(p.Comets, int(s.Comets))
		switch {
		case s.Finished:
			p.CometsDone++
		case !alive(s):
			p.CometsLost++
		}
		if s.StartedMS > 0 && (p.StartedMS == 0 || s.StartedMS < p.StartedMS) {
			p.StartedMS = s.StartedMS
		}
		speeds += int64(s.Speed)
		heardMS = max(heardMS, s.UpdatedMS)
		p.Delivered += int64(s.Delivered)
		p.Filtered += int64(s.Filtered)
		p.Slow += int64(s.Slow)
		p.Canceled += int64(s.Canceled)
		p.Total += int64(max(s.Total, s.Delivered+s.Filtered+s.Slow+s.Canceled))
	}
	if p.Speed == 0 {
		p.Speed = speeds
	}
	ended := p.CometsDone + p.CometsLost
	settled := c.now().UnixMilli()-heardMS > settleTime.Milliseconds()
	switch {
	case len(b.Shares) == 0:
		p.State, p.UnderWay = Waiting, true
	case ended < len(b.Shares) && p.StartedMS == 0:
		p.State, p.UnderWay = Waiting, true
	case ended < len(b.Shares), ended < p.Comets && !settled:
		p.State, p.UnderWay = Running, true
	default:
		p.State = Done
	}
	if p.CanceledMS > 0 {
		fresh := c.now().UnixMilli()-p.CanceledMS < settleTime.Milliseconds()
		p.State, p.UnderWay = Canceled, ended < len(b.Shares) || fresh && ended < max(p.Comets, 1)
	}
	return p
}

// alive tells whether the comet of a share may live: it is listed, or has
// reported since about when the list was read, or there is no fresh list.
func (c *Core) alive() func(*presence.Share) bool {
	s := c.snapshot.Load()
	stale := staleAfter(c.cfg.NodesInterval)
	if c.now().Sub(s.nodesAt) > stale {
		return func(*presence.Share) bool { return true }
	}
	live := make(map[presence.Node]bool, len(s.nodes))
	for _, n := range s.nodes {
		live[n.Node] = true
	}
	heardMS := c.now().Add(-stale).UnixMilli()
	return func(s *presence.Share) bool { return live[s.Node] || s.UpdatedMS > heardMS }
}
