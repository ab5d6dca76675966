package timeline

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/message"
)

// Ack raises delivery cursors; see logic.Standings. Unread is not counted.
func (s *Store) Ack(ctx context.Context, r Reader, acks []Cursor) ([]Standing, error) {
	if len(acks) > MaxCursors {
		return nil, fmt.Errorf("%w: %d acks, at most %d", ErrTooMany, len(acks), MaxCursors)
	}
	standings, _, err := s.advance(ctx, r, acks, false)
	if err != nil {
		return nil, fmt.Errorf("ack of %d: %w", r.Mid, err)
	}
	return standings, nil
}

// Read raises the read cursor, and with it the delivery cursor.
func (s *Store) Read(ctx context.Context, r Reader, at Cursor) (Standing, error) {
	v, err := s.mayRead(ctx, r, at.Timeline)
	if err != nil {
		return Standing{}, fmt.Errorf("read mark of %d in %s: %w", r.Mid, at.Timeline, err)
	}
	standings, stands, err := s.advance(ctx, r, []Cursor{at}, true)
	if err != nil {
		return Standing{}, fmt.Errorf("read mark of %d in %s: %w", r.Mid, at.Timeline, err)
	}
	if err := s.countUnread(ctx, r, standings, stands, []view{v}); err != nil {
		return Standing{}, fmt.Errorf("read mark of %d in %s: %w", r.Mid, at.Timeline, err)
	}
	return standings[0], nil
}

// advance moves cursors to where they are asked, clamped to the tops. One of
// another epoch than the timeline's, or of a timeline that the reader may not
// read, moves nothing.
func (s *Store) advance(ctx context.Context, r Reader, to []Cursor, read bool) ([]Standing, []stand, error) {
	asks := make([]ViewAsk, len(to))
	tls := make([]message.Timeline, len(to))
	for i, c := range to {
		tls[i], asks[i].Timeline = c.Timeline, c.Timeline
	}
	views, err := s.viewsOfForeign(ctx, r, asks)
	if err != nil {
		return nil, nil, err
	}
	stands, err := s.stands(ctx, tls)
	if err != nil {
		return nil, nil, err
	}
	standings := make([]Standing, len(to))
	var moves []UserCursor
	var at []int
	for i, c := range to {
		standings[i].Timeline = c.Timeline
		st := stands[i]
		if !views[i].allowed || r.Mid == 0 || st.epoch == 0 || c.Epoch != st.epoch {
			continue
		}
		move := UserCursor{Timeline: c.Timeline, Epoch: c.Epoch, Acked: min(c.After, st.top)}
		if read {
			move.Read = move.Acked
		}
		moves, at = append(moves, move), append(at, i)
	}
	if moves == nil {
		return standings, stands, nil
	}
	known, err := s.advanceKnown(ctx, r.Mid, moves)
	if err != nil {
		return nil, nil, err
	}
	for i, k := range known {
		standings[at[i]] = Standing{UserCursor: k.UserCursor, Moved: k.Moved}
		if k.Moved {
			s.unsaved.put(r.Mid, k.UserCursor, s.archive != nil)
		}
	}
	return standings, stands, nil
}

// viewsOfForeign asks the archive only where the reader itself does not show
// that it may read: acks are frequent.
func (s *Store) viewsOfForeign(ctx context.Context, r Reader, asks []ViewAsk) ([]view, error) {
	views := make([]view, len(asks))
	var foreign []ViewAsk
	var at []int
	for i, ask := range asks {
		tl := ask.Timeline
		if tl == message.Inbox(r.Mid) || tl == message.AllTimeline {
			views[i].allowed = true
			continue
		}
		foreign, at = append(foreign, ask), append(at, i)
	}
	if foreign == nil {
		return views, nil
	}
	got, err := s.views(ctx, r, foreign)
	for i := range got {
		views[at[i]] = got[i]
	}
	return views, err
}

// advanceKnown asks the archive for cursors that the window has lost.
func (s *Store) advanceKnown(ctx context.Context, mid int64, moves []UserCursor) ([]KnownCursor, error) {
	known, err := s.window.Advance(ctx, mid, moves, nil)
	if err != nil {
		return nil, err
	}
	var unknown []int
	var asks []UserCursor
	var tls []message.Timeline
	for i, k := range known {
		if !k.Known {
			unknown, asks, tls = append(unknown, i), append(asks, moves[i]), append(tls, moves[i].Timeline)
		}
	}
	if unknown == nil {
		return known, nil
	}
	seeds, err := s.savedCursors(ctx, mid, tls)
	if err != nil {
		return nil, err
	}
	again, err := s.window.Advance(ctx, mid, asks, seeds)
	if err != nil {
		return nil, err
	}
	for i, at := range unknown {
		known[at] = again[i]
	}
	return known, nil
}

// savedCursors are what the archive has and what is on its way there; unknown
// ones are zero.
func (s *Store) savedCursors(ctx context.Context, mid int64, tls []message.Timeline) ([]UserCursor, error) {
	saved := make([]UserCursor, len(tls))
	for i, tl := range tls {
		saved[i].Timeline = tl
	}
	if s.archive == nil {
		return saved, nil
	}
	got, err := s.archive.Cursors(ctx, mid, tls)
	if err != nil {
		return nil, fmt.Errorf("saved cursors: %w", err)
	}
	for i := range got {
		got[i].Timeline = tls[i]
		s.unsaved.over(mid, &got[i])
	}
	return got, nil
}

// knownCursors are where mid stands, in the window or else in the archive.
func (s *Store) knownCursors(ctx context.Context, mid int64, tls []message.Timeline) ([]UserCursor, error) {
	known, err := s.window.Cursors(ctx, mid, tls)
	if err != nil {
		return nil, err
	}
	cursors := make([]UserCursor, len(tls))
	var unknown []int
	var asks []message.Timeline
	for i, k := range known {
		cursors[i] = k.UserCursor
		cursors[i].Timeline = tls[i]
		if !k.Known {
			unknown, asks = append(unknown, i), append(asks, tls[i])
		}
	}
	if unknown == nil {
		return cursors, nil
	}
	saved, err := s.savedCursors(ctx, mid, asks)
	for i := range saved {
		cursors[unknown[i]] = saved[i]
	}
	return cursors, err
}

// Cursors are parallel to tls, with unread counts; see logic.Standings. A
// cursor of an epoch that is over has nothing.
func (s *Store) Cursors(ctx context.Context, r Reader, tls []message.Timeline) ([]Standing, error) {
	standings, err := s.cursorsOf(ctx, r, tls)
	if err != nil {
		return nil, fmt.Errorf("cursors of %d: %w", r.Mid, err)
	}
	return standings, nil
}

func (s *Store) cursorsOf(ctx context.Context, r Reader, tls []message.Timeline) ([]Standing, error) {
	if len(tls) > MaxCursors {
		return nil, fmt.Errorf("%w: %d timelines, at most %d", ErrTooMany, len(tls), MaxCursors)
	}
	if len(tls) == 0 {
		return nil, nil
	}
	asks := make([]ViewAsk, len(tls))
	for i, tl := range tls {
		asks[i].Timeline = tl
	}
	views, err := s.views(ctx, r, asks)
	if err != nil {
		return nil, err
	}
	for i, v := range views {
		if !v.allowed {
			return nil, fmt.Errorf("%s: %w", tls[i], ErrForbidden)
		}
	}
	known, err := s.knownCursors(ctx, r.Mid, tls)
	if err != nil {
		return nil, err
	}
	stands, err := s.stands(ctx, tls)
	if err != nil {
		return nil, err
	}
	standings := make([]Standing, len(tls))
	for i, c := range known {
		if c.Epoch != stands[i].epoch {
			c = UserCursor{Timeline: tls[i], Epoch: stands[i].epoch}
		}
		standings[i].UserCursor = c
	}
	return standings, s.countUnread(ctx, r, standings, stands, views)
}

// countUnread fills in what stands above the read cursors.
func (s *Store) countUnread(ctx context.Context, r Reader, standings []Standing, stands []stand, views []view) error {
	for i := range standings {
		st, v := stands[i], views[i]
		read := standings[i].Read
		if standings[i].Epoch != st.epoch {
			read = 0
		}
		n, err := s.unread(ctx, r.Mid, st, max(read, v.rng.Min, st.floor), v.end(st.top))
		if err != nil {
			return fmt.Errorf("unread of %s: %w", st.tl, err)
		}
		standings[i].Unread = n
	}
	return nil
}

// unread counts from < seq <= to: rows by the archive, what is not archived
// yet (or never will be) in the window.
func (s *Store) unread(ctx context.Context, mid int64, st stand, from, to uint64) (n int, err error) {
	mode := s.ModeOf(st.tl)
	if mode != Off && from < min(st.arch, to) {
		if n, err = s.archive.CountUnread(ctx, mid, st.tl, from, min(st.arch, to), s.nowMS()); err != nil {
			return 0, err
		}
		from = min(st.arch, to)
	}
	for from < to && n < MaxUnread && st.live {
		pages, err := s.window.Read(ctx, []WindowRead{{Timeline: st.tl, From: from, Entries: MaxPageEntries, Bytes: MaxPageBytes}})
		if err != nil {
			return 0, err
		}
		if pages[0].Miss || pages[0].Epoch != st.epoch {
			break
		}
		entries := within(pages[0].Entries, from, to)
		if len(entries) == 0 {
			break
		}
		from = entries[len(entries)-1].Seq
		if err := s.hide(ctx, Reader{Mid: mid}, st.tl, entries, view{}); err != nil {
			return 0, err
		}
		for i := range entries {
			if e := &entries[i]; e.Gone == Here && e.Message.Flags.Has(message.Unread) && e.Message.Sender != mid {
				n++
			}
		}
	}
	return min(n, MaxUnread), nil
}

// unsavedCursors moved since the last save. Losing them means redelivery only.
type unsavedCursors struct {
	mu    sync.Mutex
	moved map[int64]map[message.Timeline]UserCursor
}

func (u *unsavedCursors) put(mid int64, c UserCursor, archived bool) {
	if !archived {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.moved[mid] == nil {
		u.moved[mid] = map[message.Timeline]UserCursor{}
	}
	u.moved[mid][c.Timeline] = raised(u.moved[mid][c.Timeline], c)
}

// putBack is put for a cursor that is older than what may have come since.
func (u *unsavedCursors) putBack(mid int64, c UserCursor) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.moved[mid] == nil {
		u.moved[mid] = map[message.Timeline]UserCursor{}
	}
	if moved, ok := u.moved[mid][c.Timeline]; ok {
		c = raised(c, moved)
	}
	u.moved[mid][c.Timeline] = c
}

// over raises c by what is not saved yet.
func (u *unsavedCursors) over(mid int64, c *UserCursor) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if moved, ok := u.moved[mid][c.Timeline]; ok {
		*c = raised(*c, moved)
	}
}

func raised(old, to UserCursor) UserCursor {
	if old.Epoch == to.Epoch {
		to.Acked, to.Read = max(to.Acked, old.Acked), max(to.Read, old.Read)
	}
	return to
}

func (u *unsavedCursors) take() map[int64][]UserCursor {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.moved) == 0 {
		return nil
	}
	all := make(map[int64][]UserCursor, len(u.moved))
	for mid, cursors := range u.moved {
		for _, c := range cursors {
			all[mid] = append(all[mid], c)
		}
	}
	u.moved = map[int64]map[message.Timeline]UserCursor{}
	return all
}

// flushCursors saves what moved; what could not be saved is kept for the next
// time.
func (s *Store) flushCursors(ctx context.Context) error {
	all := s.unsaved.take()
	if all == nil {
		return nil
	}
	err := s.archive.SaveCursors(ctx, all)
	if err == nil {
		return nil
	}
	for mid, cursors := range all {
		for _, c := range cursors {
			s.unsaved.putBack(mid, c)
		}
	}
	return fmt.Errorf("save cursors of %d users: %w", len(all), err)
}

// saveTimeout bounds one save.
const saveTimeout = 10 * time.Second

func (s *Store) saveCursors(ctx context.Context) {
	defer close(s.stopped)
	tick := time.NewTicker(s.cfg.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		saving, cancel := context.WithTimeout(ctx, saveTimeout)
		if err := s.flushCursors(saving); err != nil && ctx.Err() == nil {
			s.warnings.Warn("cursors", "moved cursors are not saved yet", "err", err)
		}
		cancel()
	}
}
