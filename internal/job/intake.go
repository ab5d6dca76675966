package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/perseid-im/perseid/internal/failpoint"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/timeline"
)

var _ stream.Worker = (*Job)(nil).Work

// Work is the stream.Worker: it moves the records of one claim until the claim
// is revoked, then waits for the outcomes of what it took, as long as ctx
// lasts. What has no outcome then is not completed; the next owner replays it.
func (j *Job) Work(ctx context.Context, claim stream.Claim) error {
	w := newWork(claim)
	life, err := j.begin(ctx, w.log)
	if err != nil {
		return err
	}
	defer j.wg.Done()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer context.AfterFunc(life, func() { fail(context.Canceled) })()
	in := &intake{
		began:    time.Now(),
		fail:     fail,
		job:      j,
		work:     w,
		log:      j.log.With(slog.Int("partition", int(claim.Partition()))),
		dispatch: newDispatcher(j, w),
		most:     j.cfg.MaxBatchRecords,
	}
	err = in.run(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	if err != nil {
		fail(err) // what it holds is for the next owner
	}
	if left := w.finish(ctx); left > 0 && err == nil {
		err = fmt.Errorf("%d records without an outcome: %w", left, context.Cause(ctx))
	}
	if in.keeper != nil {
		in.keeper.end(ctx)
	}
	if err != nil {
		return fmt.Errorf("job partition %d: %w", claim.Partition(), err)
	}
	return nil
}

// intake is the first half of a worker: records come in, are routed in
// batches, and go to the dispatcher. It does not wait for outcomes; how much
// may be without one is bounded by the claim.
type intake struct {
	job      *Job
	work     *work
	log      *slog.Logger
	dispatch *dispatcher
	keeper   *keeper // nil until the first stored record
	began    time.Time
	fail     context.CancelCauseFunc // ends the worker
	most     int                     // records that are routed at once
	items    []RouteItem
	keys     []string
	mids     []int64
}

func (in *intake) run(ctx context.Context) error {
	for {
		records, err := in.work.claim.Next(ctx, in.job.cfg.MaxBatchRecords)
		if errors.Is(err, stream.ErrRevoked) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		failpoint.Hit("job.after_fetch")
		in.work.begin(len(records))
		for len(records) > 0 {
			n := in.head(records)
			if n == 0 {
				if err := in.deadLetter(ctx, records[0]); err != nil {
					return err
				}
				records = records[1:]
				continue
			}
			moved, err := in.move(ctx, records[:n])
			if err != nil {
				return err
			}
			records = records[moved:]
		}
	}
}

// head is how many of the records make the next batch: readable ones, within
// the bound of bytes, at least one. 0 means that the first is unreadable.
func (in *intake) head(records []stream.Record) int {
	bytes := 0
	for i := range records {
		if unreadable(&records[i]) != nil {
			return i
		}
		bytes += records[i].Size
		if i > 0 && (bytes > in.job.cfg.MaxBatchBytes || i >= in.most) {
			return i
		}
	}
	return len(records)
}

var (
	errMixed  = errors.New("a room or all target shares the record with others")
	errNoRoom = errors.New("a room without a name")
	errNoID   = errors.New("a stored message without an id")
	errKey    = errors.New("a stored message for a connection key, or for a room that cannot store")
)

// unreadable tells why a record cannot be dispatched. A room or all target must
// be alone: a comet applies an offset once per lane, so a second push of the
// record would be taken for a repeat. A push without any target would make a
// comet refuse the whole batch, again and again.
func unreadable(r *stream.Record) error {
	if r.Err != nil {
		return r.Err
	}
	stored := r.Message.Flags.Has(message.Store)
	if stored && r.Message.ID == (message.ID{}) {
		return errNoID
	}
	for i := range r.Targets {
		switch t := &r.Targets[i]; {
		case t.Kind == message.Room && t.Name == "":
			return errNoRoom
		case t.Kind != message.Key && t.Kind != message.User && len(r.Targets) > 1:
			return errMixed
		case stored && !t.Timeline().CanStore():
			return errKey
		}
	}
	return nil
}

// deadLetter keeps trying: an unreadable record is never skipped. A revoked
// claim takes none any more, so the next owner has to.
func (in *intake) deadLetter(ctx context.Context, r stream.Record) error {
	pause := in.job.backoff()
	in.log.Error("unreadable record goes to the dead-letter topic",
		slog.Int64("offset", r.Offset), slog.Any("error", unreadable(&r)))
	for failed := false; ; failed = true {
		err := in.work.claim.DeadLetter(ctx, r)
		if err == nil {
			in.job.meter.deadLetter.Inc()
			in.work.complete(r.Offset)
			return nil
		}
		if !failed {
			in.log.Warn("dead-letter topic refuses, the partition waits", slog.Any("error", err))
		}
		if errors.Is(err, stream.ErrRevoked) || !pause.wait(ctx) {
			return fmt.Errorf("dead letter of offset %d: %w", r.Offset, errors.Join(err, ctx.Err()))
		}
	}
}

// move routes readable records and hands them to the lanes: the first of them,
// at least one, as many as logic could route at once.
func (in *intake) move(ctx context.Context, records []stream.Record) (moved int, err error) {
	stored := in.ask(records)
	if stored && in.keeper == nil {
		in.keeper = newKeeper(ctx, in, in.fail)
		in.dispatch.keeper = in.keeper
	}
	if in.keeper != nil {
		if err := in.keeper.ready(ctx); err != nil {
			return 0, err
		}
	}
	var routes Routes
	var comets []*comet
	if stored {
		moved, routes, comets, err = in.keeper.route(ctx)
	} else {
		moved, routes, comets, err = in.route(ctx)
	}
	if err != nil {
		return 0, err
	}
	failpoint.Hit("job.after_append")
	return moved, in.dispatch.dispatch(ctx, records[:moved], in.items[:moved], routes, comets)
}

// ask fills in.items, one per record, and tells whether some are stored.
func (in *intake) ask(records []stream.Record) (stored bool) {
	in.items, in.keys, in.mids = in.items[:0], in.keys[:0], in.mids[:0]
	for i := range records {
		if r := storedRecord(&records[i]); r != nil {
			var item RouteItem
			item, in.mids = storedItem(r, in.mids)
			in.items = append(in.items, item)
			stored = true
			continue
		}
		k, m := len(in.keys), len(in.mids)
		for _, t := range records[i].Targets {
			switch t.Kind {
			case message.Key:
				in.keys = append(in.keys, t.Name)
			case message.User:
				in.mids = append(in.mids, t.Mid)
			}
		}
		in.items = append(in.items, RouteItem{
			Keys: in.keys[k:len(in.keys):len(in.keys)],
			Mids: in.mids[m:len(in.mids):len(in.mids)],
		})
	}
	return stored
}

// route asks until logic answers or the claim is given up: a partition waits,
// it never skips.
//
// It asks for fewer records each time. An answer has a largest size and a
// deadline, and how much it is depends on how many sessions the targets have:
// a batch that is too much for one answer would hold the partition up for ever.
func (in *intake) route(ctx context.Context) (n int, routes Routes, comets []*comet, err error) {
	pause := in.job.backoff()
	began := time.Now()
	n = len(in.items)
	for failures := 0; ; failures++ {
		routes, _, comets, err = in.job.ask(ctx, nil, in.items[:n], in.dispatch.comets[:0])
		if err == nil {
			if failures > 0 {
				in.log.Info("logic answers again", slog.Duration("waited", time.Since(began)), slog.Int("records", n))
			}
			in.most = min(in.most+in.most/4+1, in.job.cfg.MaxBatchRecords)
			return n, routes, comets, nil
		}
		if failures == 0 && ctx.Err() == nil {
			in.log.Warn("route failed, the partition waits", slog.Any("error", err))
		}
		if failures > 0 { // once is more likely the logic: the same again, of another one
			n = max(1, n/2)
			in.most = n
		}
		if !pause.wait(ctx) {
			return 0, Routes{}, nil, fmt.Errorf("route: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// ask makes one call of Route, or with a fold of RouteStored, and brings the
// set of comets up to its answer. The comets are appended to buf, in the order
// of Routes.Nodes.
func (j *Job) ask(ctx context.Context, fold *timeline.Fold, items []RouteItem, buf []*comet) (routes Routes, full bool, comets []*comet, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.cfg.RouteTimeout)
	defer cancel()
	asked := j.now()
	if fold == nil {
		routes, err = j.router.Route(ctx, items)
	} else {
		routes, full, err = j.storage.RouteStored(ctx, *fold, items)
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		j.answered(err)
	}
	if err != nil {
		return Routes{}, false, nil, err
	}
	answered := j.now()
	j.meter.routed.Observe(time.Duration(answered - asked).Seconds())
	return routes, full, j.nodes.update(asked, answered, routes.Nodes, buf), nil
}

// answered keeps what Ready tells. That the worker has to rewind is an answer.
func (j *Job) answered(err error) {
	if errors.Is(err, timeline.ErrRewind) {
		err = nil
	}
	j.asked.Store(&err)
}

// refreshNodes keeps the set of comets current while nothing is pushed, so
// that connections to the dead end and the first push finds lanes open.
func (j *Job) refreshNodes(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var buf []*comet
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		_, _, comets, err := j.ask(ctx, nil, nil, buf[:0])
		if err != nil && ctx.Err() == nil {
			j.log.Debug("refresh of the comets failed", slog.Any("error", err))
		}
		if err == nil {
			buf = comets
			clear(buf)
		}
		timer.Reset(j.cfg.NodeRefresh)
	}
}
