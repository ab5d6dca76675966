package logic

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Ack raises delivery cursors of one session's user; the standings are
// parallel to the acks.
func (c *Core) Ack(ctx context.Context, r timeline.Reader, acks []timeline.Cursor) ([]timeline.Standing, error) {
	if err := c.checkAcks(r, acks); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	standings, err := c.timelines.Ack(ctx, r, acks)
	if err == nil && len(standings) != len(acks) {
		err = fmt.Errorf("%d standings for %d acks", len(standings), len(acks))
	}
	if err != nil {
		return nil, fmt.Errorf("ack: %w", err)
	}
	return standings, nil
}

// Read raises a read cursor, and the delivery cursor with it. When it moved,
// the sessions of the user are told by a push that is not stored.
func (c *Core) Read(ctx context.Context, r timeline.Reader, at timeline.Cursor) (timeline.Standing, error) {
	if err := c.checkAcks(r, []timeline.Cursor{at}); err != nil {
		return timeline.Standing{}, err
	}
	asked, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	standing, err := c.timelines.Read(asked, r, at)
	cancel()
	if err != nil {
		return timeline.Standing{}, fmt.Errorf("read: %w", err)
	}
	if standing.Moved {
		c.echoRead(ctx, r.Mid, standing)
	}
	return standing, nil
}

func (c *Core) checkAcks(r timeline.Reader, acks []timeline.Cursor) error {
	switch {
	case c.timelines == nil:
		return ErrNotStored
	case len(acks) == 0 || len(acks) > timeline.MaxCursors:
		return &Refusal{BadField, fmt.Sprintf("%d timelines: 1 to %d", len(acks), timeline.MaxCursors)}
	case r.Mid <= 0:
		return timeline.ErrForbidden
	}
	for _, a := range acks {
		if !a.Timeline.CanStore() {
			return timeline.ErrForbidden
		}
	}
	return nil
}

// echoRead tells the user's sessions. Who misses it learns it from the cursor.
func (c *Core) echoRead(ctx context.Context, mid int64, s timeline.Standing) {
	body, err := json.Marshal(struct {
		Timeline message.Timeline `json:"tl"`
		Epoch    uint32           `json:"epoch"`
		Seq      uint64           `json:"seq"`
	}{s.Timeline, s.Epoch, s.Read})
	if err == nil {
		m := message.Message{Op: wire.OpReadReply, Kind: message.Signal, Flags: message.Urgent, Sender: mid, Body: body}
		_, err = c.AcceptMessage(ctx, m, []message.Target{message.ToUser(mid)})
	}
	if err != nil {
		c.storms.Warn("read echo", "the sessions of a user were not told what another one has read", slog.Any("error", err))
	}
}
