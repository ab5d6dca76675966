package timelinetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// anyCursor is a good one mostly, else below the floor, ahead, or of another
// epoch.
func (m *model) anyCursor(tl message.Timeline) timeline.Cursor {
	top := m.lists[tl].top()
	c := timeline.Cursor{Timeline: tl, Epoch: 1, After: m.r.Uint64N(top + 1)}
	switch m.r.IntN(12) {
	case 0:
		c.After = top + 1 + m.r.Uint64N(5)
	case 1:
		c.After = 1<<64 - 1 - m.r.Uint64N(3)
	case 2:
		c.Epoch = m.r.Uint32N(4)
	case 3:
		c.Epoch, c.After = 0, 0
	case 4:
		c.After = top
	default:
		c.After = max(c.After, top-min(top, m.r.Uint64N(60)))
	}
	return c
}

func (m *model) page() {
	tl := m.anyTimeline()
	r, c := m.anyReader(tl), m.anyCursor(tl)
	l := timeline.Limit{Entries: m.r.IntN(30) - 2}
	if m.r.IntN(4) == 0 {
		l.Bytes = m.r.IntN(1500)
	}
	pages, err := m.store.Page(m.ctx, r, []timeline.Cursor{c}, l)
	if m.check(err, "page") {
		m.comparePage(r, c, l, pages[0])
	}
}

func (m *model) comparePage(r timeline.Reader, c timeline.Cursor, l timeline.Limit, p timeline.Page) {
	what := fmt.Sprintf("page of %s for %d after %d/%d, limit %v", c.Timeline, r.Mid, c.Epoch, c.After, l)
	list, u := m.lists[c.Timeline], m.users[userTimeline{r.Mid, c.Timeline}]
	top := list.top()
	fresh := c.Epoch == 0 && c.After == 0
	reset := !fresh && c.Epoch != 1 && (top > 0 || p.Epoch == 1)
	if !fresh && !reset && c.After > top {
		if !errors.Is(p.Err, timeline.ErrBehind) {
			m.fail("%s: %+v, the cursor is ahead", what, p)
		}
		return
	}
	if top == 0 && errors.Is(p.Err, timeline.ErrBehind) && c.After > 0 { // no row, and the epoch is not known
		return
	}
	after := c.After
	if reset {
		after = 0
	}
	from := max(after, list.floor, u.cleared)
	n := l.Entries
	if n <= 0 || n > timeline.MaxPageEntries {
		n = timeline.MaxPageEntries
	}
	want := m.as(r.Mid, c.Timeline, from, min(top, from+uint64(n)))
	if p.Err != nil || p.Reset != reset || p.Top != top || p.Floor != list.floor || p.Truncated != (after < list.floor) || top > 0 && p.Epoch != 1 {
		m.fail("%s: %+v; top %d, floor %d, reset %v", what, p, top, list.floor, reset)
		return
	}
	m.sameEntries(what, p.Entries, want, false)
	m.bounded(what, p.Entries, l.Bytes)
	next := from
	if len(p.Entries) > 0 {
		next = p.Entries[len(p.Entries)-1].Seq
	}
	if p.Next != next || p.HasMore != (next < top) {
		m.fail("%s: next %d, more %v; it is %d of %d", what, p.Next, p.HasMore, next, top)
	}
}

// bounded: a store may count an entry a little differently.
func (m *model) bounded(what string, entries []timeline.Entry, limit int) {
	size := 0
	for i := range entries {
		size += timeline.Weight(&entries[i].Message)
	}
	if limit > 0 && len(entries) > 1 && size > limit+limit/2 {
		m.fail("%s: %d bytes in %d entries, the limit is %d", what, size, len(entries), limit)
	}
}

// walk reads the end of a timeline by small pages.
func (m *model) walk() {
	tl := m.anyTimeline()
	r := m.anyReader(tl)
	top := m.lists[tl].top()
	c := timeline.Cursor{Timeline: tl, Epoch: 1, After: top - min(top, 600)}
	if c.After == 0 {
		c.Epoch = 0
	}
	start := c.After
	var got []timeline.Entry
	for range top - start + 2 {
		pages, err := m.store.Page(m.ctx, r, []timeline.Cursor{c}, timeline.Limit{Entries: 1 + m.r.IntN(150)})
		if !m.check(err, "walk") {
			return
		}
		p := pages[0]
		got = append(got, p.Entries...)
		if c.Epoch, c.After = p.Epoch, p.Next; !p.HasMore {
			break
		}
	}
	from := max(start, m.lists[tl].floor, m.users[userTimeline{r.Mid, tl}].cleared)
	want := m.as(r.Mid, tl, from, top)
	if len(got) != len(want) {
		m.fail("walk of %s: %d entries, not %d", tl, len(got), len(want))
		return
	}
	m.sameEntries("walk", got, want, false)
}

func (m *model) history() {
	tl := m.anyTimeline()
	r := m.anyReader(tl)
	list := m.lists[tl]
	top := list.top()
	low := max(list.floor, m.users[userTimeline{r.Mid, tl}].cleared)
	p := timeline.Part{Timeline: tl, At: timeline.At(m.r.IntN(3)), Seq: m.r.Uint64N(top + 4)}
	n := 1 + m.r.Uint64N(20)
	limit := timeline.Limit{Entries: int(n), Bytes: 300 + m.r.IntN(3000)}
	page, err := m.store.History(m.ctx, r, p, limit)
	if !m.check(err, "history") {
		return
	}
	var from uint64
	to := top
	switch p.At {
	case timeline.After:
		from = min(max(p.Seq, low), top)
		to = min(top, from+n)
	case timeline.Around:
		to = max(min(top, p.Seq+n/2), low)
		from = max(low, to-min(n, to))
	default:
		if p.Seq > 0 {
			to = max(min(top, p.Seq-1), low)
		}
		from = max(low, to-min(n, to))
	}
	what := fmt.Sprintf("history of %s %+v limit %d", tl, p, n)
	if page.Err != nil || page.Top != top || page.Floor != list.floor {
		m.fail("%s: %+v", what, page)
		return
	}
	m.bounded(what, page.Entries, limit.Bytes)
	m.sameEntries(what, page.Entries, m.as(r.Mid, tl, from, to), p.At != timeline.After)
	if m.err != nil || len(page.Entries) == 0 {
		return
	}
	more := page.Entries[0].Seq-1 > low
	if p.At == timeline.After {
		more = page.Next < top
	} else if page.Next != to {
		m.fail("%s ends at %d, not at %d", what, page.Next, to)
	}
	if page.HasMore != more {
		m.fail("%s: more %v", what, page.HasMore)
	}
}

func (m *model) tops() {
	tops, err := m.store.Tops(m.ctx, m.tls)
	if !m.check(err, "tops") {
		return
	}
	for i, top := range tops {
		if l := m.lists[m.tls[i]]; top.Seq != l.top() || top.Timeline != m.tls[i] || l.top() > 0 && top.Epoch != 1 {
			m.fail("top %+v, it is %d", top, l.top())
		}
	}
}

func (m *model) find() {
	if len(m.log) == 0 {
		return
	}
	rec := m.log[len(m.log)-1-m.r.IntN(min(len(m.log), 400))]
	tl := m.anyTimeline()
	at, kept, err := m.store.Find(m.ctx, tl, rec.Message.ID)
	seq := uint64(0)
	for i, e := range m.lists[tl].entries {
		if e.Message.ID == rec.Message.ID {
			seq = uint64(i + 1) // the last, should it be there twice
		}
	}
	if seq == 0 || seq <= m.lists[tl].floor {
		if seq == 0 && !errors.Is(err, timeline.ErrNotFound) {
			m.fail("find in %s: %+v, %v", tl, at, err)
		}
		return
	}
	waits := slices.ContainsFunc(m.queue, func(p timeline.Positioned) bool {
		return slices.ContainsFunc(p.Places, func(p timeline.Place) bool { return p.Timeline == tl && p.Seq == seq })
	})
	if err != nil || at.Epoch != 1 || m.lists[tl].entries[at.Seq-1].Message.ID != rec.Message.ID || kept != !waits {
		m.fail("find %d in %s: %+v, kept %v, %v; it waits: %v", seq, tl, at, kept, err, waits)
	}
}

// moved is what an ack or a read mark does.
func (m *model) moved(mid int64, c timeline.Cursor, read bool) (u *user, moved bool) {
	u = m.users[userTimeline{mid, c.Timeline}]
	top := m.lists[c.Timeline].top()
	if c.Epoch != 1 || top == 0 {
		return u, false
	}
	seq := min(c.After, top)
	acked, mark := max(u.acked, seq), u.read
	if read {
		mark = max(mark, seq)
	}
	moved = acked != u.acked || mark != u.read || !u.known
	u.acked, u.read, u.known = acked, mark, true
	return u, moved
}

func (m *model) ack() {
	tl := m.anyTimeline()
	r, c := m.anyReader(tl), m.anyCursor(tl)
	got, err := m.store.Ack(m.ctx, r, []timeline.Cursor{c})
	if !m.check(err, "ack") {
		return
	}
	u, moved := m.moved(r.Mid, c, false)
	if m.lost {
		return // cursors may have gone back: redelivery only
	}
	if got[0].Moved && !moved || moved && got[0].Acked != u.acked {
		m.fail("ack %+v: %+v; %d, moved %v", c, got[0], u.acked, moved)
	}
}

func (m *model) readMark() {
	tl := m.anyTimeline()
	r, c := m.anyReader(tl), m.anyCursor(tl)
	got, err := m.store.Read(m.ctx, r, c)
	if !m.check(err, "read mark") {
		return
	}
	u, moved := m.moved(r.Mid, c, true)
	if m.lost {
		return
	}
	if got.Moved && !moved || moved && (got.Acked != u.acked || got.Read != u.read || got.Unread != m.unread(r.Mid, tl)) {
		m.fail("read %+v: %+v; acked %d, read %d, moved %v, unread %d", c, got, u.acked, u.read, moved, m.unread(r.Mid, tl))
	}
}

func (m *model) unread(mid int64, tl message.Timeline) (n int) {
	u, l := m.users[userTimeline{mid, tl}], m.lists[tl]
	from := min(max(u.read, u.cleared, l.floor), l.top())
	for _, e := range m.as(mid, tl, from, l.top()) {
		if e.Gone == timeline.Here && e.Message.Flags.Has(message.Unread) && e.Message.Sender != mid {
			n++
		}
	}
	return min(n, timeline.MaxUnread)
}

func (m *model) cursors() {
	tl := m.tls[2]
	r := m.anyReader(tl)
	tls := []message.Timeline{tl, message.Inbox(r.Mid)}
	got, err := m.store.Cursors(m.ctx, r, tls)
	if !m.check(err, "cursors") {
		return
	}
	for i, s := range got {
		u := m.users[userTimeline{r.Mid, tls[i]}]
		if m.lost && s.Acked <= u.acked && s.Read <= u.read {
			continue
		}
		if s.Acked != u.acked || s.Read != u.read || s.Unread != m.unread(r.Mid, tls[i]) {
			m.fail("cursor of %d in %s: %+v; %d, %d, unread %d", r.Mid, tls[i], s, u.acked, u.read, m.unread(r.Mid, tls[i]))
		}
	}
}

func (m *model) hide() {
	tl := m.anyTimeline()
	r := m.anyReader(tl)
	top := m.lists[tl].top()
	var seqs []uint64
	for range 1 + m.r.IntN(4) {
		seqs = append(seqs, m.r.Uint64N(top+3))
	}
	if m.check(m.store.Hide(m.ctx, r, tl, seqs), "hide") {
		for _, seq := range seqs {
			if seq <= top {
				m.users[userTimeline{r.Mid, tl}].hidden[seq] = true
			}
		}
	}
}

// revoke takes an archived one; others would be waited for.
func (m *model) revoke() {
	m.archive(len(m.queue))
	tl := m.anyTimeline()
	l := m.lists[tl]
	seq := m.r.Uint64N(l.top() + 2)
	e, err := m.store.Revoke(m.ctx, tl, seq, 9)
	if seq == 0 || seq > l.top() || seq <= l.floor {
		if !errors.Is(err, timeline.ErrNotFound) {
			m.fail("revoke %s %d: %v", tl, seq, err)
		}
		return
	}
	old := &l.entries[seq-1]
	if !m.check(err, "revoke") || e.Message.ID != old.Message.ID || e.Gone != timeline.Revoked {
		m.fail("revoke %s %d: %+v", tl, seq, e)
	}
	old.Gone = timeline.Revoked
}

func (m *model) clear() {
	tl := m.anyTimeline()
	r := m.anyReader(tl)
	u, top := m.users[userTimeline{r.Mid, tl}], m.lists[tl].top()
	upTo := m.r.Uint64N(top/2 + 1)
	if m.check(m.store.Clear(m.ctx, r, tl, upTo), "clear") {
		u.cleared = max(u.cleared, upTo)
	}
}

func (m *model) retain() {
	m.archive(len(m.queue))
	tl := m.anyTimeline()
	l := m.lists[tl]
	if l.top() < 60 {
		return
	}
	floor := max(l.floor, l.top()-40-m.r.Uint64N(20))
	for more := true; more; {
		var err error
		if more, err = m.Archive.Retain(m.ctx, tl, floor); !m.check(err, "retain") {
			return
		}
	}
	if m.check(m.Window.RaiseFloor(m.ctx, tl, 1, floor), "raise floor") {
		l.floor = floor
	}
}

// forbidden: an inbox is its owner's, a room is for who is in it.
func (m *model) forbidden() {
	tl := m.anyTimeline()
	r := timeline.Reader{Mid: m.mids[1] + 1}
	pages, err := m.store.Page(m.ctx, r, []timeline.Cursor{{Timeline: tl}}, timeline.Limit{})
	if !m.check(err, "page of a stranger") || !errors.Is(pages[0].Err, timeline.ErrForbidden) || pages[0].Entries != nil {
		m.fail("%s for a stranger: %+v", tl, pages)
	}
	ack := timeline.Cursor{Timeline: tl, Epoch: 1, After: 1}
	if got, err := m.store.Ack(m.ctx, r, []timeline.Cursor{ack}); err != nil || got[0].Moved {
		m.fail("ack of a stranger: %+v, %v", got, err)
	}
	if _, err := m.store.Read(m.ctx, r, m.anyCursor(tl)); !errors.Is(err, timeline.ErrForbidden) {
		m.fail("read mark of a stranger: %v", err)
	}
}
