package logic

import (
	"context"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/internal/failpoint"
	"github.com/perseid-im/perseid/internal/timeline"
)

// ErrNotStored is what a logic answers about stored messages that was not
// given a place to keep them.
var ErrNotStored = errors.New("logic: stored messages are not configured here")

// TakeFence begins the life of the worker of a partition, as Folding says.
func (c *Core) TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fold, error) {
	if c.timelines == nil {
		return timeline.Fold{}, ErrNotStored
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	f, err := c.timelines.TakeFence(ctx, p, owner, over)
	if err != nil {
		return timeline.Fold{}, fmt.Errorf("take the fence of partition %d: %w", p.Number, err)
	}
	return f, nil
}

// RaiseFence begins the next life of the same worker.
func (c *Core) RaiseFence(ctx context.Context, f timeline.Fold) (timeline.Fold, error) {
	if c.timelines == nil {
		return timeline.Fold{}, ErrNotStored
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	raised, err := c.timelines.RaiseFence(ctx, f)
	if err != nil {
		return timeline.Fold{}, fmt.Errorf("raise the fence of partition %d: %w", f.Partition.Number, err)
	}
	return raised, nil
}

// Archive makes rows durable, in order, and known to the window; nil = all are.
func (c *Core) Archive(ctx context.Context, a timeline.Archiving) error {
	if c.timelines == nil {
		return ErrNotStored
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	if err := c.timelines.Archive(ctx, a); err != nil {
		return fmt.Errorf("archive %d records of partition %d: %w", len(a.Records), a.Fold.Partition.Number, err)
	}
	failpoint.Hit("logic.after_archive")
	return nil
}

// append gives positions, and checks that the answer fits the question.
func (c *Core) append(ctx context.Context, b timeline.Batch) (timeline.BatchResult, error) {
	if c.timelines == nil {
		return timeline.BatchResult{}, ErrNotStored
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	result, err := c.timelines.Append(ctx, b)
	if err == nil && (len(result.Records) > len(b.Records) || len(result.Records) < len(b.Records) && !result.Full) {
		err = fmt.Errorf("%d answers", len(result.Records))
	}
	for i := range result.Records {
		if err == nil && len(result.Records[i]) != len(b.Records[i].Timelines) {
			err = fmt.Errorf("%d positions for the %d timelines of offset %d", len(result.Records[i]), len(b.Records[i].Timelines), b.Records[i].Offset)
		}
	}
	if err != nil {
		return timeline.BatchResult{}, fmt.Errorf("append %d records of partition %d: %w", len(b.Records), b.Fold.Partition.Number, err)
	}
	return result, nil
}
