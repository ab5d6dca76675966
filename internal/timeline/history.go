package timeline

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/perseid-im/perseid/internal/message"
)

// History is a part of one timeline; see logic.Reading. Next is the newest
// position of the page; HasMore tells of older positions for Before and
// Around, of newer ones for After. Reset tells that Part.Epoch is not the
// current one: the page is the newest part then.
func (s *Store) History(ctx context.Context, r Reader, p Part, l Limit) (Page, error) {
	page, err := s.history(ctx, r, p, l.norm())
	switch {
	case errors.Is(err, ErrForbidden), errors.Is(err, ErrBehind):
		return Page{Timeline: p.Timeline, Err: err}, nil
	case err != nil:
		return Page{}, fmt.Errorf("history of %s: %w", p.Timeline, err)
	}
	return page, nil
}

func (s *Store) history(ctx context.Context, r Reader, p Part, l Limit) (Page, error) {
	v, err := s.mayRead(ctx, r, p.Timeline)
	if err != nil {
		return Page{}, err
	}
	windows, err := s.window.Read(ctx, []WindowRead{{Timeline: p.Timeline, From: 0, Entries: 1, Bytes: 1}})
	if err != nil {
		return Page{}, err
	}
	st, err := s.standOf(ctx, p.Timeline, windows[0])
	if err != nil {
		return Page{}, err
	}
	if err := s.raiseFloor(ctx, &st, 0); err != nil {
		return Page{}, err
	}
	page := Page{Timeline: p.Timeline, Epoch: st.epoch, Top: v.end(st.top), Floor: st.floor}
	if p.Epoch != 0 && p.Epoch != st.epoch {
		page.Reset, p.At, p.Seq = true, Before, 0
	}
	low := max(st.floor, v.rng.Min)
	from, to := p.bounds(low, page.Top, uint64(l.Entries))
	page.Truncated = p.At == After && p.Seq < low
	if page.Next = to; from < to {
		if page.Entries, err = s.part(ctx, st, from, to, l, p.At != After); err != nil {
			return Page{}, err
		}
		if err := s.hide(ctx, r, p.Timeline, page.Entries, view{}); err != nil {
			return Page{}, err
		}
		from, page.Next = page.Entries[0].Seq-1, page.Entries[len(page.Entries)-1].Seq
	}
	page.HasMore = from > low
	if p.At == After {
		page.HasMore = page.Next < page.Top
	}
	return page, nil
}

// bounds are the positions that are meant, from < seq <= to, at most n.
func (p Part) bounds(low, top, n uint64) (from, to uint64) {
	switch p.At {
	case After:
		from = min(max(p.Seq, low), top)
		return from, min(top, from+n)
	case Around:
		to = min(top, min(p.Seq, top)+n/2)
	default:
		to = top
		if p.Seq > 0 {
			to = min(top, p.Seq-1)
		}
	}
	to = max(to, min(low, top))
	return max(low, to-min(n, to)), to
}

// part gives from < seq <= to; when the bytes do not hold all, the newest of
// them with newest, else the oldest.
func (s *Store) part(ctx context.Context, st stand, from, to uint64, l Limit, newest bool) ([]Entry, error) {
	st.page.Entries = nil // those of another place
	if !newest {
		return s.oldest(ctx, st, from, to, l.Bytes)
	}
	all, err := s.oldest(ctx, st, from, to, MaxPageBytes)
	if err != nil {
		return nil, err
	}
	bytes := weights(all)
	if all[len(all)-1].Seq < to { // they are large: from the end, in growing steps, no more than it takes
		all, bytes = nil, 0
		for step := uint64(8); from < to && bytes <= l.Bytes; step *= 2 {
			low := max(from, to-min(step, to))
			some, err := s.oldest(ctx, st, low, to, math.MaxInt)
			if err != nil {
				return nil, err
			}
			all, bytes, to = append(some, all...), bytes+weights(some), low
		}
	}
	for ; bytes > l.Bytes && len(all) > 1; all = all[1:] {
		bytes -= Weight(&all[0].Message)
	}
	return all, nil
}

// oldest gives those of from < seq <= to that the bytes hold, the oldest, one at
// least.
func (s *Store) oldest(ctx context.Context, st stand, from, to uint64, maxBytes int) ([]Entry, error) {
	var all []Entry
	bytes := 0
	for from < to {
		some, err := s.span(ctx, st, from, to, Limit{Entries: int(to - from), Bytes: min(maxBytes, MaxPageBytes)})
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			return nil, ErrBehind
		}
		for i := range some {
			if bytes += Weight(&some[i].Message); bytes > maxBytes && len(all) > 0 {
				return all, nil
			}
			all = append(all, some[i])
		}
		from = some[len(some)-1].Seq
	}
	return all, nil
}

func weights(entries []Entry) (n int) {
	for i := range entries {
		n += Weight(&entries[i].Message)
	}
	return n
}

// Tops are parallel to tls; see logic.Reading.
func (s *Store) Tops(ctx context.Context, tls []message.Timeline) ([]Top, error) {
	stands, err := s.stands(ctx, tls)
	if err != nil {
		return nil, fmt.Errorf("tops: %w", err)
	}
	tops := make([]Top, len(tls))
	for i, st := range stands {
		tops[i] = Top{Timeline: tls[i], Position: Position{Epoch: st.epoch, Seq: st.top}}
	}
	return tops, nil
}

// stands are parallel to tls, without entries.
func (s *Store) stands(ctx context.Context, tls []message.Timeline) ([]stand, error) {
	if len(tls) == 0 {
		return nil, nil
	}
	known, err := s.window.Tops(ctx, tls)
	if err != nil {
		return nil, err
	}
	stands := make([]stand, len(tls))
	var missing []message.Timeline
	var at []int
	for i, w := range known {
		stands[i] = stand{tl: tls[i], epoch: w.Epoch, top: w.Seq, floor: w.Floor, arch: w.Arch, live: !w.Miss}
		if w.Miss && s.ModeOf(tls[i]) != Off {
			missing, at = append(missing, tls[i]), append(at, i)
		}
	}
	if missing == nil {
		return stands, nil
	}
	archived, err := s.archivedTops(ctx, missing)
	if err != nil {
		return nil, fmt.Errorf("archived: %w", err)
	}
	for i, t := range archived {
		stands[at[i]] = stand{tl: missing[i], epoch: t.Epoch, top: t.Seq, floor: t.Floor, arch: t.Seq}
	}
	return stands, nil
}

// Find tells where a message stands; see logic.Reading.
func (s *Store) Find(ctx context.Context, tl message.Timeline, id message.ID) (at Position, kept bool, err error) {
	at, archived, found, err := s.window.Find(ctx, tl, id)
	if err != nil {
		return Position{}, false, fmt.Errorf("find in %s: %w", tl, err)
	}
	mode := s.ModeOf(tl)
	if found {
		return at, archived || mode != Required, nil
	}
	if mode == Off {
		return Position{}, false, ErrNotFound
	}
	e, err := s.archive.Find(ctx, tl, id)
	if err != nil {
		return Position{}, false, fmt.Errorf("find in %s: %w", tl, err)
	}
	tops, err := s.archivedTops(ctx, []message.Timeline{tl})
	if err != nil {
		return Position{}, false, fmt.Errorf("find in %s: %w", tl, err)
	}
	return Position{Epoch: tops[0].Epoch, Seq: e.Seq}, true, nil
}
