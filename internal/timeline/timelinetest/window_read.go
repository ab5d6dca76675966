package timelinetest

import (
	"context"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Read gives entries; see timeline.Window.
func (w *Window) Read(ctx context.Context, asks []timeline.WindowRead) (pages []timeline.WindowPage, err error) {
	err = w.call(ctx, "Read", func() {
		for _, ask := range asks {
			pages = append(pages, w.read(ask))
		}
	})
	if err != nil {
		return nil, err
	}
	return pages, nil
}

func (w *Window) read(ask timeline.WindowRead) timeline.WindowPage {
	page := timeline.WindowPage{WindowTop: w.topOf(ask.Timeline)}
	s := w.live(ask.Timeline)
	if s == nil || len(s.entries) == 0 {
		return page
	}
	page.First = s.entries[0].Seq
	bytes := 0
	for _, e := range s.entries {
		if e.Seq <= ask.From {
			continue
		}
		bytes += timeline.Weight(&e.Message)
		if len(page.Entries) > 0 && (len(page.Entries) >= ask.Entries || bytes > ask.Bytes) {
			break
		}
		page.Entries = append(page.Entries, e)
	}
	return page
}

func (w *Window) topOf(tl message.Timeline) timeline.WindowTop {
	s := w.live(tl)
	if s == nil {
		return timeline.WindowTop{Miss: true, Top: timeline.Top{Timeline: tl}}
	}
	return timeline.WindowTop{
		Top:  timeline.Top{Timeline: tl, Position: timeline.Position{Epoch: s.epoch, Seq: s.top}},
		Arch: s.arch, Floor: s.floor,
	}
}

// Tops are parallel to tls; see timeline.Window.
func (w *Window) Tops(ctx context.Context, tls []message.Timeline) (tops []timeline.WindowTop, err error) {
	err = w.call(ctx, "Tops", func() {
		for _, tl := range tls {
			tops = append(tops, w.topOf(tl))
		}
	})
	if err != nil {
		return nil, err
	}
	return tops, nil
}

// Find looks among the recent ids; see timeline.Window.
func (w *Window) Find(ctx context.Context, tl message.Timeline, id message.ID) (at timeline.Position, archived, found bool, err error) {
	err = w.call(ctx, "Find", func() {
		s := w.live(tl)
		if s == nil {
			return
		}
		if seq := s.byID(id); seq != 0 {
			at, archived, found = timeline.Position{Epoch: s.epoch, Seq: seq}, seq <= s.arch, true
		}
	})
	if err != nil {
		return timeline.Position{}, false, false, err
	}
	return at, archived, found, nil
}

// Revoke empties entries; see timeline.Window.
func (w *Window) Revoke(ctx context.Context, tl message.Timeline, epoch uint32, seqs []uint64) error {
	return w.call(ctx, "Revoke", func() {
		s := w.live(tl)
		if s == nil || s.epoch != epoch {
			return
		}
		for _, seq := range seqs {
			for i := range s.entries {
				if e := &s.entries[i]; e.Seq == seq && e.Gone == timeline.Here {
					s.bytes -= int64(timeline.Weight(&e.Message))
					e.Gone, e.Message = timeline.Revoked, tombstone(e.Message)
					s.bytes += int64(timeline.Weight(&e.Message))
				}
			}
		}
	})
}

// tombstone is what stays of a message that was taken away.
func tombstone(m message.Message) message.Message {
	return message.Message{ID: m.ID, Kind: m.Kind, AcceptedMS: m.AcceptedMS}
}

// RaiseFloor raises the floor and trims; see timeline.Window.
func (w *Window) RaiseFloor(ctx context.Context, tl message.Timeline, epoch uint32, floor uint64) error {
	return w.call(ctx, "RaiseFloor", func() {
		s := w.live(tl)
		if s == nil || s.epoch != epoch {
			return
		}
		end := s.top
		if s.mode == timeline.Required {
			end = s.arch
		}
		s.floor = max(s.floor, min(floor, end))
		for len(s.entries) > 0 && s.entries[0].Seq <= s.floor {
			s.drop()
		}
	})
}

// Advance raises cursors; see timeline.Window.
func (w *Window) Advance(ctx context.Context, mid int64, to, seeds []timeline.UserCursor) (known []timeline.KnownCursor, err error) {
	err = w.call(ctx, "Advance", func() {
		if w.cursors[mid] == nil {
			w.cursors[mid] = map[message.Timeline]timeline.UserCursor{}
		}
		mine := w.cursors[mid]
		for _, seed := range seeds {
			if _, ok := mine[seed.Timeline]; !ok {
				mine[seed.Timeline] = seed
			}
		}
		for _, c := range to {
			old, ok := mine[c.Timeline]
			if !ok {
				known = append(known, timeline.KnownCursor{UserCursor: timeline.UserCursor{Timeline: c.Timeline}})
				continue
			}
			next := Raised(old, c)
			mine[c.Timeline] = next
			known = append(known, timeline.KnownCursor{UserCursor: next, Known: true, Moved: next != old})
		}
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}

// Raised is what a cursor becomes.
func Raised(old, to timeline.UserCursor) timeline.UserCursor {
	if old.Epoch != to.Epoch {
		return to
	}
	to.Acked, to.Read = max(to.Acked, old.Acked), max(to.Read, old.Read)
	return to
}

// Cursors are parallel to tls; see timeline.Window.
func (w *Window) Cursors(ctx context.Context, mid int64, tls []message.Timeline) (known []timeline.KnownCursor, err error) {
	err = w.call(ctx, "Cursors", func() {
		for _, tl := range tls {
			c, ok := w.cursors[mid][tl]
			c.Timeline = tl
			known = append(known, timeline.KnownCursor{UserCursor: c, Known: ok})
		}
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}
