package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/perseid-im/perseid/internal/timeline"
)

// rewind begins the next life of the worker after the store forgot something:
// a higher fence, so that nothing numbered before can be archived after it,
// and then all held records once more, in order. They were dispatched before.
func (k *keeper) rewind(ctx context.Context) error {
	pause := k.in.job.backoff()
	for {
		k.in.job.meter.rewinds.Inc()
		k.log.Warn("the store of positions is another one than before; what is not archived is appended again",
			slog.Int("records", k.archiver.recall()))
		if err := k.raise(ctx); err != nil {
			return err
		}
		held, err := k.archiver.recalled(ctx)
		if err != nil {
			return err
		}
		err = k.replay(ctx, held)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, timeline.ErrConflict):
			k.stop(err)
			if !sleep(ctx, k.in.job.cfg.ConflictRetry) {
				return fmt.Errorf("rewind: %w", err)
			}
			k.stop(nil)
		case !errors.Is(err, timeline.ErrRewind):
			return fmt.Errorf("rewind: %w", err)
		case !pause.wait(ctx):
			return fmt.Errorf("rewind: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// raise replaces the fence. After a call without an answer the one that stands
// may be what this worker raised, so the next one is raised over it, once. If it
// is another's after all, only one of the two stands, and the other one ends.
func (k *keeper) raise(ctx context.Context) error {
	pause := k.in.job.backoff()
	for failures, unanswered := 0, false; ; failures++ {
		call, cancel := context.WithTimeout(ctx, k.in.job.cfg.RouteTimeout)
		fold, err := k.storage.RaiseFence(call, k.fold)
		cancel()
		if err == nil {
			k.fold = fold
			return nil
		}
		var stale *timeline.StaleFence
		if errors.As(err, &stale) {
			own := k.fold.Fence
			own.Rewinds++
			if !unanswered || stale.Stands != own {
				return fmt.Errorf("raise fence: %w", err)
			}
			k.fold.Fence, unanswered = own, false
			continue
		}
		unanswered = true
		if failures == 0 && ctx.Err() == nil {
			k.log.Warn("the fence is not raised, the partition waits", slog.Any("error", err))
		}
		if !pause.wait(ctx) {
			return fmt.Errorf("raise fence: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// replay appends held records under the new fold. ErrRewind: from the start.
func (k *keeper) replay(ctx context.Context, held []*kept) error {
	pause := k.in.job.backoff()
	most := k.in.job.cfg.MaxBatchRecords
	var items []RouteItem
	var mids []int64
	for failures := 0; len(held) > 0; {
		items, mids = items[:0], mids[:0]
		for bytes := int64(0); len(items) < min(most, len(held)); {
			next := held[len(items)]
			if bytes += next.bytes; len(items) > 0 && bytes > int64(k.in.job.cfg.MaxBatchBytes) {
				break
			}
			var item RouteItem
			item, mids = storedItem(next.stored, mids)
			items = append(items, item)
		}
		routes, full, _, err := k.in.job.ask(ctx, &k.fold, items, nil)
		if errors.Is(err, timeline.ErrRewind) || errors.Is(err, timeline.ErrStaleFence) {
			return err
		}
		if err != nil {
			if failures == 0 && ctx.Err() == nil {
				k.log.Warn("append failed in a replay, the partition waits", slog.Any("error", err))
			}
			if failures > 0 {
				most = max(1, len(items)/2)
			}
			if failures++; !pause.wait(ctx) {
				return errors.Join(err, ctx.Err())
			}
			continue
		}
		for i := range routes.Results {
			if err := held[i].again(routes.Results[i].Appended); err != nil {
				return err
			}
		}
		n := len(routes.Results)
		k.archiver.again(n)
		held = held[n:]
		if full && n == 0 && !k.archiver.progress(ctx, pause.grow()) {
			return fmt.Errorf("the window is full: %w", context.Cause(ctx))
		}
	}
	return nil
}
