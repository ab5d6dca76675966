package comet

import (
	"context"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// What is known of whether logic stores messages at all.
const (
	storedUnknown int32 = iota
	storedYes
	storedNo
)

// topsChunk is how many timelines one call asks about.
const topsChunk = 1000

// topsLoop asks logic for the tops of what sessions of version 2 read, a share
// at a time, each once in a TopsPeriod. The heartbeats tell what has changed:
// this is how a client learns of the last push when that never came here.
func (g *Gateway) topsLoop() {
	const steps = 20
	ticker := time.NewTicker(max(g.cfg.TopsPeriod/steps, 10*time.Millisecond))
	defer ticker.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ticker.C:
		case <-g.leaving:
			return
		}
		if g.stored.Load() == storedNo && turn%steps != 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
		err := g.readTops(ctx, steps)
		cancel()
		if err != nil {
			g.logicFailed("tops", err)
		}
	}
}

// readTops asks about one of steps shares of what every loop has.
func (g *Gateway) readTops(ctx context.Context, steps int) error {
	for _, b := range *g.buckets.Load() {
		var slots int
		if err := b.call(ctx, func(b *Bucket) { slots = (len(b.slots) + steps - 1) / steps }); err != nil {
			return err
		}
		for slots > 0 {
			var asked topsAsked
			if err := b.call(ctx, func(b *Bucket) { asked, slots = b.topsShare(slots) }); err != nil {
				return err
			}
			if err := g.askTops(ctx, b, asked); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Gateway) askTops(ctx context.Context, b *Bucket, asked topsAsked) error {
	for len(asked.tls) > 0 {
		n := min(len(asked.tls), topsChunk)
		tops, err := g.tops(ctx, asked.tls[:n])
		if err != nil {
			return err
		}
		b.post(func(b *Bucket) { b.tookTops(tops, asked.sessions) })
		asked.tls = asked.tls[n:]
	}
	return nil
}

// tops asks logic, and remembers whether anything is stored.
func (g *Gateway) tops(ctx context.Context, tls []message.Timeline) ([]timeline.Top, error) {
	tops, stored, err := g.logic.Tops(ctx, tls)
	switch {
	case err != nil:
		return nil, err
	case stored:
		g.stored.Store(storedYes)
	default:
		g.stored.Store(storedNo)
	}
	return tops, nil
}

// topsAsked is a share: timelines, and the sessions whose inboxes are in it.
type topsAsked struct {
	tls      []message.Timeline
	sessions map[message.Timeline][]uint64
}

// topsShare lists what to ask about next: the timeline of pushes to all, the
// sessions of the next slots, and what those are in. A room with many members is
// asked about more often than others. It looks at no more sessions and rooms than
// a turn takes; left are the slots that are for the next turn.
func (b *Bucket) topsShare(slots int) (asked topsAsked, left int) {
	asked.sessions = map[message.Timeline][]uint64{}
	rooms := map[string]bool{}
	var found bool
	for units := 0; slots > 0 && units < turnUnits; slots-- {
		if b.topsNext >= len(b.slots) {
			b.topsNext = 0
		}
		s := b.slots[b.topsNext].s
		b.topsNext++
		units++
		if s == nil || s.tops == nil || s.state != live {
			continue
		}
		units += len(s.rooms)
		found = true
		if s.mid > 0 {
			tl := message.Inbox(s.mid)
			if asked.sessions[tl] == nil {
				asked.tls = append(asked.tls, tl)
			}
			asked.sessions[tl] = append(asked.sessions[tl], s.id)
		}
		for i := range s.rooms {
			if key := s.rooms[i].room.key; !rooms[key] {
				rooms[key] = true
				asked.tls = append(asked.tls, roomTimeline(key))
			}
		}
	}
	if found {
		asked.tls = append(asked.tls, message.AllTimeline)
	}
	return asked, slots
}

func (b *Bucket) tookTops(tops []timeline.Top, sessions map[message.Timeline][]uint64) {
	for _, t := range tops {
		ids := sessions[t.Timeline]
		for _, id := range ids {
			if s := b.find(id); s != nil {
				b.learn(s, []timeline.Top{t})
			}
		}
		if len(ids) == 0 {
			b.learn(nil, []timeline.Top{t})
		}
	}
}
