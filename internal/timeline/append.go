package timeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/internal/message"
)

// TakeFence begins the life of a worker: the fence first, so that nothing that
// was numbered under an earlier incarnation can be written any more, then the
// incarnation.
func (s *Store) TakeFence(ctx context.Context, p Partition, owner uint64, over *Fence) (Fold, error) {
	f := Fold{Partition: p}
	var err error
	if s.archive != nil {
		if f.Fence, err = s.archive.TakeFence(ctx, p, owner, over); err != nil {
			return Fold{}, fmt.Errorf("take the fence of partition %d: %w", p.Number, err)
		}
	}
	return s.withIncarnation(ctx, f)
}

// RaiseFence begins the next life of the same worker.
func (s *Store) RaiseFence(ctx context.Context, f Fold) (Fold, error) {
	var err error
	if s.archive != nil {
		if f.Fence, err = s.archive.RaiseFence(ctx, f.Partition, f.Fence); err != nil {
			return Fold{}, fmt.Errorf("raise the fence of partition %d: %w", f.Partition.Number, err)
		}
	}
	return s.withIncarnation(ctx, f)
}

func (s *Store) withIncarnation(ctx context.Context, f Fold) (Fold, error) {
	var err error
	if f.Incarnation, err = s.window.Incarnation(ctx); err != nil {
		return Fold{}, fmt.Errorf("incarnation of the window: %w", err)
	}
	return f, nil
}

// appendRounds bounds how often one Append asks the window: once, with seeds,
// with arch raised, and once more when a seed was too old.
const appendRounds = 5

var errUnsettled = errors.New("timeline: the window asks again and again for the archive's state")

// appending is one timeline of a batch.
type appending struct {
	ask    WindowAppend
	places []place // parallel to all records of the timeline
	got    []Appended
	full   bool // and asked again with arch raised
	asked  bool
}

// place is where a verdict belongs in the result.
type place struct{ record, timeline int }

// Append gives positions to the records of a batch; see logic.Folding.
func (s *Store) Append(ctx context.Context, b Batch) (BatchResult, error) {
	all := s.group(&b)
	waiting := all
	for range appendRounds {
		var err error
		if waiting, err = s.appendOnce(ctx, b.Fold, waiting); err != nil {
			return BatchResult{}, fmt.Errorf("append to partition %d: %w", b.Fold.Partition.Number, err)
		}
		if len(waiting) == 0 {
			return s.result(&b, all), nil
		}
	}
	return BatchResult{}, fmt.Errorf("append to partition %d: %w", b.Fold.Partition.Number, errUnsettled)
}

// group sorts the records by timeline; within one they stay in order.
func (s *Store) group(b *Batch) []*appending {
	var all []*appending
	index := map[message.Timeline]*appending{}
	for i := range b.Records {
		r := &b.Records[i]
		pending := Pending{At: Offset{b.Fold.Partition.Generation, r.Offset}, Message: &r.Message}
		for j, tl := range r.Timelines {
			a := index[tl]
			if a == nil {
				a = &appending{ask: WindowAppend{Timeline: tl, Mode: s.ModeOf(tl), Keep: s.keepOf(tl)}}
				index[tl] = a
				all = append(all, a)
			}
			a.ask.Records = append(a.ask.Records, pending)
			a.places = append(a.places, place{i, j})
		}
	}
	return all
}

// appendOnce asks the window and returns what has to be asked again, with
// what it needs for that.
func (s *Store) appendOnce(ctx context.Context, f Fold, asking []*appending) ([]*appending, error) {
	if len(asking) == 0 {
		return nil, ctx.Err()
	}
	asks := make([]WindowAppend, len(asking))
	for i, a := range asking {
		asks[i] = a.ask
	}
	results, err := s.window.Append(ctx, f.Incarnation, asks)
	if err != nil {
		return nil, err
	}
	if len(results) != len(asks) {
		return nil, fmt.Errorf("%d results for %d timelines", len(results), len(asks))
	}
	var reload, full []*appending
	for i, r := range results {
		a := asking[i]
		a.got = append(a.got, r.Verdicts...)
		a.ask.Records = a.ask.Records[len(r.Verdicts):]
		switch r.Status {
		case Applied:
		case Rewind:
			return nil, fmt.Errorf("%s: %w", a.ask.Timeline, ErrRewind)
		case Reload:
			a.ask.Seed = &Seed{AskedMS: r.NowMS}
			reload = append(reload, a)
		case Full:
			if a.full = true; !a.asked {
				a.asked = true
				full = append(full, a)
			}
		}
	}
	if err := s.seed(ctx, f, reload); err != nil {
		return nil, err
	}
	if full, err = s.raiseArch(ctx, full); err != nil {
		return nil, err
	}
	return append(reload, full...), nil
}

// seed fills in what the archive has of timelines that asked for it.
func (s *Store) seed(ctx context.Context, f Fold, asking []*appending) error {
	var tls []message.Timeline
	for _, a := range asking {
		if a.ask.Mode != Off {
			tls = append(tls, a.ask.Timeline)
		}
	}
	var seeds []Seed
	if tls != nil {
		var err error
		if seeds, err = s.archive.Load(ctx, f.Partition, f.Fence, tls); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		if len(seeds) != len(tls) {
			return fmt.Errorf("load: %d seeds for %d timelines", len(seeds), len(tls))
		}
	}
	epochs := 0
	for _, a := range asking {
		asked := a.ask.Seed.AskedMS
		if a.ask.Mode != Off {
			a.ask.Seed, seeds = &seeds[0], seeds[1:]
			a.ask.Seed.AskedMS = asked
		}
		switch {
		case a.ask.Mode != Required:
			epoch, err := s.newEpoch()
			if err != nil {
				return err
			}
			a.ask.Seed.Epoch = epoch
			epochs++
		case a.ask.Seed.Epoch == 0:
			a.ask.Seed.Epoch = FirstEpoch
		default:
			a.ask.Seed.Epoch = requiredEpoch(a.ask.Seed.Epoch, a.ask.Seed.Mode)
		}
	}
	s.metrics.reload.Add(len(asking))
	s.metrics.epoch.Add(epochs)
	return nil
}

// requiredEpoch is the epoch of a required timeline whose last row has this
// one and this mode. What was best effort before may have shown numbers above
// its last row, so they are given under another epoch: always the same one,
// until the first row has it.
func requiredEpoch(epoch uint32, mode Mode) uint32 {
	if mode == Required {
		return epoch
	}
	return max(epoch+1, FirstEpoch+1)
}

// archivedTops are those of the archive as this configuration counts them.
func (s *Store) archivedTops(ctx context.Context, tls []message.Timeline) ([]ArchiveTop, error) {
	tops, err := s.archive.Tops(ctx, tls)
	if err == nil && len(tops) != len(tls) {
		err = fmt.Errorf("%d tops of %d timelines", len(tops), len(tls))
	}
	if err != nil {
		return nil, err
	}
	for i := range tops {
		if tops[i].Seq > 0 && s.ModeOf(tls[i]) == Required {
			tops[i].Epoch = requiredEpoch(tops[i].Epoch, tops[i].Mode)
		}
	}
	return tops, nil
}

// raiseArch tells the window what the archive has of full timelines: rows may
// have been written whose MarkArchived was lost, and nobody else would come
// back to that. It returns those that it may have helped.
func (s *Store) raiseArch(ctx context.Context, full []*appending) ([]*appending, error) {
	if len(full) == 0 || s.archive == nil {
		return nil, nil
	}
	tls := make([]message.Timeline, len(full))
	for i, a := range full {
		tls[i] = a.ask.Timeline
	}
	tops, err := s.archivedTops(ctx, tls)
	if err != nil {
		return nil, fmt.Errorf("archived tops: %w", err)
	}
	marks := make([]Top, len(tops))
	for i, t := range tops {
		marks[i] = t.Top
	}
	if err := s.window.MarkArchived(ctx, marks); err != nil {
		return nil, fmt.Errorf("mark archived: %w", err)
	}
	for _, a := range full {
		a.full = false
	}
	return full, nil
}

// result answers the records before the first that found no space.
func (s *Store) result(b *Batch, all []*appending) BatchResult {
	end := len(b.Records)
	for _, a := range all {
		if a.full {
			end = min(end, a.places[len(a.got)].record)
		}
	}
	r := BatchResult{Records: make([][]Appended, end), Full: end < len(b.Records)}
	for i := range r.Records {
		r.Records[i] = make([]Appended, len(b.Records[i].Timelines))
	}
	counts := [Dup + 1]int{}
	for _, a := range all {
		for i, got := range a.got {
			if at := a.places[i]; at.record < end {
				r.Records[at.record][at.timeline] = got
				counts[got.Verdict]++
			}
		}
	}
	for v := New; v <= Dup; v++ {
		s.metrics.positions.Add(int(v-New), counts[v])
	}
	return r
}
