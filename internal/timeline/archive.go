package timeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
)

// Archive makes the places of a batch durable, in order; see logic.Folding.
func (s *Store) Archive(ctx context.Context, a Archiving) error {
	rows := rowsOf(&a)
	if len(rows) == 0 {
		return nil
	}
	if s.archive == nil {
		return ErrNoArchive
	}
	for part := range slices.Chunk(rows, MaxWriteRows) {
		skipped, err := s.archive.Write(ctx, a.Fold.Partition, a.Fold.Fence, part)
		if err != nil {
			return fmt.Errorf("archive %d rows of partition %d: %w", len(part), a.Fold.Partition.Number, err)
		}
		s.metrics.skipped.Add(skipped)
	}
	// A caller that waits until its message is stored asks the window, so a batch
	// is not done before that knows. Written again, its rows are skipped.
	if err := s.window.MarkArchived(ctx, marksOf(rows)); err != nil {
		return fmt.Errorf("tell the window what is archived of partition %d: %w", a.Fold.Partition.Number, err)
	}
	return nil
}

func rowsOf(a *Archiving) []Row {
	var rows []Row
	for i := range a.Records {
		r := &a.Records[i]
		for _, p := range r.Places {
			if p.Mode == Off || p.Seq == 0 {
				continue
			}
			rows = append(rows, Row{
				Timeline: p.Timeline, Position: p.Position, Mode: p.Mode, Message: &r.Message,
				At: Offset{a.Fold.Partition.Generation, r.Offset},
			})
		}
	}
	return rows
}

// marksOf is the last row of each timeline.
func marksOf(rows []Row) []Top {
	index := map[message.Timeline]int{}
	var marks []Top
	for i := range rows {
		top := Top{Timeline: rows[i].Timeline, Position: rows[i].Position}
		if at, ok := index[top.Timeline]; ok {
			marks[at] = top
			continue
		}
		index[top.Timeline] = len(marks)
		marks = append(marks, top)
	}
	return marks
}
