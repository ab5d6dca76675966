package timelinetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Losable is a window whose data can be lost on purpose.
type Losable interface {
	timeline.Window
	// Save keeps this moment; the function brings it back, in a new incarnation.
	Save() (back func())
	// Empty begins a new incarnation without data.
	Empty()
	// Restart begins a new incarnation with everything kept.
	Restart()
}

// Save keeps this moment for a rollback; see Losable.
func (w *Window) Save() (back func()) {
	s := w.Snapshot()
	return func() { w.Lose(s) }
}

// Empty is a loss of everything; see Losable.
func (w *Window) Empty() { w.Lose(Snapshot{}) }

// FoldRun is one random life of a partition: a log, a window that is lost or
// rolled back, an archive, workers that crash, are replaced while they still
// live, lose their stream, and readers. It is a
// model of the design over the real Store.
type FoldRun struct {
	Seed    uint64
	Window  Losable
	Archive timeline.Archive
	// Generation of the log; runs that share an archive need growing ones.
	Generation uint32
	// FirstMid keeps the timelines of runs that share a store apart.
	FirstMid int64
	Steps    int // 0 = 150 to 600
	Faults   bool
}

// FoldResult is what a run came to.
type FoldResult struct {
	Problems                []string
	Records, Losses, Pushed int
	// How often what the rules are for came up.
	Full, Rewinds, Dups, Behind int
}

// Add sums up.
func (r *FoldResult) Add(o FoldResult) {
	r.Problems = append(r.Problems, o.Problems...)
	r.Records, r.Losses, r.Pushed = r.Records+o.Records, r.Losses+o.Losses, r.Pushed+o.Pushed
	r.Full, r.Rewinds, r.Dups, r.Behind = r.Full+o.Full, r.Rewinds+o.Rewinds, r.Dups+o.Dups, r.Behind+o.Behind
}

// fold is the state of a run.
type fold struct {
	FoldRun
	ctx      context.Context
	r        *rand.Rand
	store    *timeline.Store
	tls      []message.Timeline
	log      []logged
	ids      uint64
	workers  []*worker
	orphans  []timeline.Archiving
	saved    []func()
	shown    map[timelineSeq]message.ID
	readers  []*reader
	commit   int64
	owners   uint64
	result   FoldResult
	part     timeline.Partition
	quiet    bool
	finished bool
}

type timelineSeq struct {
	tl message.Timeline
	timeline.Position
}

// logged is a record of the log.
type logged struct {
	id  message.ID
	tls []message.Timeline
}

// worker is an owner of the partition, or one that does not know that it is
// not any more.
type worker struct {
	fold  timeline.Fold
	pos   int64 // the next record
	base  int64 // everything below is archived
	done  map[int64]bool
	queue []timeline.Archiving // rows that were asked to be archived, in order, under the fold of then
	dead  bool
}

// reader follows one timeline by pages, by the rule for clients.
type reader struct {
	timeline.Reader
	cursor timeline.Cursor
	got    []message.ID
}

// Run runs it.
func (run FoldRun) Run(ctx context.Context) (FoldResult, error) {
	f := &fold{FoldRun: run, ctx: ctx, r: rand.New(rand.NewPCG(run.Seed, 7)), shown: map[timelineSeq]message.ID{}} //nolint:gosec // repeatable on purpose
	cfg := timeline.DefaultConfig()
	cfg.FlushInterval = time.Minute
	store, err := timeline.NewStore(cfg, tight{&faulty{f.Window, f}}, &faultyArchive{run.Archive, f}, timeline.Deps{
		Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: randomReader{f.r},
	})
	if err != nil {
		return FoldResult{}, err
	}
	f.store = store
	f.part = timeline.Partition{Log: fmt.Sprintf("log-%d", run.Generation), Generation: run.Generation, Number: 3}
	for i := range f.r.IntN(4) + 1 {
		mid := run.FirstMid + int64(i) + 1
		f.tls = append(f.tls, message.Inbox(mid))
		f.readers = append(f.readers, &reader{Reader: timeline.Reader{Mid: mid}, cursor: timeline.Cursor{Timeline: message.Inbox(mid)}})
	}
	f.life()
	f.quietEnd()
	f.check()
	f.quiet = true
	return f.result, store.Close(ctx)
}

func (f *fold) bad(format string, args ...any) {
	if len(f.result.Problems) < 5 {
		f.result.Problems = append(f.result.Problems, fmt.Sprintf(format, args...))
	}
}

func (f *fold) life() {
	steps := f.Steps
	if steps == 0 {
		steps = 150 + f.r.IntN(450)
	}
	f.newWorker()
	for range steps {
		switch x := f.r.Float64(); {
		case x < 0.25:
			f.accept()
		case x < 0.65:
			f.step(f.anyWorker())
		case x < 0.78:
			f.flush(f.anyWorker(), f.r.IntN(5)+1)
		case x < 0.83:
			f.commit = max(f.commit, f.anyWorker().base)
		case x < 0.85:
			f.lose()
		case x < 0.88:
			f.streamBreaks(f.anyWorker())
		case x < 0.90:
			f.orphanWrites()
		case x < 0.92:
			if len(f.workers) < 3 {
				f.newWorker() // the old one does not know yet
			} else {
				f.workers = f.workers[1:]
			}
		case x < 0.935:
			f.workers = f.workers[:len(f.workers)-1] // a crash; the next one starts at the commit
			f.newWorker()
		case x < 0.95:
			f.saved = append(f.saved, f.Window.Save())
		default:
			f.read(f.readers[f.r.IntN(len(f.readers))])
		}
	}
}

func (f *fold) anyWorker() *worker { return f.workers[f.r.IntN(len(f.workers))] }

func (f *fold) newWorker() {
	f.owners++
	w := &worker{pos: f.commit, base: f.commit, done: map[int64]bool{}}
	f.workers = append(f.workers, w)
	f.takeFence(w, f.owners)
}

func (f *fold) takeFence(w *worker, owner uint64) {
	var err error
	for range 50 {
		if w.fold, err = f.store.TakeFence(f.ctx, f.part, owner, nil); err == nil {
			return
		}
		if !errors.Is(err, errInjected) {
			break
		}
	}
	f.bad("take fence: %v", err)
	w.dead = true
}

func (f *fold) accept() {
	tls := []message.Timeline{f.tls[f.r.IntN(len(f.tls))]}
	for _, tl := range f.tls {
		if tl != tls[0] && f.r.IntN(6) == 0 {
			tls = append(tls, tl)
		}
	}
	if n := len(f.log); n > 0 && f.r.Float64() < 0.15 {
		// A caller's retry: a new record with the id and the targets of an old one.
		f.log = append(f.log, f.log[max(0, n-1-f.r.IntN(6))])
		return
	}
	f.ids++
	id := message.ID{15: byte(f.Generation), 14: 1}
	binary.BigEndian.PutUint64(id[:8], f.ids)
	f.log = append(f.log, logged{id, tls})
}

// step moves some records: append, show, ask for their rows.
func (f *fold) step(w *worker) {
	if w.dead || w.pos >= int64(len(f.log)) {
		return
	}
	b := timeline.Batch{Fold: w.fold}
	for off := w.pos; off < int64(len(f.log)) && len(b.Records) < 1+f.r.IntN(4); off++ {
		rec := f.log[off]
		b.Records = append(b.Records, timeline.Record{Offset: off, Message: f.message(rec.id), Timelines: rec.tls})
	}
	result, err := f.store.Append(f.ctx, b)
	switch {
	case errors.Is(err, errInjected):
		return // and again, with more or less records
	case errors.Is(err, timeline.ErrRewind):
		f.rewind(w)
		return
	case errors.Is(err, timeline.ErrStaleFence): // by Load
		w.dead = true
		return
	case err != nil:
		f.bad("append: %v", err)
		w.dead = true
		return
	}
	for i, verdicts := range result.Records {
		f.placed(w, &b.Records[i], verdicts)
	}
	w.pos += int64(len(result.Records))
	if result.Full { // wait for the archive
		f.result.Full++
		f.flush(w, 3)
	}
}

func (f *fold) message(id message.ID) message.Message {
	return message.Message{ID: id, Kind: message.Chat, Flags: message.Store | message.Archive, Body: id[:8]}
}

func (f *fold) placed(w *worker, rec *timeline.Record, verdicts []timeline.Appended) {
	var places []timeline.Place
	for j, v := range verdicts {
		if v.Seq == 0 {
			continue
		}
		at := timelineSeq{rec.Timelines[j], v.Position}
		if first, ok := f.shown[at]; ok && first != rec.Message.ID {
			f.bad("%s %v was shown as %x and as %x", at.tl, at.Position, first[:8], rec.Message.ID[:8])
		}
		f.shown[at] = rec.Message.ID
		f.result.Pushed++
		if v.Verdict == timeline.Dup {
			f.result.Dups++
		} else {
			places = append(places, timeline.Place{Timeline: rec.Timelines[j], Position: v.Position, Mode: v.Mode})
		}
	}
	if len(places) == 0 {
		w.archived(rec.Offset)
		return
	}
	w.queue = append(w.queue, timeline.Archiving{Fold: w.fold, Records: []timeline.Positioned{{Offset: rec.Offset, Message: rec.Message, Places: places}}})
}

func (w *worker) archived(off int64) {
	for w.done[off] = true; w.done[w.base]; w.base++ {
		delete(w.done, w.base)
	}
}

func (f *fold) rewind(w *worker) {
	next, err := f.store.RaiseFence(f.ctx, w.fold)
	switch {
	case errors.Is(err, timeline.ErrStaleFence):
		// Raised by this worker itself, when the answer was lost, or by a newer
		// owner: the first is taken as a new life.
		f.workers = slices.DeleteFunc(f.workers, func(x *worker) bool { return x == w })
		if w.dead = true; len(f.workers) == 0 {
			f.newWorker()
		}
	case errors.Is(err, errInjected):
	case err != nil:
		f.bad("raise fence: %v", err)
		w.dead = true
	default:
		f.result.Rewinds++
		w.fold, w.pos = next, w.base
	}
}

// flush lets rows be written; those of an earlier fold are on their way and
// must be refused.
func (f *fold) flush(w *worker, n int) {
	for n = min(n, len(w.queue)); n > 0; n-- {
		a := w.queue[0]
		err := f.archive(a)
		if errors.Is(err, errInjected) {
			return
		}
		w.queue = w.queue[1:]
		if err == nil {
			for _, r := range a.Records {
				w.archived(r.Offset)
			}
		}
	}
}

func (f *fold) archive(a timeline.Archiving) error {
	err := f.store.Archive(f.ctx, a)
	if err != nil && !errors.Is(err, errInjected) && !errors.Is(err, timeline.ErrStaleFence) {
		f.bad("archive: %v", err)
	}
	return err
}

// streamBreaks: what is not archived is sent again through another logic. The
// old one may be dead, or write its rows later.
func (f *fold) streamBreaks(w *worker) {
	if f.r.IntN(2) == 0 {
		f.orphans = append(f.orphans, w.queue...)
	}
	w.queue, w.pos = nil, w.base
}

func (f *fold) orphanWrites() {
	if len(f.orphans) > 0 {
		_ = f.archive(f.orphans[0])
		f.orphans = f.orphans[1:]
	}
}

func (f *fold) lose() {
	f.result.Losses++
	switch x := f.r.Float64(); {
	case x < 0.4 && len(f.saved) > 0:
		f.saved[max(0, len(f.saved)-1-f.r.IntN(8))]()
	case x < 0.8:
		f.Window.Empty()
	default:
		f.Window.Restart()
	}
}

// read asks for a page and follows the client's rule.
func (f *fold) read(r *reader) {
	pages, err := f.store.Page(f.ctx, r.Reader, []timeline.Cursor{r.cursor}, timeline.Limit{Entries: 1 + f.r.IntN(5)})
	if err != nil {
		if !errors.Is(err, errInjected) {
			f.bad("page: %v", err)
		}
		return
	}
	p := pages[0]
	switch {
	case errors.Is(p.Err, timeline.ErrBehind):
		f.result.Behind++
		return
	case p.Err != nil || p.Reset || p.Truncated || p.Next < r.cursor.After || p.HasMore != (p.Next < p.Top):
		f.bad("page after %v: %+v", r.cursor, p)
		return
	}
	for i, e := range p.Entries {
		if e.Seq != r.cursor.After+1+uint64(i) || e.Gone != timeline.Here {
			f.bad("page after %v has %d", r.cursor, e.Seq)
			return
		}
		r.got = append(r.got, e.Message.ID)
	}
	r.cursor.Epoch, r.cursor.After = p.Epoch, p.Next
}

// quietEnd: one owner finishes, nothing fails any more.
func (f *fold) quietEnd() {
	f.quiet = true
	f.newWorker()
	last := f.workers[len(f.workers)-1]
	f.workers = []*worker{last}
	for range 200*len(f.log) + 200 {
		f.step(last)
		f.flush(last, 4)
		if last.base >= int64(len(f.log)) {
			f.finished = true
			return
		}
		if last.dead {
			break
		}
	}
	f.bad("never finished: %d of %d", last.base, len(f.log))
}

// check compares the archive and what was shown and read with the log.
func (f *fold) check() {
	f.result.Records = len(f.log)
	for i, tl := range f.tls {
		var want []message.ID
		for _, rec := range f.log {
			if slices.Contains(rec.tls, tl) && !slices.Contains(want[max(0, len(want)-timeline.Recent(tl)):], rec.id) {
				want = append(want, rec.id)
			}
		}
		rows, err := f.Archive.Read(f.ctx, 0, timeline.ArchiveRead{Timeline: tl, To: 1 << 40, Entries: 1 << 20, Bytes: 1 << 30})
		if err != nil {
			f.bad("rows of %s: %v", tl, err)
			return
		}
		dense := len(rows) == len(want)
		for k := range rows {
			dense = dense && rows[k].Seq == uint64(k+1) && rows[k].Message.ID == want[k]
		}
		if !dense {
			f.bad("%s: %d rows for %d messages, or not those", tl, len(rows), len(want))
			continue
		}
		for at, id := range f.shown {
			if at.tl == tl && (at.Seq > uint64(len(want)) || want[at.Seq-1] != id) {
				f.bad("%s %v was shown as %x", tl, at.Position, id[:8])
			}
		}
		r := f.readers[i]
		for n := 0; n < 2*len(want)+10 && len(f.result.Problems) == 0 && len(r.got) < len(want); n++ {
			f.read(r)
		}
		if !slices.Equal(r.got, want) {
			f.bad("%s: the reader got %d of %d, or not those", tl, len(r.got), len(want))
		}
	}
}

var errInjected = errors.New("injected")

// fault is nil most of the time.
func (f *fold) fault() (applied bool, err error) {
	if !f.Faults || f.quiet || f.r.IntN(50) > 0 {
		return true, nil
	}
	return f.r.IntN(2) == 0, errInjected
}

func (f *fold) around(call func() error) error {
	applied, err := f.fault()
	if !applied {
		return err
	}
	return errors.Join(call(), err)
}

// faulty loses calls and answers of a window.
type faulty struct {
	timeline.Window
	f *fold
}

func (w *faulty) Append(ctx context.Context, inc timeline.Incarnation, b []timeline.WindowAppend) (got []timeline.WindowAppended, err error) {
	err = w.f.around(func() error { got, err = w.Window.Append(ctx, inc, b); return err })
	return got, err
}

func (w *faulty) MarkArchived(ctx context.Context, marks []timeline.Top) error {
	return w.f.around(func() error { return w.Window.MarkArchived(ctx, marks) })
}

// faultyArchive does it for an archive.
type faultyArchive struct {
	timeline.Archive
	f *fold
}

func (a *faultyArchive) Write(ctx context.Context, p timeline.Partition, fence timeline.Fence, rows []timeline.Row) (n int, err error) {
	err = a.f.around(func() error { n, err = a.Archive.Write(ctx, p, fence, rows); return err })
	return n, err
}

func (a *faultyArchive) RaiseFence(ctx context.Context, p timeline.Partition, fence timeline.Fence) (next timeline.Fence, err error) {
	err = a.f.around(func() error { next, err = a.Archive.RaiseFence(ctx, p, fence); return err })
	return next, err
}

// tight makes windows small, so that they are trimmed and full in short runs.
type tight struct{ timeline.Window }

func (w tight) Append(ctx context.Context, inc timeline.Incarnation, batch []timeline.WindowAppend) ([]timeline.WindowAppended, error) {
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].Keep = timeline.Keep{Entries: 4, HardEntries: 8, Bytes: 1 << 20, HardBytes: 1 << 20}
	}
	return w.Window.Append(ctx, inc, batch)
}

// randomReader is repeatable randomness.
type randomReader struct{ r *rand.Rand }

var _ io.Reader = randomReader{}

func (r randomReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.r.Uint32())
	}
	return len(b), nil
}
