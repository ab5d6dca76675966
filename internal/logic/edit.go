package logic

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Revoked is a message that was taken back.
type Revoked struct {
	Seq   uint64
	ID    message.ID // of the message
	Event message.ID // of the message that tells the clients
}

// Revoke takes a message of a timeline back for everybody: its body goes, its
// position stays, and a message of kind revoke in the same timeline tells the
// clients. It is named by seq, or with seq 0 by its id. by is who does it; 0 =
// a backend. To revoke again changes nothing and repeats the event's id, so a
// call that failed half way is simply repeated.
func (c *Core) Revoke(ctx context.Context, tl message.Timeline, seq uint64, id message.ID, by int64) (Revoked, error) {
	target, err := c.storedTarget(tl)
	if err != nil {
		return Revoked{}, err
	}
	if by < 0 {
		return Revoked{}, &Refusal{BadField, "by: a user of 1 or more, or 0 for a backend"}
	}
	asked, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	if seq == 0 {
		at, _, err := c.timelines.Find(asked, tl, id)
		if err != nil {
			return Revoked{}, wrapTimelines("revoke", err)
		}
		seq = at.Seq
	}
	entry, err := c.timelines.Revoke(asked, tl, seq, by)
	if err != nil {
		return Revoked{}, wrapTimelines("revoke", err)
	}
	m := message.Message{Op: int32(wire.OpRevoke), Kind: message.Revoke, Sender: by}
	if m.Body, err = json.Marshal(struct {
		Seq uint64 `json:"seq"`
		ID  string `json:"msg_id"`
	}{seq, entry.Message.ID.String()}); err != nil {
		return Revoked{}, fmt.Errorf("revoke: %w", err)
	}
	m.ID = message.DeriveID("revoke:"+string(tl), strconv.FormatUint(seq, 10)+" "+entry.Message.ID.String())
	if m.Flags, err = c.ResolveFlags(m.Kind, 0, 0, target); err != nil {
		return Revoked{}, err
	}
	if m, err = c.AcceptMessage(ctx, m, []message.Target{target}); err != nil {
		return Revoked{}, err
	}
	return Revoked{Seq: seq, ID: entry.Message.ID, Event: m.ID}, nil
}

// Hide hides positions from one user, for good.
func (c *Core) Hide(ctx context.Context, mid int64, tl message.Timeline, seqs []uint64) error {
	if err := c.isReader(mid, tl); err != nil {
		return err
	}
	if len(seqs) == 0 || len(seqs) > timeline.MaxPageEntries {
		return &Refusal{BadField, fmt.Sprintf("%d positions: 1 to %d", len(seqs), timeline.MaxPageEntries)}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	return wrapTimelines("hide", c.timelines.Hide(ctx, timeline.Reader{Mid: mid}, tl, seqs))
}

// Clear hides everything up to upTo from one user.
func (c *Core) Clear(ctx context.Context, mid int64, tl message.Timeline, upTo uint64) error {
	if err := c.isReader(mid, tl); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	return wrapTimelines("clear", c.timelines.Clear(ctx, timeline.Reader{Mid: mid}, tl, upTo))
}

// Messages is a part of a timeline as a user sees it, or with mid 0 as a
// backend does, which may read everything.
func (c *Core) Messages(ctx context.Context, mid int64, p timeline.Part, l timeline.Limit) (timeline.Page, error) {
	if mid != 0 {
		if err := c.isUser(mid); err != nil {
			return timeline.Page{}, err
		}
	}
	if _, err := c.storedTarget(p.Timeline); err != nil {
		return timeline.Page{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	page, err := c.timelines.History(ctx, timeline.Reader{Mid: mid}, p, l)
	if err == nil {
		err = page.Err
	}
	return page, wrapTimelines("messages", err)
}

// Unread is where a user stands in some timelines, with unread counts.
func (c *Core) Unread(ctx context.Context, mid int64, tls []message.Timeline) ([]timeline.Standing, error) {
	if err := c.isUser(mid); err != nil {
		return nil, err
	}
	if len(tls) == 0 || len(tls) > timeline.MaxCursors {
		return nil, &Refusal{BadField, fmt.Sprintf("%d timelines: 1 to %d", len(tls), timeline.MaxCursors)}
	}
	for _, tl := range tls {
		if _, err := c.storedTarget(tl); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	standings, err := c.timelines.Cursors(ctx, timeline.Reader{Mid: mid}, tls)
	return standings, wrapTimelines("unread", err)
}

func (c *Core) isReader(mid int64, tl message.Timeline) error {
	if err := c.isUser(mid); err != nil {
		return err
	}
	_, err := c.storedTarget(tl)
	return err
}

// storedTarget is whose timeline it is.
func (c *Core) storedTarget(tl message.Timeline) (message.Target, error) {
	if c.timelines == nil {
		return message.Target{}, ErrNotStored
	}
	if tl == message.AllTimeline {
		return message.ToAll(0), nil
	}
	if room, ok := tl.Room(); ok && tl.CanStore() && checkRoom(room) == nil {
		return message.ToRoom(room), nil
	}
	if mid, ok := tl.Mid(); ok {
		return message.ToUser(mid), nil
	}
	return message.Target{}, &Refusal{BadField, "timeline: u:<mid> or r:<type>://<id>"}
}
