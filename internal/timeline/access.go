package timeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
)

// view is what a reader may see of a timeline.
type view struct {
	allowed  bool
	rng      Range
	hidden   []uint64 // those with from < seq <= to
	from, to uint64
}

// end is the newest position the reader may see.
func (v view) end(top uint64) uint64 {
	if v.rng.Max > 0 {
		return min(top, v.rng.Max)
	}
	return top
}

// views are parallel to asks. A reader may read its inbox, what is for all,
// the rooms its session is in, those it is a member of, and of those it was a
// member of what was said until it left. What is kept of users in positions
// does not count where a timeline without rows may be numbered anew.
func (s *Store) views(ctx context.Context, r Reader, asks []ViewAsk) ([]view, error) {
	views := make([]view, len(asks))
	if r.Mid == 0 {
		for i := range asks {
			views[i].allowed = asks[i].Timeline.CanStore()
		}
		return views, nil
	}
	known := make([]View, len(asks))
	if s.archive != nil && len(asks) > 0 {
		var err error
		if known, err = s.archive.Views(ctx, r.Mid, asks); err != nil {
			return nil, fmt.Errorf("views of %d: %w", r.Mid, err)
		}
		if len(known) != len(asks) {
			return nil, fmt.Errorf("%d views of %d timelines", len(known), len(asks))
		}
	}
	for i, ask := range asks {
		v := view{from: ask.From, to: ask.To}
		if s.ModeOf(ask.Timeline) != Off {
			v.rng, v.hidden = known[i].Range, known[i].Hidden
		}
		here := slices.Contains(r.Rooms, ask.Timeline) || ask.Timeline == message.AllTimeline
		_, room := ask.Timeline.Room()
		switch {
		case !room:
			v.allowed = ask.Timeline == message.Inbox(r.Mid)
		case here || known[i].Member:
			v.allowed, v.rng.Max = true, 0
		default:
			v.allowed = v.rng.Max > 0
		}
		views[i] = v
	}
	return views, nil
}

// mayRead fails with ErrForbidden unless the reader may read the timeline.
func (s *Store) mayRead(ctx context.Context, r Reader, tl message.Timeline) (view, error) {
	views, err := s.views(ctx, r, []ViewAsk{{Timeline: tl}})
	if err != nil {
		return view{}, err
	}
	if !views[0].allowed {
		return view{}, ErrForbidden
	}
	return views[0], nil
}
