package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/timeline"
)

// keeper is what a worker needs for stored records: its fence, and what it has
// to say again when the store forgot it. A worker that never sees a stored
// record has none. It belongs to the goroutine of the intake; the archiver's
// goroutine shares the archiver with it.
type keeper struct {
	in       *intake
	log      *slog.Logger
	storage  Storage
	began    time.Time // of the worker
	fold     timeline.Fold
	fenced   bool
	archiver *archiver
	// stopped is set while the partition must not move: a position has two
	// messages, and somebody has to look.
	stopped atomic.Bool
}

func newKeeper(ctx context.Context, in *intake, fail context.CancelCauseFunc) *keeper {
	k := &keeper{in: in, log: in.log, storage: in.job.storage, began: in.began}
	k.archiver = newArchiver(k, fail)
	k.archiver.start(ctx)
	return k
}

// partition is how storage names the claim.
func (k *keeper) partition() timeline.Partition {
	w := k.in.work
	return timeline.Partition{Log: w.log, Generation: k.in.job.cfg.TopicGeneration, Number: w.partition}
}

// fence takes the fence of the partition; from then on rows are written only
// under it. It is taken before the first append of the worker's life.
//
// A worker that is refused may be a zombie, or Kafka counts generations from
// the start again because the group was made anew. The one cannot keep its
// claim for long, so the other takes the fence over after a while. Whoever is
// wrong: one fence stands, and its owner replays all that is not archived.
func (k *keeper) fence(ctx context.Context) error {
	j := k.in.job
	pause := j.backoff()
	var over *timeline.Fence
	var why error // of the last attempt that was not cut short
	for settles, failures := k.began.Add(j.settles), 0; ; failures++ {
		call, cancel := context.WithTimeout(ctx, j.cfg.RouteTimeout)
		fold, err := k.storage.TakeFence(call, k.partition(), uint64(k.in.work.claim.Generation()), over)
		cancel()
		if err == nil {
			k.fold, k.fenced = fold, true
			k.log.Info("the fence of the partition is taken",
				slog.Uint64("owner", fold.Fence.Owner), slog.Uint64("rewinds", fold.Fence.Rewinds))
			return nil
		}
		if why == nil || ctx.Err() == nil {
			why = err
		}
		over = nil
		var stale *timeline.StaleFence
		wait := time.Duration(0)
		switch {
		case errors.As(err, &stale):
			if failures > 0 && time.Now().After(settles) {
				settles = time.Now().Add(j.settles) // another one took it meanwhile
			}
			wait = time.Until(settles)
			over = &stale.Stands
			k.log.Warn("a worker of a later generation has the fence; it is taken over if the claim lasts",
				slog.Uint64("owner", stale.Stands.Owner), slog.Duration("wait", max(wait, 0)))
		case failures == 0 && errors.Is(err, timeline.ErrLogChanged):
			k.log.Error("the topic is another one than the archive knows; the partition waits until job.topic_generation is raised", slog.Any("error", err))
		case failures == 0 && ctx.Err() == nil:
			k.log.Warn("no fence for the partition, it waits", slog.Any("error", err))
		}
		if stale != nil && sleep(ctx, wait) || stale == nil && pause.wait(ctx) {
			continue
		}
		return fmt.Errorf("take fence: %w", errors.Join(why, ctx.Err()))
	}
}

// route is intake.route for a batch with stored records: all of it goes one
// way, so that transient records keep their place among the stored ones.
func (k *keeper) route(ctx context.Context) (n int, routes Routes, comets []*comet, err error) {
	in := k.in
	if !k.fenced {
		if err := k.fence(ctx); err != nil {
			return 0, Routes{}, nil, err
		}
	}
	pause := in.job.backoff()
	n = len(in.items)
	var full bool
	for failures, rewinds := 0, 0; ; {
		routes, full, comets, err = in.job.ask(ctx, &k.fold, in.items[:n], in.dispatch.comets[:0])
		switch {
		case err == nil && len(routes.Results) > 0:
			in.most = min(in.most+in.most/4+1, in.job.cfg.MaxBatchRecords)
			return len(routes.Results), routes, comets, nil
		case err == nil && full:
			// What fills the window waits for the archive.
			in.job.meter.full.Inc()
			if !k.archiver.progress(ctx, pause.grow()) {
				return 0, Routes{}, nil, fmt.Errorf("the window is full: %w", context.Cause(ctx))
			}
			continue
		case errors.Is(err, timeline.ErrStaleFence):
			return 0, Routes{}, nil, fmt.Errorf("append: %w", err)
		case errors.Is(err, timeline.ErrRewind):
			// Once more is most likely two logics that see two stores, which
			// would go on with every call.
			if rewinds > 0 && !pause.wait(ctx) {
				return 0, Routes{}, nil, fmt.Errorf("append: %w", errors.Join(err, ctx.Err()))
			}
			rewinds++
			if err := k.rewind(ctx); err != nil {
				return 0, Routes{}, nil, err
			}
			continue
		}
		if failures == 0 && ctx.Err() == nil {
			k.log.Warn("append failed, the partition waits", slog.Any("error", err))
		}
		if failures > 0 { // as in intake.route
			n = max(1, n/2)
			in.most = n
		}
		failures++
		if !pause.wait(ctx) {
			return 0, Routes{}, nil, fmt.Errorf("append: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// ready waits while the partition is stopped.
func (k *keeper) ready(ctx context.Context) error {
	for k.stopped.Load() {
		if !k.archiver.progress(ctx, time.Second) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// stop says whether the partition may move.
func (k *keeper) stop(why error) {
	if k.stopped.Swap(why != nil) == (why != nil) {
		return
	}
	if why != nil {
		k.in.job.meter.stopped.Add(1)
		k.log.Error("a position has two messages: the partition stops; nothing is overwritten", slog.Any("error", why))
		return
	}
	k.in.job.meter.stopped.Add(-1)
	k.log.Info("the partition goes on")
}

// end waits until rows that nobody waits for are written too, unless the
// archive fails or ctx ends, and ends the archiver.
func (k *keeper) end(ctx context.Context) {
	k.archiver.end(ctx)
	k.stop(nil)
}

// storedRecord is what is appended of a record; nil = it is transient.
func storedRecord(r *stream.Record) *timeline.Record {
	if !r.Message.Flags.Has(message.Store) || len(r.Targets) == 0 {
		return nil
	}
	out := &timeline.Record{Offset: r.Offset, Message: r.Message, Timelines: make([]message.Timeline, 0, len(r.Targets))}
	var seen map[message.Timeline]struct{}
	if len(r.Targets) > 1 {
		seen = make(map[message.Timeline]struct{}, len(r.Targets))
	}
	for _, t := range r.Targets {
		tl := t.Timeline()
		if seen != nil {
			if _, again := seen[tl]; again {
				continue
			}
			seen[tl] = struct{}{}
		}
		out.Timelines = append(out.Timelines, tl)
	}
	return out
}

// storedItem is the question about a stored record. The mids are appended to
// slab, parallel to its timelines.
func storedItem(r *timeline.Record, slab []int64) (RouteItem, []int64) {
	n := len(slab)
	for _, tl := range r.Timelines {
		if mid, ok := tl.Mid(); ok {
			slab = append(slab, mid)
		}
	}
	return RouteItem{Mids: slab[n:len(slab):len(slab)], Stored: r}, slab
}

// has tells whether there is a position that this record brought.
func has(a timeline.Appended) bool { return a.Verdict != timeline.Dup && a.Seq != 0 }

// places are the positions that the record brought in timelines whose mode is
// at least least.
func places(r *timeline.Record, appended []timeline.Appended, least timeline.Mode) []timeline.Place {
	var out []timeline.Place
	for i, a := range appended {
		if has(a) && a.Mode >= least {
			if out == nil {
				out = make([]timeline.Place, 0, len(appended)-i)
			}
			out = append(out, timeline.Place{Timeline: r.Timelines[i], Position: a.Position, Mode: a.Mode})
		}
	}
	return out
}

// keep hands what must be archived to the archiver.
func (k *keeper) keep(ks []*kept) { k.archiver.add(k.fold, ks) }
