package logic

import (
	"context"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// JoinRoom makes users durable members of a room: every session of theirs that
// connects afterwards is placed in it, and they may read what is said there
// from now on. A member again only changes the role. Errors are a *Refusal, or
// those of Timelines.
func (c *Core) JoinRoom(ctx context.Context, room string, members []timeline.Member) error {
	mids := make([]int64, len(members))
	for i, m := range members {
		if m.Role > timeline.Owner {
			return &Refusal{BadField, fmt.Sprintf("member %d: role: plain, admin or owner", i)}
		}
		mids[i] = m.Mid
	}
	return c.changeRoom(ctx, room, mids, func(ctx context.Context, tl message.Timeline) error {
		return c.timelines.Join(ctx, tl, members)
	})
}

// LeaveRoom ends memberships. What was said until now stays readable for them;
// who is no member is skipped.
func (c *Core) LeaveRoom(ctx context.Context, room string, mids []int64) error {
	return c.changeRoom(ctx, room, mids, func(ctx context.Context, tl message.Timeline) error {
		return c.timelines.Leave(ctx, tl, mids)
	})
}

func (c *Core) changeRoom(ctx context.Context, room string, mids []int64, change func(context.Context, message.Timeline) error) error {
	tl, err := c.memberRoom(room)
	if err != nil {
		return err
	}
	if len(mids) == 0 || len(mids) > timeline.MaxListed {
		return &Refusal{BadField, fmt.Sprintf("%d members: 1 to %d", len(mids), timeline.MaxListed)}
	}
	seen := make(map[int64]struct{}, len(mids))
	for i, mid := range mids {
		if _, again := seen[mid]; again || mid <= 0 {
			return &Refusal{BadField, fmt.Sprintf("member %d: mid: a number of 1 or more, each once", i)}
		}
		seen[mid] = struct{}{}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	return wrapTimelines("members", change(ctx, tl))
}

// Members lists members of a room by mid, above after.
func (c *Core) Members(ctx context.Context, room string, after int64, limit int) ([]timeline.Member, error) {
	tl, err := c.memberRoom(room)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	members, err := c.timelines.Members(ctx, tl, after, limit)
	return members, wrapTimelines("members", err)
}

// RoomsOf lists the rooms that a user is a member of, above a room key.
func (c *Core) RoomsOf(ctx context.Context, mid int64, after string, limit int) ([]timeline.Membership, error) {
	if err := c.isUser(mid); err != nil {
		return nil, err
	}
	from := message.Timeline("")
	if after != "" {
		from = message.ToRoom(after).Timeline()
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	rooms, err := c.timelines.RoomsOf(ctx, mid, from, limit)
	return rooms, wrapTimelines("rooms", err)
}

// memberRoom is the timeline of a room that can have members.
func (c *Core) memberRoom(room string) (message.Timeline, error) {
	t := message.ToRoom(room)
	tl := t.Timeline()
	switch err := CheckTarget(t); {
	case c.timelines == nil:
		return "", ErrNotStored
	case err != nil:
		return "", &Refusal{BadTarget, err.Error()}
	case tl == message.AllTimeline:
		return "", &Refusal{BadTarget, "room: sys://all is for everybody and has no members"}
	case !tl.CanStore():
		return "", &Refusal{BadTarget, "room: too long for a room with members"}
	}
	return tl, nil
}

func (c *Core) isUser(mid int64) error {
	switch {
	case c.timelines == nil:
		return ErrNotStored
	case mid <= 0:
		return &Refusal{BadField, "mid: a user has a number of 1 or more"}
	}
	return nil
}

// wrapTimelines keeps a *Refusal what it is.
func wrapTimelines(what string, err error) error {
	var refusal *Refusal
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
