package timelinetest

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Archive is a timeline.Archive in memory.
type Archive struct {
	mu      sync.Mutex
	folds   map[int32]standing
	rows    map[message.Timeline]*rows
	cursors map[userTimeline]timeline.UserCursor
	hidden  map[userTimeline]map[uint64]bool
	ranges  map[userTimeline]timeline.Range
	members map[message.Timeline]map[int64]timeline.Member
	fault   Fault
	without Without
	onWrite func([]timeline.Row)
}

var _ timeline.Archive = (*Archive)(nil)

type standing struct {
	log        string
	generation uint32
	fence      timeline.Fence
}

type userTimeline struct {
	mid int64
	tl  message.Timeline
}

// rows are one timeline, sorted by seq. BestEffort leaves holes.
type rows struct {
	epoch uint32
	mode  timeline.Mode
	floor uint64
	rows  []row
}

type row struct {
	timeline.Entry
	epoch uint32
}

// NewArchive is an empty archive.
func NewArchive() *Archive {
	return &Archive{
		folds:   map[int32]standing{},
		rows:    map[message.Timeline]*rows{},
		cursors: map[userTimeline]timeline.UserCursor{},
		hidden:  map[userTimeline]map[uint64]bool{},
		ranges:  map[userTimeline]timeline.Range{},
		members: map[message.Timeline]map[int64]timeline.Member{},
	}
}

// SetFault makes calls fail; nil ends it.
func (a *Archive) SetFault(f Fault) { a.locked(func() { a.fault = f }) }

// SwitchOff switches rules off.
func (a *Archive) SwitchOff(o Without) { a.locked(func() { a.without = o }) }

// OnWrite sees the rows of every Write that was done, under the lock.
func (a *Archive) OnWrite(f func([]timeline.Row)) { a.locked(func() { a.onWrite = f }) }

func (a *Archive) locked(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *Archive) call(ctx context.Context, method string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault != nil {
		if applied, err := a.fault(method); err != nil {
			if applied {
				_ = f()
			}
			return fmt.Errorf("%s: %w", method, err)
		}
	}
	return f()
}

// Ping fails only by a Fault.
func (a *Archive) Ping(ctx context.Context) error {
	return a.call(ctx, "Ping", func() error { return nil })
}

// Close does nothing.
func (a *Archive) Close() error { return nil }

// TakeFence begins the life of a worker; see timeline.FoldArchive.
func (a *Archive) TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (f timeline.Fence, err error) {
	err = a.call(ctx, "TakeFence", func() error {
		s, ok := a.folds[p.Number]
		switch {
		case !ok || p.Generation > s.generation:
			f = timeline.Fence{Owner: owner}
		case p.Generation < s.generation || p.Log != s.log:
			return timeline.ErrLogChanged
		case owner > s.fence.Owner:
			f = timeline.Fence{Owner: owner}
		case owner == s.fence.Owner || over != nil && *over == s.fence:
			f = timeline.Fence{Owner: s.fence.Owner, Rewinds: s.fence.Rewinds + 1}
		default:
			return &timeline.StaleFence{Stands: s.fence}
		}
		a.folds[p.Number] = standing{p.Log, p.Generation, f}
		return nil
	})
	return f, err
}

// RaiseFence begins the next life of a worker; see timeline.FoldArchive.
func (a *Archive) RaiseFence(ctx context.Context, p timeline.Partition, f timeline.Fence) (next timeline.Fence, err error) {
	err = a.call(ctx, "RaiseFence", func() error {
		if err := a.stands(p, f); err != nil {
			return err
		}
		next = timeline.Fence{Owner: f.Owner, Rewinds: f.Rewinds + 1}
		a.folds[p.Number] = standing{p.Log, p.Generation, next}
		return nil
	})
	return next, err
}

func (a *Archive) stands(p timeline.Partition, f timeline.Fence) error {
	if a.without.Fence {
		return nil
	}
	s := a.folds[p.Number]
	if s.log != p.Log || s.generation != p.Generation {
		return timeline.ErrLogChanged
	}
	if s.fence != f {
		return &timeline.StaleFence{Stands: s.fence}
	}
	return nil
}

// Write makes rows durable; see timeline.FoldArchive.
func (a *Archive) Write(ctx context.Context, p timeline.Partition, f timeline.Fence, batch []timeline.Row) (skipped int, err error) {
	if len(batch) > timeline.MaxWriteRows {
		return 0, fmt.Errorf("write of %d rows", len(batch))
	}
	err = a.call(ctx, "Write", func() error {
		if err := a.stands(p, f); err != nil {
			return err
		}
		skipped = 0
		for i := range batch {
			if old, ok := a.find(batch[i].Timeline, batch[i].Seq); ok && old.Message.ID != batch[i].Message.ID {
				if batch[i].Mode == timeline.Required {
					return &timeline.Conflict{Timeline: batch[i].Timeline, Seq: batch[i].Seq, Stands: old.Message.ID, Refused: batch[i].Message.ID}
				}
				skipped++
			}
		}
		for i := range batch {
			a.put(&batch[i])
		}
		if a.onWrite != nil {
			a.onWrite(batch)
		}
		return nil
	})
	return skipped, err
}

func (a *Archive) put(r *timeline.Row) {
	t := a.rows[r.Timeline]
	if t == nil {
		t = &rows{}
		a.rows[r.Timeline] = t
	}
	t.epoch, t.mode = r.Epoch, r.Mode
	i := t.search(r.Seq)
	if i < len(t.rows) && t.rows[i].Seq == r.Seq {
		return
	}
	t.rows = slices.Insert(t.rows, i, row{timeline.Entry{Seq: r.Seq, At: r.At, Message: *r.Message}, r.Epoch})
}

// search is the index of the first row at or above seq.
func (t *rows) search(seq uint64) int {
	return sort.Search(len(t.rows), func(i int) bool { return t.rows[i].Seq >= seq })
}

func (a *Archive) find(tl message.Timeline, seq uint64) (*row, bool) {
	t := a.rows[tl]
	if t == nil {
		return nil, false
	}
	i := t.search(seq)
	if i == len(t.rows) || t.rows[i].Seq != seq {
		return nil, false
	}
	return &t.rows[i], true
}

// Load returns seeds; see timeline.FoldArchive.
func (a *Archive) Load(ctx context.Context, p timeline.Partition, f timeline.Fence, tls []message.Timeline) (seeds []timeline.Seed, err error) {
	err = a.call(ctx, "Load", func() error {
		if err := a.stands(p, f); err != nil {
			return err
		}
		seeds = make([]timeline.Seed, len(tls))
		for i, tl := range tls {
			t := a.rows[tl]
			if t == nil {
				continue
			}
			seeds[i] = timeline.Seed{Epoch: t.epoch, Mode: t.mode, Floor: t.floor}
			if n := len(t.rows); n > 0 {
				seeds[i].Top, seeds[i].Off = t.rows[n-1].Seq, t.rows[n-1].At
				for _, r := range t.rows[max(0, n-timeline.Recent(tl)):] {
					seeds[i].IDs = append(seeds[i].IDs, timeline.RecentID{ID: r.Message.ID, Seq: r.Seq})
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return seeds, nil
}

// Rows is everything that the archive has of a timeline, for tests to compare.
func (a *Archive) Rows(tl message.Timeline) []timeline.Entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rows[tl] == nil {
		return nil
	}
	var all []timeline.Entry
	for _, r := range a.rows[tl].rows {
		all = append(all, r.Entry)
	}
	return all
}

// Read returns rows; see timeline.ReadArchive.
func (a *Archive) Read(ctx context.Context, mid int64, ask timeline.ArchiveRead) (entries []timeline.Entry, err error) {
	err = a.call(ctx, "Read", func() error {
		t := a.rows[ask.Timeline]
		if t == nil || ask.To <= ask.From {
			return nil
		}
		part := t.rows[t.search(ask.From+1):t.search(ask.To+1)]
		bytes := 0
		for i := range part {
			r := part[i]
			if ask.Backwards {
				r = part[len(part)-1-i]
			}
			bytes += timeline.Weight(&r.Message)
			if len(entries) > 0 && (len(entries) >= ask.Entries || bytes > ask.Bytes) {
				break
			}
			e := r.Entry
			if e.Gone == timeline.Here && a.hidden[userTimeline{mid, ask.Timeline}][e.Seq] {
				e.Gone, e.Message = timeline.Hidden, tombstone(e.Message)
			}
			entries = append(entries, e)
		}
		if ask.Backwards {
			slices.Reverse(entries)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Tops are parallel to tls; see timeline.ReadArchive.
func (a *Archive) Tops(ctx context.Context, tls []message.Timeline) (tops []timeline.ArchiveTop, err error) {
	err = a.call(ctx, "Tops", func() error {
		tops = make([]timeline.ArchiveTop, len(tls))
		for i, tl := range tls {
			tops[i].Timeline = tl
			if t := a.rows[tl]; t != nil && len(t.rows) > 0 {
				tops[i].Position = timeline.Position{Epoch: t.epoch, Seq: t.rows[len(t.rows)-1].Seq}
				tops[i].Mode, tops[i].Floor = t.mode, t.floor
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return tops, nil
}

// CountUnread counts rows; see timeline.ReadArchive.
func (a *Archive) CountUnread(ctx context.Context, mid int64, tl message.Timeline, from, to uint64, nowMS int64) (n int, err error) {
	err = a.call(ctx, "CountUnread", func() error {
		t := a.rows[tl]
		if t == nil || to <= from {
			return nil
		}
		for _, r := range t.rows[t.search(from+1):t.search(to+1)] {
			m := &r.Message
			if n < timeline.MaxUnread && r.Gone == timeline.Here && m.Flags.Has(message.Unread) && m.Sender != mid &&
				!m.Expired(nowMS) && !a.hidden[userTimeline{mid, tl}][r.Seq] {
				n++
			}
		}
		return nil
	})
	return n, err
}
