package timelinetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// SaveCursors raises stored cursors; see timeline.UserArchive.
func (a *Archive) SaveCursors(ctx context.Context, cursors map[int64][]timeline.UserCursor) error {
	return a.call(ctx, "SaveCursors", func() error {
		for mid, list := range cursors {
			for _, c := range list {
				at := userTimeline{mid, c.Timeline}
				if old, ok := a.cursors[at]; ok {
					c = Raised(old, c)
				}
				a.cursors[at] = c
			}
		}
		return nil
	})
}

// Cursors are parallel to tls; see timeline.UserArchive.
func (a *Archive) Cursors(ctx context.Context, mid int64, tls []message.Timeline) (cursors []timeline.UserCursor, err error) {
	err = a.call(ctx, "Cursors", func() error {
		cursors = make([]timeline.UserCursor, len(tls))
		for i, tl := range tls {
			cursors[i] = a.cursors[userTimeline{mid, tl}]
			cursors[i].Timeline = tl
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return cursors, nil
}

// Hide hides positions; see timeline.UserArchive.
func (a *Archive) Hide(ctx context.Context, mid int64, tl message.Timeline, seqs []uint64) error {
	return a.call(ctx, "Hide", func() error {
		at := userTimeline{mid, tl}
		if a.hidden[at] == nil {
			a.hidden[at] = map[uint64]bool{}
		}
		for _, seq := range seqs {
			a.hidden[at][seq] = true
		}
		return nil
	})
}

// Revoke makes a tombstone; see timeline.UserArchive.
func (a *Archive) Revoke(ctx context.Context, tl message.Timeline, seq uint64, _ int64, _ int64) error {
	return a.call(ctx, "Revoke", func() error {
		r, ok := a.find(tl, seq)
		if !ok {
			return timeline.ErrNotFound
		}
		r.Gone, r.Message = timeline.Revoked, tombstone(r.Message)
		return nil
	})
}

// Find returns the row of an id; see timeline.UserArchive.
func (a *Archive) Find(ctx context.Context, tl message.Timeline, id message.ID) (e timeline.Entry, err error) {
	err = a.call(ctx, "Find", func() error {
		if t := a.rows[tl]; t != nil {
			for _, r := range t.rows {
				if r.Message.ID == id {
					e = r.Entry
					return nil
				}
			}
		}
		return timeline.ErrNotFound
	})
	return e, err
}

// Clear raises Range.Min; see timeline.UserArchive.
func (a *Archive) Clear(ctx context.Context, mid int64, tl message.Timeline, upTo uint64) error {
	return a.call(ctx, "Clear", func() error {
		at := userTimeline{mid, tl}
		r := a.ranges[at]
		r.Min = max(r.Min, upTo)
		a.ranges[at] = r
		return nil
	})
}

// Range of mid in tl; see timeline.UserArchive.
func (a *Archive) Range(ctx context.Context, mid int64, tl message.Timeline) (r timeline.Range, err error) {
	err = a.call(ctx, "Range", func() error {
		r = a.ranges[userTimeline{mid, tl}]
		return nil
	})
	return r, err
}

// Views are what mid may see; see timeline.UserArchive.
func (a *Archive) Views(ctx context.Context, mid int64, asks []timeline.ViewAsk) (views []timeline.View, err error) {
	err = a.call(ctx, "Views", func() error {
		views = make([]timeline.View, len(asks))
		for i, ask := range asks {
			at := userTimeline{mid, ask.Timeline}
			_, member := a.members[ask.Timeline][mid]
			views[i] = timeline.View{Range: a.ranges[at], Member: member}
			for _, seq := range slices.Sorted(maps.Keys(a.hidden[at])) {
				if seq > ask.From && seq <= ask.To {
					views[i].Hidden = append(views[i].Hidden, seq)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return views, nil
}

// Retain deletes old rows; see timeline.UserArchive.
func (a *Archive) Retain(ctx context.Context, tl message.Timeline, floor uint64) (more bool, err error) {
	err = a.call(ctx, "Retain", func() error {
		t := a.rows[tl]
		if t == nil || len(t.rows) == 0 {
			return nil
		}
		floor = min(floor, t.rows[len(t.rows)-1].Seq)
		t.floor = max(t.floor, floor)
		gone := min(t.search(floor+1), max(0, len(t.rows)-timeline.Recent(tl)))
		if more = gone > timeline.MaxWriteRows; more {
			gone = timeline.MaxWriteRows
		}
		t.rows = slices.Delete(t.rows, 0, gone)
		for i := range t.rows[:t.search(floor+1)] {
			t.rows[i].Message.Body = nil
		}
		return nil
	})
	return more, err
}

// Older lists timelines with old rows; see timeline.UserArchive.
func (a *Archive) Older(ctx context.Context, after message.Timeline, beforeMS int64, limit int) (tops []timeline.Top, err error) {
	err = a.call(ctx, "Older", func() error {
		for _, tl := range slices.Sorted(maps.Keys(a.rows)) {
			seq := uint64(0)
			for _, r := range a.rows[tl].rows {
				if r.Seq > a.rows[tl].floor && r.Message.AcceptedMS < beforeMS {
					seq = r.Seq
				}
			}
			if tl > after && seq > 0 && len(tops) < limit {
				tops = append(tops, timeline.Top{Timeline: tl, Position: timeline.Position{Epoch: a.rows[tl].epoch, Seq: seq}})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tops, nil
}

// errFull is the refusal of too many members.
var errFull = errors.New("too many members")

// Join adds members; see timeline.MemberArchive.
func (a *Archive) Join(ctx context.Context, tl message.Timeline, members []timeline.Member, history bool, limit int) error {
	return a.call(ctx, "Join", func() error {
		fresh := 0
		for _, m := range members {
			if _, ok := a.members[tl][m.Mid]; !ok {
				fresh++
			}
		}
		if len(a.members[tl])+fresh > limit {
			return errFull
		}
		if a.members[tl] == nil {
			a.members[tl] = map[int64]timeline.Member{}
		}
		for _, m := range members {
			at := userTimeline{m.Mid, tl}
			if old, ok := a.members[tl][m.Mid]; ok {
				m.JoinedSeq = old.JoinedSeq
			} else if _, was := a.ranges[at]; was || !history {
				a.ranges[at] = timeline.Range{Min: m.JoinedSeq}
			}
			a.members[tl][m.Mid] = m
		}
		return nil
	})
}

// Leave removes members; see timeline.MemberArchive.
func (a *Archive) Leave(ctx context.Context, tl message.Timeline, mids []int64, top uint64) error {
	return a.call(ctx, "Leave", func() error {
		for _, mid := range mids {
			if _, ok := a.members[tl][mid]; !ok {
				continue
			}
			delete(a.members[tl], mid)
			at := userTimeline{mid, tl}
			r := a.ranges[at]
			// Max 0 would be "no end": one who leaves an empty room may see nothing.
			r.Max = max(top, 1)
			if top == 0 {
				r.Min = 1
			}
			a.ranges[at] = r
		}
		return nil
	})
}

// Member is one member; see timeline.MemberArchive.
func (a *Archive) Member(ctx context.Context, tl message.Timeline, mid int64) (m timeline.Member, err error) {
	err = a.call(ctx, "Member", func() error {
		var ok bool
		if m, ok = a.members[tl][mid]; !ok {
			return timeline.ErrNotFound
		}
		return nil
	})
	return m, err
}

// Members lists by mid; see timeline.MemberArchive.
func (a *Archive) Members(ctx context.Context, tl message.Timeline, after int64, limit int) (members []timeline.Member, err error) {
	err = a.call(ctx, "Members", func() error {
		for _, mid := range slices.Sorted(maps.Keys(a.members[tl])) {
			if mid > after && len(members) < limit {
				members = append(members, a.members[tl][mid])
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return members, nil
}

// Rooms lists by timeline; see timeline.MemberArchive.
func (a *Archive) Rooms(ctx context.Context, mid int64, after message.Timeline, limit int) (rooms []timeline.Membership, err error) {
	err = a.call(ctx, "Rooms", func() error {
		for tl, members := range a.members {
			if m, ok := members[mid]; ok && tl > after {
				rooms = append(rooms, timeline.Membership{Timeline: tl, Role: m.Role, Range: a.ranges[userTimeline{mid, tl}]})
			}
		}
		slices.SortFunc(rooms, func(x, y timeline.Membership) int { return strings.Compare(string(x.Timeline), string(y.Timeline)) })
		rooms = rooms[:min(len(rooms), limit)]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rooms, nil
}
