package logic

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

// Refresh is what a comet tells about itself.
type Refresh struct {
	Info      presence.NodeInfo
	Sessions  []presence.Session // renewed, or restored where they are not there
	WithRooms bool
	Rooms     map[string]int32 // sessions per room on this comet, whole, if WithRooms
	Shares    []presence.Share // how far it is with broadcasts
}

// Refreshed is the answer.
type Refreshed struct {
	// Resync asks for all sessions: the lease was not there, so their
	// locations may be gone too.
	Resync bool
	// RoomCounts are the cluster's counts of the rooms of the request, as of
	// the last snapshot; rooms that it does not know are absent.
	RoomCounts map[string]int32
	// Canceled are the broadcasts that the comet shall not go on with.
	Canceled []message.ID
}

// Refresh renews the lease of a comet first, because its locations are worth
// nothing without it, then locations, broadcasts and room counts.
func (c *Core) Refresh(ctx context.Context, r Refresh) (Refreshed, error) {
	existed, err := c.lease(ctx, r.Info)
	if err != nil {
		return Refreshed{}, c.refreshFailed(r, "lease", err)
	}
	if len(r.Sessions) > 0 {
		if err := c.renew(ctx, r.Info.Node, r.Sessions); err != nil {
			return Refreshed{}, c.refreshFailed(r, "renew", err)
		}
	}
	canceled, err := c.report(ctx, r.Info.Node, r.Shares)
	if err != nil {
		return Refreshed{}, c.refreshFailed(r, "broadcasts", err)
	}
	answer := Refreshed{Resync: !existed, Canceled: canceled}
	if !r.WithRooms {
		return answer, nil
	}
	if err := c.setRooms(ctx, r.Info.Node, r.Rooms); err != nil {
		return Refreshed{}, c.refreshFailed(r, "rooms", err)
	}
	answer.RoomCounts = make(map[string]int32, len(r.Rooms))
	cluster := c.snapshot.Load().rooms
	for room := range r.Rooms {
		if n := cluster[room]; n > 0 {
			answer.RoomCounts[room] = n
		}
	}
	return answer, nil
}

func (c *Core) lease(ctx context.Context, info presence.NodeInfo) (existed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	return c.presence.Lease(ctx, info, c.cfg.LeaseTTL)
}

func (c *Core) renew(ctx context.Context, node presence.Node, sessions []presence.Session) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	return c.presence.Renew(ctx, node, sessions)
}

func (c *Core) setRooms(ctx context.Context, node presence.Node, counts map[string]int32) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	return c.presence.SetRooms(ctx, node, counts, c.cfg.RoomsTTL)
}

func (c *Core) refreshFailed(r Refresh, step string, err error) error {
	c.metrics.presence.Inc(forRefresh)
	return fmt.Errorf("refresh of %s: %s: %w", r.Info.Name, step, err)
}
