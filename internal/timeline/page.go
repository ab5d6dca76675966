package timeline

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
)

// What one call gives over all its pages; the pages behind have numbers only,
// and has_more.
const (
	maxCallEntries = 1000
	maxCallBytes   = 1 << 20
	// readTogether bounds what is read before the bounds of a call are looked at.
	readTogether = 4
)

// norm makes a limit an allowed one.
func (l Limit) norm() Limit {
	if l.Entries <= 0 || l.Entries > MaxPageEntries {
		l.Entries = MaxPageEntries
	}
	if l.Bytes <= 0 || l.Bytes > MaxPageBytes {
		l.Bytes = MaxPageBytes
	}
	return l
}

// Page answers one page per cursor; see logic.Reading.
func (s *Store) Page(ctx context.Context, r Reader, cursors []Cursor, l Limit) ([]Page, error) {
	if len(cursors) > MaxCursors {
		return nil, fmt.Errorf("%w: %d cursors, at most %d", ErrTooMany, len(cursors), MaxCursors)
	}
	if len(cursors) == 0 {
		var err error
		if cursors, err = s.ownCursors(ctx, r); err != nil {
			return nil, fmt.Errorf("timelines of %d: %w", r.Mid, err)
		}
	}
	l = l.norm()
	asks := make([]ViewAsk, len(cursors))
	for i, c := range cursors {
		asks[i] = ViewAsk{c.Timeline, c.After, min(c.After, math.MaxUint64-MaxPageEntries) + uint64(l.Entries)}
	}
	views, err := s.views(ctx, r, asks)
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	pages := make([]Page, 0, len(cursors))
	left := Limit{Entries: maxCallEntries, Bytes: maxCallBytes}
	for len(pages) < len(cursors) {
		if left.Entries <= 0 || left.Bytes <= 0 {
			l = Limit{Entries: 1, Bytes: 1} // for the numbers alone
		}
		at, end := len(pages), min(len(pages)+readTogether, len(cursors))
		got, err := s.pages(ctx, r, cursors[at:end], l, views[at:end])
		if err != nil {
			return nil, fmt.Errorf("page: %w", err)
		}
		for i := range got {
			got[i].cut(&left)
		}
		pages = append(pages, got...)
	}
	return pages, nil
}

// cut takes away what is beyond the bounds of the call, but never its first
// entry: one that is larger than a call would keep the reader where it is.
func (p *Page) cut(left *Limit) {
	for i := range p.Entries {
		first := left.Entries == maxCallEntries
		left.Entries--
		left.Bytes -= Weight(&p.Entries[i].Message)
		if !first && (left.Entries < 0 || left.Bytes < 0) {
			p.Next, p.HasMore = p.Entries[i].Seq-1, true
			p.Entries = p.Entries[:i]
			return
		}
	}
}

// ownCursors are the inbox and the rooms of a reader, where they stand.
func (s *Store) ownCursors(ctx context.Context, r Reader) ([]Cursor, error) {
	if r.Mid == 0 {
		return nil, nil
	}
	tls := append([]message.Timeline{message.Inbox(r.Mid)}, r.Rooms...)
	if s.archive != nil {
		rooms, err := s.archive.Rooms(ctx, r.Mid, "", MaxCursors)
		if err != nil {
			return nil, err
		}
		for _, m := range rooms {
			tls = append(tls, m.Timeline)
		}
	}
	seen := map[message.Timeline]bool{}
	tls = slices.DeleteFunc(tls, func(tl message.Timeline) bool {
		again := seen[tl]
		seen[tl] = true
		return again
	})
	tls = tls[:min(len(tls), MaxCursors)]
	known, err := s.knownCursors(ctx, r.Mid, tls)
	if err != nil {
		return nil, err
	}
	cursors := make([]Cursor, len(tls))
	for i, c := range known {
		cursors[i] = Cursor{Timeline: tls[i], Epoch: c.Epoch, After: c.Acked}
	}
	return cursors, nil
}

// pages reads some timelines together.
func (s *Store) pages(ctx context.Context, r Reader, cursors []Cursor, l Limit, views []view) ([]Page, error) {
	asks := make([]WindowRead, len(cursors))
	for i, c := range cursors {
		asks[i] = WindowRead{Timeline: c.Timeline, From: c.After, Entries: l.Entries, Bytes: l.Bytes}
	}
	windows, err := s.window.Read(ctx, asks)
	if err != nil {
		return nil, err
	}
	pages := make([]Page, len(cursors))
	for i, c := range cursors {
		pages[i], err = s.page(ctx, r, c, l, windows[i], views[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Timeline, err)
		}
	}
	return pages, nil
}

// page is a function of the cursor, the limit and the state.
func (s *Store) page(ctx context.Context, r Reader, c Cursor, l Limit, w WindowPage, v view) (Page, error) {
	if !v.allowed {
		return Page{Timeline: c.Timeline, Err: ErrForbidden}, nil
	}
	st, err := s.standOf(ctx, c.Timeline, w)
	if err != nil {
		return Page{}, err
	}
	after, reset := c.After, false
	switch s.fits(c, st) {
	case cursorBehind:
		return Page{Timeline: c.Timeline, Err: ErrBehind}, nil
	case cursorReset:
		reset, after = true, 0
	}
	if err := s.raiseFloor(ctx, &st, max(after, v.rng.Min)); err != nil {
		return Page{}, err
	}
	p := Page{Timeline: c.Timeline, Epoch: st.epoch, Top: v.end(st.top), Floor: st.floor, Reset: reset, Truncated: after < st.floor}
	from := max(after, st.floor, v.rng.Min)
	to := min(p.Top, from+uint64(l.Entries))
	if p.Next = from; to <= from {
		if from > p.Top { // one who left, or cleared; nothing is behind
			p.Next = max(after, min(from, st.top))
		}
		return p, nil
	}
	p.Entries, err = s.span(ctx, st, from, to, l)
	if err != nil || len(p.Entries) == 0 {
		if err == nil { // what the window and the archive said does not fit: it is just changing
			return Page{Timeline: c.Timeline, Err: ErrBehind}, nil
		}
		return Page{}, err
	}
	p.Next = p.Entries[len(p.Entries)-1].Seq
	p.HasMore = p.Next < p.Top
	return p, s.hide(ctx, r, c.Timeline, p.Entries, v)
}

// stand is the state of a timeline at one moment.
type stand struct {
	tl    message.Timeline
	epoch uint32
	top   uint64
	floor uint64
	arch  uint64
	live  bool       // from the window
	page  WindowPage // of the window
}

// standOf completes what the window knows; a Miss is answered by the archive.
func (s *Store) standOf(ctx context.Context, tl message.Timeline, w WindowPage) (stand, error) {
	if !w.Miss {
		return stand{tl: tl, epoch: w.Epoch, top: w.Seq, floor: w.Floor, arch: w.Arch, live: true, page: w}, nil
	}
	if s.ModeOf(tl) == Off {
		return stand{tl: tl}, nil
	}
	tops, err := s.archivedTops(ctx, []message.Timeline{tl})
	if err != nil {
		return stand{}, fmt.Errorf("archived tops: %w", err)
	}
	t := tops[0]
	return stand{tl: tl, epoch: t.Epoch, top: t.Seq, floor: t.Floor, arch: t.Seq}, nil
}

// raiseFloor asks for the archive's floor where the archive will be read:
// retention moves it before it moves the window's.
func (s *Store) raiseFloor(ctx context.Context, st *stand, from uint64) error {
	from = max(from, st.floor)
	if !st.live || st.page.First > 0 && st.page.First <= from+1 || from >= st.top || s.ModeOf(st.tl) == Off {
		return nil
	}
	tops, err := s.archivedTops(ctx, []message.Timeline{st.tl})
	if err != nil {
		return fmt.Errorf("archived tops: %w", err)
	}
	st.floor = max(st.floor, min(tops[0].Floor, st.top))
	return nil
}

type cursorFit uint8

const (
	cursorFits cursorFit = iota
	cursorReset
	cursorBehind
)

// fits tells what a cursor is to the state. Positions of a required archive
// are never lost, so a cursor above its top means that the store is being
// rebuilt: live, too, since a timeline is loaded before what was not archived
// is appended again.
func (s *Store) fits(c Cursor, st stand) cursorFit {
	ahead := c.After > st.top
	switch required := s.ModeOf(c.Timeline) == Required; {
	case c.Epoch == 0 && c.After == 0:
		return cursorFits
	case !st.live && s.ModeOf(c.Timeline) == Off: // what it had is nowhere any more
		return cursorReset
	case !st.live && st.top == 0: // no row yet
		if c.After == 0 {
			return cursorFits
		}
		return cursorBehind
	case c.Epoch != st.epoch:
		return cursorReset
	case ahead && (required || !st.live):
		return cursorBehind
	case ahead:
		return cursorReset
	}
	return cursorFits
}

// span gives the entries of from < seq <= to, or the first of them: always
// some, without holes. The caller keeps to - from small.
func (s *Store) span(ctx context.Context, st stand, from, to uint64, l Limit) ([]Entry, error) {
	if st.live && st.page.First > 0 && st.page.First <= from+1 {
		entries := within(st.page.Entries, from, to)
		if len(entries) == 0 || entries[0].Seq != from+1 { // the page begins elsewhere than was asked
			again, err := s.window.Read(ctx, []WindowRead{{Timeline: st.tl, From: from, Entries: l.Entries, Bytes: l.Bytes}})
			if err != nil {
				return nil, err
			}
			entries = within(again[0].Entries, from, to)
			if again[0].Miss || again[0].Epoch != st.epoch || len(entries) == 0 || entries[0].Seq != from+1 {
				return nil, nil
			}
		}
		return entries, nil
	}
	if s.ModeOf(st.tl) == Off {
		return nil, nil
	}
	if st.live && st.page.First > 0 {
		to = min(to, st.page.First-1)
	}
	entries, err := s.archive.Read(ctx, 0, ArchiveRead{Timeline: st.tl, From: from, To: to, Entries: l.Entries, Bytes: l.Bytes})
	if err != nil {
		return nil, fmt.Errorf("archived entries: %w", err)
	}
	if len(entries) > 0 && entries[0].Seq != from+1 && s.ModeOf(st.tl) == Required {
		tops, err := s.archivedTops(ctx, []message.Timeline{st.tl})
		if err != nil {
			return nil, fmt.Errorf("archived tops: %w", err)
		}
		if tops[0].Floor > from {
			return nil, nil // the rows have just gone
		}
	}
	return s.dense(st.tl, entries, from, to), nil
}

func within(entries []Entry, from, to uint64) []Entry {
	first := slices.IndexFunc(entries, func(e Entry) bool { return e.Seq > from })
	if first < 0 {
		return nil
	}
	entries = entries[first:]
	if end := slices.IndexFunc(entries, func(e Entry) bool { return e.Seq > to }); end >= 0 {
		entries = entries[:end]
	}
	return entries
}

// dense fills the holes of a best-effort archive, or of one that was: what is
// before a row never got one, as rows are written in order; and when there is no
// row, everything. A required archive has a row for what is above the last one.
func (s *Store) dense(tl message.Timeline, entries []Entry, from, to uint64) []Entry {
	if len(entries) == 0 && s.ModeOf(tl) == Required {
		return nil
	}
	if n := len(entries); n > 0 && entries[n-1].Seq == from+uint64(n) {
		return entries
	}
	if len(entries) > 0 {
		to = entries[len(entries)-1].Seq
	}
	all := make([]Entry, 0, to-from)
	for seq := from + 1; seq <= to; seq++ {
		if len(entries) > 0 && entries[0].Seq == seq {
			all, entries = append(all, entries[0]), entries[1:]
			continue
		}
		all = append(all, Entry{Seq: seq, Gone: Lost})
	}
	return all
}

// hide takes out what the reader hid and what has expired.
func (s *Store) hide(ctx context.Context, r Reader, tl message.Timeline, entries []Entry, v view) error {
	now := s.nowMS()
	for i := range entries {
		if e := &entries[i]; e.Gone == Here && e.Message.Expired(now) {
			e.empty(Expired)
		}
	}
	if s.ModeOf(tl) == Off || r.Mid == 0 || len(entries) == 0 {
		return nil
	}
	first, last := entries[0].Seq, entries[len(entries)-1].Seq
	if first <= v.from || last > v.to {
		views, err := s.archive.Views(ctx, r.Mid, []ViewAsk{{tl, first - 1, last}})
		if err != nil {
			return fmt.Errorf("views of %d: %w", r.Mid, err)
		}
		v.hidden = views[0].Hidden
	}
	for _, seq := range v.hidden {
		if i := seq - first; i < uint64(len(entries)) && entries[i].Gone != Revoked {
			entries[i].empty(Hidden)
		}
	}
	return nil
}

// empty leaves what is harmless.
func (e *Entry) empty(why Gone) {
	m := &e.Message
	e.Gone, e.Message = why, message.Message{ID: m.ID, Kind: m.Kind, AcceptedMS: m.AcceptedMS}
}
