package timeline_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

const room message.Timeline = "r:group://7"

// world is a store with what stands behind it.
type world struct {
	t       *testing.T
	ctx     context.Context
	window  *timelinetest.Window
	archive *timelinetest.Archive // nil = none
	store   *timeline.Store
	fold    timeline.Fold
	offset  int64
	body    []byte // of messages
}

func newWorld(t *testing.T, archived bool, change func(*timeline.Config)) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), window: timelinetest.NewWindow(), body: []byte("x")}
	var port timeline.Archive
	if archived {
		w.archive = timelinetest.NewArchive()
		port = w.archive
	}
	cfg := timeline.DefaultConfig()
	cfg.InboxEntries, cfg.RoomEntries, cfg.HardEntries = 16, 16, 16
	change(&cfg)
	var err error
	w.store, err = timeline.NewStore(cfg, w.window, port, timeline.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.takeFence()
	return w
}

func asItIs(*timeline.Config) {}

func (w *world) takeFence() {
	w.t.Helper()
	var err error
	w.fold, err = w.store.TakeFence(w.ctx, timeline.Partition{Log: "log", Generation: 1, Number: 1}, 1, nil)
	if err != nil {
		w.t.Fatal(err)
	}
}

// say appends n messages and archives them.
func (w *world) say(tl message.Timeline, n int) {
	w.t.Helper()
	for range n {
		w.offset++
		rec := timeline.Record{Offset: w.offset, Timelines: []message.Timeline{tl},
			Message: message.Message{ID: message.ID{0: byte(w.offset >> 8), 1: byte(w.offset), 15: 1}, Kind: message.Chat, Flags: message.Store | message.Unread, Body: w.body}}
		got, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold, Records: []timeline.Record{rec}})
		if err != nil || got.Full {
			w.t.Fatal(got, err)
		}
		v := got.Records[0][0]
		err = w.store.Archive(w.ctx, timeline.Archiving{Fold: w.fold, Records: []timeline.Positioned{{Offset: rec.Offset, Message: rec.Message,
			Places: []timeline.Place{{Timeline: tl, Position: v.Position, Mode: v.Mode}}}}})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) page(r timeline.Reader, c timeline.Cursor) timeline.Page {
	w.t.Helper()
	pages, err := w.store.Page(w.ctx, r, []timeline.Cursor{c}, timeline.Limit{})
	if err != nil {
		w.t.Fatal(err)
	}
	return pages[0]
}

func seqs(entries []timeline.Entry) (list []uint64) {
	for _, e := range entries {
		if e.Gone == timeline.Here {
			list = append(list, e.Seq)
		}
	}
	return list
}

// Without an archive a lost window is a new epoch: what was there is gone, and
// every client is told so, before and after the next message.
func TestWithoutArchiveLossIsANewEpoch(t *testing.T) {
	w := newWorld(t, false, asItIs)
	tl, r := message.Inbox(5), timeline.Reader{Mid: 5}
	w.say(tl, 3)
	first := w.page(r, timeline.Cursor{Timeline: tl})
	if len(first.Entries) != 3 || first.Epoch <= timeline.FirstEpoch || first.Reset || first.HasMore {
		t.Fatalf("%+v", first)
	}
	cursor := timeline.Cursor{Timeline: tl, Epoch: first.Epoch, After: 3}
	w.window.Lose(timelinetest.Snapshot{})
	if p := w.page(r, cursor); !p.Reset || p.Next != 0 || p.Epoch != 0 {
		t.Fatalf("before the next message: %+v", p)
	}
	_, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold, Records: []timeline.Record{{Offset: 99, Timelines: []message.Timeline{tl}}}})
	if !errors.Is(err, timeline.ErrRewind) {
		t.Fatalf("the worker was not told: %v", err)
	}
	if w.fold, err = w.store.RaiseFence(w.ctx, w.fold); err != nil {
		t.Fatal(err)
	}
	w.say(tl, 3)
	p := w.page(r, cursor)
	if !p.Reset || p.Epoch == first.Epoch || !slices.Equal(seqs(p.Entries), []uint64{1, 2, 3}) || p.Next != 3 {
		t.Fatalf("a cursor that fits by its number only: %+v", p)
	}
	if got, err := w.store.Ack(w.ctx, r, []timeline.Cursor{cursor}); err != nil || got[0].Moved {
		t.Fatalf("an ack of the lost epoch: %+v, %v", got, err)
	}
}

// A window that is smaller than what was said tells so.
func TestWithoutArchiveTrimIsTruncated(t *testing.T) {
	w := newWorld(t, false, asItIs)
	tl, r := message.Inbox(5), timeline.Reader{Mid: 5}
	w.say(tl, 40)
	p := w.page(r, timeline.Cursor{Timeline: tl})
	if !p.Truncated || p.Floor == 0 || p.Entries[0].Seq != p.Floor+1 || p.Next != 40 || p.HasMore {
		t.Fatalf("%+v", p)
	}
	if h, err := w.store.History(w.ctx, r, timeline.Part{Timeline: tl}, timeline.Limit{Entries: 5}); err != nil || !slices.Equal(seqs(h.Entries), []uint64{36, 37, 38, 39, 40}) || !h.HasMore {
		t.Fatalf("%+v, %v", h, err)
	}
}

// Retention moves the archive's floor before the window's: what is below has no
// body any more, and is not shown as empty messages.
func TestTheFloorOfTheArchiveCounts(t *testing.T) {
	w := newWorld(t, true, asItIs)
	tl, r := message.Inbox(5), timeline.Reader{Mid: 5}
	w.say(tl, 60)
	if more, err := w.archive.Retain(w.ctx, tl, 30); more || err != nil {
		t.Fatal(more, err)
	}
	p := w.page(r, timeline.Cursor{Timeline: tl, Epoch: 1, After: 4})
	if !p.Truncated || p.Floor != 30 || p.Entries[0].Seq != 31 || len(p.Entries[0].Message.Body) == 0 {
		t.Fatalf("%+v", p)
	}
	h, err := w.store.History(w.ctx, r, timeline.Part{Timeline: tl, Seq: 33}, timeline.Limit{})
	if err != nil || !slices.Equal(seqs(h.Entries), []uint64{31, 32}) || h.HasMore {
		t.Fatalf("%+v, %v", h, err)
	}
}

// What a best-effort archive missed is said to be lost, not skipped.
func TestBestEffortHolesAreLost(t *testing.T) {
	w := newWorld(t, true, func(c *timeline.Config) { c.RoomTypes = map[string]string{"group": "best_effort"} })
	r := timeline.Reader{Mid: 5, Rooms: []message.Timeline{room}}
	w.say(room, 4)
	for range 40 { // not archived
		w.offset++
		_, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold, Records: []timeline.Record{{Offset: w.offset, Timelines: []message.Timeline{room},
			Message: message.Message{ID: message.ID{1: byte(w.offset), 14: 2}}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.say(room, 30)
	var all []timeline.Entry
	c := timeline.Cursor{Timeline: room}
	for range 20 {
		p := w.page(r, c)
		if p.Err != nil || p.Reset || p.Truncated {
			t.Fatalf("%+v", p)
		}
		all = append(all, p.Entries...)
		if c.Epoch, c.After = p.Epoch, p.Next; !p.HasMore {
			break
		}
	}
	lost := 0
	for i, e := range all {
		if e.Seq != uint64(i+1) {
			t.Fatalf("entry %d has seq %d", i, e.Seq)
		}
		if e.Gone == timeline.Lost {
			lost++
		}
	}
	if len(all) != 74 || lost != 40 {
		t.Fatalf("%d entries, %d of them lost", len(all), lost)
	}
	if _, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold}); err != nil {
		t.Fatal(err)
	}
	w.window.Restart()
	if w.fold, _ = w.store.RaiseFence(w.ctx, w.fold); w.fold.Incarnation == "" {
		t.Fatal("no incarnation")
	}
	epoch := c.Epoch
	w.say(room, 1)
	if p := w.page(r, c); !p.Reset || p.Epoch == epoch || p.Top != 75 {
		t.Fatalf("after a loss: %+v", p)
	}
}

// Symptom: rooms whose type was changed from best_effort to required gave
// numbers again that had been shown with other messages, and readers were told
// for ever to ask later at the first row that was never written. Cause: the
// epoch of the last row was kept, and a required archive was taken to have no
// holes.
func TestWhatBecomesRequiredKeepsNoPromiseOfBefore(t *testing.T) {
	w := newWorld(t, true, func(c *timeline.Config) { c.RoomTypes = map[string]string{"group": "best_effort"} })
	r := timeline.Reader{Mid: 5, Rooms: []message.Timeline{room}}
	unarchived := func(n int) {
		for range n {
			w.offset++
			_, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold, Records: []timeline.Record{{Offset: w.offset, Timelines: []message.Timeline{room},
				Message: message.Message{ID: message.ID{1: byte(w.offset), 14: 2}}}}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	w.say(room, 4)
	unarchived(2)
	w.say(room, 2)
	unarchived(3)
	before := w.page(r, timeline.Cursor{Timeline: room})
	if before.Top != 11 || before.Next != 11 {
		t.Fatalf("%+v", before)
	}
	err := w.store.Close(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	cfg := timeline.DefaultConfig() // every room is required
	if w.store, err = timeline.NewStore(cfg, w.window, w.archive, timeline.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader}); err != nil {
		t.Fatal(err)
	}
	unarchived(1) // shown as 9, where another message was
	now := w.page(r, timeline.Cursor{Timeline: room, Epoch: before.Epoch, After: 8})
	if now.Epoch == before.Epoch || !now.Reset || now.Top != 9 {
		t.Fatalf("%+v", now)
	}
	var all []timeline.Entry
	for p, c := now, (timeline.Cursor{Timeline: room, Epoch: now.Epoch}); ; p = w.page(r, c) {
		if p.Err != nil || len(p.Entries) == 0 {
			t.Fatalf("after %d: %+v", c.After, p)
		}
		all, c.After = append(all, p.Entries...), p.Next
		if !p.HasMore {
			break
		}
	}
	for i, e := range all {
		if e.Seq != uint64(i+1) || (e.Gone == timeline.Lost) != (e.Seq == 5 || e.Seq == 6) {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	// Lost again before anything was archived: the same position once more.
	w.window.Restart()
	ahead := timeline.Cursor{Timeline: room, Epoch: now.Epoch, After: 9}
	if p := w.page(r, ahead); !errors.Is(p.Err, timeline.ErrBehind) {
		t.Errorf("while it is away: %+v", p)
	}
	if w.fold, err = w.store.RaiseFence(w.ctx, w.fold); err != nil {
		t.Fatal(err)
	}
	w.say(room, 1)
	if p := w.page(r, ahead); p.Err != nil || p.Reset || p.Epoch != now.Epoch || p.Top != 9 {
		t.Errorf("%+v", p)
	}
	w.window.Restart() // and from the row
	if p := w.page(r, ahead); p.Err != nil || p.Reset || p.Epoch != now.Epoch || p.Top != 9 {
		t.Errorf("%+v", p)
	}
}

// A full timeline answers a prefix, and goes on when rows were archived whose
// mark was lost: logic was killed between the two.
func TestFullAnswersAPrefixAndRecovers(t *testing.T) {
	w := newWorld(t, true, asItIs)
	tl := message.Inbox(5)
	b := timeline.Batch{Fold: w.fold}
	for i := range int64(40) {
		b.Records = append(b.Records, timeline.Record{Offset: i + 1, Message: message.Message{ID: message.ID{byte(i + 1)}}, Timelines: []message.Timeline{tl}})
	}
	got, err := w.store.Append(w.ctx, b)
	if err != nil || !got.Full || len(got.Records) != 16 {
		t.Fatalf("%d of 40, full %v, %v", len(got.Records), got.Full, err)
	}
	a := timeline.Archiving{Fold: w.fold}
	for i, v := range got.Records {
		a.Records = append(a.Records, timeline.Positioned{Offset: b.Records[i].Offset, Message: b.Records[i].Message,
			Places: []timeline.Place{{Timeline: tl, Position: v[0].Position, Mode: v[0].Mode}}})
	}
	w.window.SetFault(func(method string) (bool, error) {
		if method == "MarkArchived" {
			return false, errors.New("the window is away")
		}
		return true, nil
	})
	if err := w.store.Archive(w.ctx, a); err == nil {
		t.Fatal("archived, and the window does not know")
	}
	w.window.SetFault(nil)
	b.Records = b.Records[16:]
	if got, err = w.store.Append(w.ctx, b); err != nil || len(got.Records) != 16 || got.Records[0][0].Seq != 17 {
		t.Fatalf("with arch lost: %d records, %v", len(got.Records), err)
	}
}

func TestPageWithoutCursorsIsEverythingOfTheReader(t *testing.T) {
	w := newWorld(t, true, asItIs)
	w.say(message.Inbox(8), 4)
	w.say(room, 2)
	if err := w.store.Join(w.ctx, room, []timeline.Member{{Mid: 8}}); err != nil {
		t.Fatal(err)
	}
	w.say(room, 1)
	r := timeline.Reader{Mid: 8, Rooms: []message.Timeline{"r:live://1", room}}
	if _, err := w.store.Ack(w.ctx, r, []timeline.Cursor{{Timeline: message.Inbox(8), Epoch: 1, After: 3}}); err != nil {
		t.Fatal(err)
	}
	pages, err := w.store.Page(w.ctx, r, nil, timeline.Limit{})
	if err != nil || len(pages) != 3 {
		t.Fatalf("%+v, %v", pages, err)
	}
	want := map[message.Timeline][]uint64{message.Inbox(8): {4}, "r:live://1": nil, room: {3}}
	for _, p := range pages {
		if got := seqs(p.Entries); !slices.Equal(got, want[p.Timeline]) || p.Err != nil {
			t.Errorf("%s: %v, want %v", p.Timeline, got, want[p.Timeline])
		}
	}
	if _, err := w.store.Page(w.ctx, r, make([]timeline.Cursor, timeline.MaxCursors+1), timeline.Limit{}); !errors.Is(err, timeline.ErrTooMany) {
		t.Errorf("257 cursors: %v", err)
	}
}

// No client's number makes a page larger than the bounds.
func TestPagesOfManyTimelinesAreBounded(t *testing.T) {
	w := newWorld(t, false, func(c *timeline.Config) { c.RoomEntries, c.HardEntries = 200, 200 })
	var rooms []message.Timeline
	var cursors []timeline.Cursor
	for i := range 10 {
		rooms = append(rooms, message.ToRoom("live://"+string(rune('a'+i))).Timeline())
		w.say(rooms[i], 150)
		cursors = append(cursors, timeline.Cursor{Timeline: rooms[i]})
	}
	r := timeline.Reader{Mid: 8, Rooms: rooms}
	total, rounds := 0, 0
	for more := true; more && rounds < 10; rounds++ {
		pages, err := w.store.Page(w.ctx, r, cursors, timeline.Limit{Entries: 1 << 30, Bytes: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		more = false
		for i, p := range pages {
			n += len(p.Entries)
			if p.HasMore != (p.Next < p.Top) || p.Next != cursors[i].After+uint64(len(p.Entries)) {
				t.Fatalf("%+v", p)
			}
			cursors[i].Epoch, cursors[i].After = p.Epoch, p.Next
			more = more || p.HasMore
		}
		if n > 1000 {
			t.Fatalf("%d entries at once", n)
		}
		total += n
	}
	if total != 1500 {
		t.Fatalf("%d entries in %d rounds", total, rounds)
	}
}

// Symptom: a reader never got past a message of 1 MiB or more (logic's
// max_body_bytes may be 16 MiB): every page was empty and had more.
// Cause: the bound of a call took away the only entry it had.
func TestAMessageLargerThanACallIsGiven(t *testing.T) {
	w := newWorld(t, false, func(c *timeline.Config) { c.HardBytes = 64 << 20 })
	tl, r := message.Inbox(8), timeline.Reader{Mid: 8}
	var large []timeline.Record
	for i := range 3 {
		large = append(large, timeline.Record{Offset: int64(i), Timelines: []message.Timeline{tl}, Message: message.Message{ID: message.ID{byte(i + 1)}, Body: make([]byte, 2<<20)}})
	}
	if got, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold, Records: large}); err != nil || got.Full {
		t.Fatal(got.Full, err)
	}
	first := w.page(r, timeline.Cursor{Timeline: tl})
	for at := first.Floor; at < 3; at++ { // what is trimmed is none of this test's
		p := w.page(r, timeline.Cursor{Timeline: tl, Epoch: first.Epoch, After: at})
		if !slices.Equal(seqs(p.Entries), []uint64{at + 1}) || p.Next != at+1 || p.HasMore != (at < 2) {
			t.Fatalf("after %d: %d entries, next %d, more %v", at, len(p.Entries), p.Next, p.HasMore)
		}
	}
}

// Cursors reach the archive within a flush interval, and with Close.
func TestCursorsAreSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, asItIs)
		tl, r := message.Inbox(8), timeline.Reader{Mid: 8}
		w.say(tl, 9)
		ack := func(seq uint64) {
			t.Helper()
			if _, err := w.store.Ack(w.ctx, r, []timeline.Cursor{{Timeline: tl, Epoch: 1, After: seq}}); err != nil {
				t.Fatal(err)
			}
		}
		saved := func() uint64 {
			t.Helper()
			c, err := w.archive.Cursors(w.ctx, 8, []message.Timeline{tl})
			if err != nil {
				t.Fatal(err)
			}
			return c[0].Acked
		}
		ack(4)
		w.archive.SetFault(func(string) (bool, error) { return false, errors.New("the archive is away") })
		time.Sleep(1500 * time.Millisecond)
		w.archive.SetFault(nil)
		if got := saved(); got != 0 {
			t.Fatalf("saved %d", got)
		}
		time.Sleep(time.Second)
		if got := saved(); got != 4 {
			t.Fatalf("saved %d after the archive came back", got)
		}
		w.window.Lose(timelinetest.Snapshot{})
		ack(2)
		if s, err := w.store.Cursors(w.ctx, r, []message.Timeline{tl}); err != nil || s[0].Acked != 4 {
			t.Fatalf("from the archive: %+v, %v", s, err)
		}
		ack(7)
		if err := w.store.Close(w.ctx); err != nil {
			t.Fatal(err)
		}
		if got := saved(); got != 7 {
			t.Fatalf("saved %d by Close", got)
		}
	})
}

// A body that is on its way to the archive is not left there.
func TestRevokeWaitsForTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, asItIs)
		tl := message.Inbox(8)
		rec := timeline.Record{Offset: 1, Timelines: []message.Timeline{tl}, Message: message.Message{ID: message.ID{1}, Body: []byte("secret")}}
		got, err := w.store.Append(w.ctx, timeline.Batch{Fold: w.fold, Records: []timeline.Record{rec}})
		if err != nil {
			t.Fatal(err)
		}
		revoked := make(chan error, 1)
		go func() {
			_, err := w.store.Revoke(w.ctx, tl, 1, 3)
			revoked <- err
		}()
		synctest.Wait() // it has looked for the row
		err = w.store.Archive(w.ctx, timeline.Archiving{Fold: w.fold, Records: []timeline.Positioned{{Offset: 1, Message: rec.Message,
			Places: []timeline.Place{{Timeline: tl, Position: got.Records[0][0].Position, Mode: timeline.Required}}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-revoked; err != nil {
			t.Fatal(err)
		}
		if rows := w.archive.Rows(tl); rows[0].Gone != timeline.Revoked || rows[0].Message.Body != nil {
			t.Fatalf("%+v", rows)
		}
		if p := w.page(timeline.Reader{Mid: 8}, timeline.Cursor{Timeline: tl}); p.Entries[0].Gone != timeline.Revoked || p.Entries[0].Message.Body != nil {
			t.Fatalf("%+v", p)
		}
	})
}

func TestModes(t *testing.T) {
	w := newWorld(t, true, func(c *timeline.Config) {
		c.RoomArchive = "off"
		c.RoomTypes = map[string]string{"group": "required", "live": "best_effort", "sys": "off"}
	})
	for tl, want := range map[message.Timeline]timeline.Mode{
		"u:1": timeline.Required, "r:group://1": timeline.Required, "r:live://1": timeline.BestEffort, "r:other://1": timeline.Off,
		message.AllTimeline: timeline.Required,
	} {
		if got := w.store.ModeOf(tl); got != want {
			t.Errorf("%s: %v, want %v", tl, got, want)
		}
	}
	if got := newWorld(t, false, asItIs).store.ModeOf("u:1"); got != timeline.Off {
		t.Errorf("without an archive: %v", got)
	}
}

func TestConfigProblems(t *testing.T) {
	good := timeline.DefaultConfig()
	if p := good.Problems(); p != nil {
		t.Errorf("the default: %q", p)
	}
	bad := timeline.Config{RoomArchive: "maybe", RoomTypes: map[string]string{"a": "", "": "off"}}
	if p := bad.Problems(); len(p) != 8 || !strings.Contains(strings.Join(p, "\n"), `room_archive = "maybe": required, best_effort or off`) {
		t.Errorf("%d problems: %q", len(p), p)
	}
}
