package timelinetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// ModelRun drives a Store over some window and archive with random calls and
// compares every answer with naive lists.
type ModelRun struct {
	Seed     uint64
	Window   Losable
	Archive  timeline.Archive // required
	Steps    int
	FirstMid int64 // keeps runs that share a store apart
	// Losses lets the window be lost now and then.
	Losses bool
}

// model is the naive side: lists and sets, nothing else.
type model struct {
	ModelRun
	ctx   context.Context
	r     *rand.Rand
	store *timeline.Store
	fold  timeline.Fold
	log   []timeline.Record // all that was appended
	queue []timeline.Positioned
	lists map[message.Timeline]*list
	tls   []message.Timeline
	mids  []int64
	users map[userTimeline]*user
	calls map[string]int
	ids   uint64
	lost  bool // the window, at least once
	err   error
}

// list is one timeline.
type list struct {
	entries []timeline.Entry // seq n at n-1, as everybody sees it
	floor   uint64
}

func (l *list) top() uint64 { return uint64(len(l.entries)) }

// user is one user in one timeline.
type user struct {
	hidden      map[uint64]bool
	cleared     uint64
	acked, read uint64
	known       bool
}

// Run runs it and says how often each call was made; the error is the first
// difference.
func (run ModelRun) Run(ctx context.Context) (map[string]int, error) {
	m := &model{ModelRun: run, ctx: ctx, r: rand.New(rand.NewPCG(run.Seed, 11)), //nolint:gosec // repeatable on purpose
		lists: map[message.Timeline]*list{}, users: map[userTimeline]*user{}, calls: map[string]int{}}
	cfg := timeline.DefaultConfig()
	cfg.FlushInterval = time.Minute
	store, err := timeline.NewStore(cfg, modelKeep{run.Window}, run.Archive, timeline.Deps{
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.UnixMilli(modelNowMS) }, Random: randomReader{m.r},
	})
	if err != nil {
		return nil, err
	}
	m.store = store
	m.mids = []int64{run.FirstMid + 1, run.FirstMid + 2}
	room := message.ToRoom(fmt.Sprintf("live://%d", run.FirstMid)).Timeline()
	m.tls = []message.Timeline{message.Inbox(m.mids[0]), message.Inbox(m.mids[1]), room}
	for _, tl := range m.tls {
		m.lists[tl] = &list{}
		for _, mid := range m.mids {
			m.users[userTimeline{mid, tl}] = &user{hidden: map[uint64]bool{}}
		}
	}
	p := timeline.Partition{Log: fmt.Sprintf("model-%d", run.FirstMid), Generation: uint32(run.FirstMid) + 1, Number: 1}
	if m.fold, err = store.TakeFence(ctx, p, 1, nil); err != nil {
		return nil, err
	}
	for i := range run.Steps {
		if m.step(); m.err != nil {
			return m.calls, errors.Join(fmt.Errorf("step %d of seed %d: %w", i, run.Seed, m.err), store.Close(ctx))
		}
	}
	return m.calls, store.Close(ctx)
}

const modelNowMS = 1_700_000_000_000

// modelKeep makes the archive answer often.
type modelKeep struct{ timeline.Window }

func (w modelKeep) Append(ctx context.Context, inc timeline.Incarnation, batch []timeline.WindowAppend) ([]timeline.WindowAppended, error) {
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].Keep = timeline.Keep{Entries: 12, HardEntries: 24, Bytes: 1 << 20, HardBytes: 1 << 20}
	}
	return w.Window.Append(ctx, inc, batch)
}

func (m *model) step() {
	x := m.r.IntN(1000)
	for _, do := range []struct {
		name  string
		share int
		call  func()
	}{
		{"append", 200, m.append}, {"repeat", 20, m.repeat}, {"archive", 40, func() { m.archive(1 + m.r.IntN(8)) }},
		{"page", 300, m.page}, {"walk", 5, m.walk}, {"history", 120, m.history}, {"tops", 20, m.tops}, {"find", 40, m.find},
		{"ack", 100, m.ack}, {"read", 60, m.readMark}, {"cursors", 40, m.cursors},
		{"hide", 15, m.hide}, {"revoke", 15, m.revoke}, {"clear", 4, m.clear}, {"retain", 6, m.retain},
		{"lose", 5, m.lose}, {"forbidden", 10, m.forbidden},
	} {
		if x < do.share {
			m.calls[do.name]++
			do.call()
			return
		}
		x -= do.share
	}
}

// fail keeps the first difference.
func (m *model) fail(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, args...)
	}
}

func (m *model) check(err error, what string) bool {
	if err != nil {
		m.fail("%s: %w", what, err)
	}
	return err == nil
}

func (m *model) anyTimeline() message.Timeline { return m.tls[m.r.IntN(len(m.tls))] }

// anyReader may read tl.
func (m *model) anyReader(tl message.Timeline) timeline.Reader {
	if mid, ok := tl.Mid(); ok {
		return timeline.Reader{Mid: mid}
	}
	return timeline.Reader{Mid: m.mids[m.r.IntN(len(m.mids))], Rooms: []message.Timeline{tl}}
}

// append is one batch of new records and of retries by their callers.
func (m *model) append() {
	var b []timeline.Record
	for range 1 + m.r.IntN(3) {
		rec := timeline.Record{Offset: int64(len(m.log) + len(b)), Message: m.message()}
		for _, tl := range m.tls {
			if m.r.IntN(2) == 0 {
				rec.Timelines = append(rec.Timelines, tl)
			}
		}
		if len(m.log) > 20 && m.r.IntN(8) == 0 {
			old := m.log[len(m.log)-1-m.r.IntN(20)]
			rec.Message, rec.Timelines = old.Message, old.Timelines
		}
		if len(rec.Timelines) > 0 {
			b = append(b, rec)
		}
	}
	m.log = append(m.log, b...)
	m.appendAll(b)
}

func (m *model) message() message.Message {
	m.ids++
	id := message.ID{8: byte(m.FirstMid >> 8), 9: byte(m.FirstMid), 15: 1}
	binary.BigEndian.PutUint64(id[:8], m.ids)
	msg := message.Message{ID: id, Kind: message.Chat, Flags: message.Store, Sender: m.mids[m.r.IntN(2)], AcceptedMS: modelNowMS - 1000, Body: make([]byte, m.r.IntN(60)+1)}
	if m.r.IntN(2) == 0 {
		msg.Flags |= message.Unread
	}
	if m.r.IntN(10) == 0 {
		msg.ExpiresMS = modelNowMS - 1
	}
	return msg
}

// appendAll appends until everything has a position, as a worker does.
func (m *model) appendAll(b []timeline.Record) {
	for tries := 0; len(b) > 0 && m.err == nil; tries++ {
		got, err := m.store.Append(m.ctx, timeline.Batch{Fold: m.fold, Records: b})
		if errors.Is(err, timeline.ErrRewind) {
			m.rewind()
			continue
		}
		if !m.check(err, "append") {
			return
		}
		for i, verdicts := range got.Records {
			m.place(&b[i], verdicts)
		}
		b = b[len(got.Records):]
		if got.Full {
			m.calls["full"]++
			m.archive(len(m.queue))
		}
		if tries > 20 {
			m.fail("append does not end")
		}
	}
}

func (m *model) place(rec *timeline.Record, verdicts []timeline.Appended) {
	p := timeline.Positioned{Offset: rec.Offset, Message: rec.Message}
	for j, v := range verdicts {
		tl := rec.Timelines[j]
		l := m.lists[tl]
		first := l.indexOf(rec.Message.ID, timeline.Recent(tl))
		want := timeline.Appended{Verdict: timeline.New, Position: timeline.Position{Epoch: 1, Seq: l.top() + 1}, Mode: timeline.Required}
		if first != 0 {
			want.Verdict, want.Seq = timeline.Dup, first
		}
		if v.Verdict == timeline.Repeat && first == 0 && v.Seq == want.Seq { // the answer was cut by a full neighbour
			m.calls["cut"]++
			v.Verdict = timeline.New
		}
		if v.Verdict == timeline.Repeat {
			if v.Seq != 0 && v.Seq != first {
				m.fail("%s: %d repeated as %+v, it is %d", tl, rec.Offset, v, first)
			}
			continue
		}
		if v != want {
			m.fail("%s: %d got %+v, not %+v", tl, rec.Offset, v, want)
			return
		}
		if first == 0 {
			msg := rec.Message
			l.entries = append(l.entries, timeline.Entry{
				Seq: v.Seq, Message: msg, At: timeline.Offset{Generation: m.fold.Partition.Generation, Offset: rec.Offset},
			})
			p.Places = append(p.Places, timeline.Place{Timeline: tl, Position: v.Position, Mode: v.Mode})
		}
	}
	if len(p.Places) > 0 {
		m.queue = append(m.queue, p)
	}
}

func (l *list) indexOf(id message.ID, recent int) uint64 {
	for i := len(l.entries) - 1; i >= max(0, len(l.entries)-recent); i-- {
		if l.entries[i].Message.ID == id {
			return uint64(i + 1)
		}
	}
	return 0
}

// repeat appends old records again: nothing changes.
func (m *model) repeat() {
	if len(m.log) == 0 {
		return
	}
	from := max(0, len(m.log)-1-m.r.IntN(30))
	b := slices.Clone(m.log[from:min(len(m.log), from+3)])
	m.appendAll(b)
}

func (m *model) archive(n int) {
	n = min(n, len(m.queue))
	if n == 0 {
		return
	}
	if m.check(m.store.Archive(m.ctx, timeline.Archiving{Fold: m.fold, Records: m.queue[:n]}), "archive") {
		m.queue = m.queue[n:]
	}
}

// rewind: what is not archived gets the same positions again.
func (m *model) rewind() {
	m.calls["rewind"]++
	fold, err := m.store.RaiseFence(m.ctx, m.fold)
	if !m.check(err, "raise fence") {
		return
	}
	m.fold = fold
	if len(m.queue) == 0 {
		return
	}
	// Every record from the first one that is not archived, in order, until
	// before what is being appended.
	for i := m.queue[0].Offset; i <= m.queue[len(m.queue)-1].Offset; i++ {
		at := slices.IndexFunc(m.log, func(r timeline.Record) bool { return r.Offset == i })
		if at < 0 {
			continue
		}
		rec := m.log[at]
		for {
			got, err := m.store.Append(m.ctx, timeline.Batch{Fold: m.fold, Records: []timeline.Record{rec}})
			if !m.check(err, "append again") {
				return
			}
			if got.Full {
				m.archive(len(m.queue))
				if len(m.queue) == 0 {
					return
				}
				continue
			}
			m.again(&rec, got.Records[0])
			break
		}
	}
}

// again: a replayed record has the position that it had.
func (m *model) again(rec *timeline.Record, verdicts []timeline.Appended) {
	for j, v := range verdicts {
		l := m.lists[rec.Timelines[j]]
		if v.Seq != 0 && (v.Seq > l.top() || l.entries[v.Seq-1].Message.ID != rec.Message.ID || v.Epoch != 1) {
			m.fail("%s: %d got %+v when it was appended again", rec.Timelines[j], rec.Offset, v)
		}
	}
}

func (m *model) lose() {
	if !m.Losses {
		return
	}
	m.lost = true
	switch m.r.IntN(3) {
	case 0:
		m.Window.Empty()
	case 1:
		m.Window.Restart()
	default:
		back := m.Window.Save()
		for range 5 {
			m.append()
		}
		back()
	}
	m.rewind()
}

// as is what mid sees of entries from < seq <= to.
func (m *model) as(mid int64, tl message.Timeline, from, to uint64) []timeline.Entry {
	u := m.users[userTimeline{mid, tl}]
	var seen []timeline.Entry
	for _, e := range m.lists[tl].entries[from:max(from, to)] {
		switch {
		case e.Gone != timeline.Here:
			e.Message = tombstone(e.Message)
		case u.hidden[e.Seq]:
			e.Gone, e.Message = timeline.Hidden, tombstone(e.Message)
		case e.Message.Expired(modelNowMS):
			e.Gone, e.Message = timeline.Expired, tombstone(e.Message)
			if u.hidden[e.Seq] {
				e.Gone = timeline.Hidden
			}
		}
		seen = append(seen, e)
	}
	return seen
}

// sameEntries compares a page with what it should be a beginning (or an end)
// of: limits by bytes and the seam between window and archive make it shorter.
func (m *model) sameEntries(what string, got, want []timeline.Entry, end bool) {
	if len(got) > len(want) || len(got) == 0 && len(want) > 0 {
		m.fail("%s: %d entries, not %d", what, len(got), len(want))
		return
	}
	if end {
		want = want[len(want)-len(got):]
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			m.fail("%s: entry %d is %+v, not %+v", what, i, got[i], want[i])
			return
		}
	}
}
