package job_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// pushedAt are the positions that a comet got, "<body>@<timeline>:<seq>".
func (c *stubComet) pushedAt() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []string{}
	for _, p := range c.pushes {
		at := string(p.Body) + "@"
		for i, place := range p.GetStored().GetPlaces() {
			if i > 0 {
				at += ","
			}
			at += fmt.Sprintf("%s:%d", place.Timeline, place.Seq)
		}
		if len(p.GetStored().GetPlaceOf()) > 0 {
			at += fmt.Sprint(p.Stored.PlaceOf)
		}
		out = append(out, at)
	}
	return out
}

func TestStoredRecordsArePositionedPushedAndArchived(t *testing.T) {
	w, id := storing(t, nil)
	a := w.comets["a"]
	second := w.connect("a", "l", 43)
	j, p, _ := w.one(testConfig())
	w.lanesOpen(4, a)
	a.join(id, "live://1")
	checkFor(t, "the index of rooms", func() error { return a.indexed(1) })
	p.append(kept("u:42", 0), message.ToUser(42))
	p.append(text("u:42", 1), message.ToUser(42)) // transient, keeps its place
	p.append(kept("u:42", 2), message.ToUser(42))
	p.append(kept("r:live://1", 0), message.ToRoom("live://1"))
	p.append(kept("r:sys://all", 0), message.ToAll(0))
	two := kept("two", 0)
	two.Sender = 7
	p.append(two, message.ToUser(44), message.ToUser(42), message.ToUser(43), message.ToUser(42)) // 44 is away, 42 named twice
	committed(t, p)
	if got, want := w.store.rows("u:42"), []string{"1:u:42|0", "2:u:42|2", "3:two|0"}; !slices.Equal(got, want) {
		t.Errorf("u:42: %v, want %v", got, want)
	}
	for tl, want := range map[message.Timeline]string{"u:43": "1:two|0", "u:44": "1:two|0", "r:live://1": "1:r:live://1|0", "r:sys://all": "1:r:sys://all|0"} {
		if got := w.store.rows(tl); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v", tl, got)
		}
	}
	got := a.pushedAt()
	slices.Sort(got)
	want := []string{
		"r:live://1|0@r:live://1:1", "r:sys://all|0@r:sys://all:1", "u:42|0@u:42:1", "u:42|1@", "u:42|2@u:42:2",
	}
	if message.Inbox(42).Lane(4) == message.Inbox(43).Lane(4) {
		want = append(want, "two|0@u:42:3,u:43:1[0 1]")
	} else {
		want = append(want, "two|0@u:42:3", "two|0@u:43:1")
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("pushed %q\nwant %q", got, want)
	}
	a.mu.Lock()
	for _, push := range a.pushes {
		if push.GetStored().GetSender() != 7 && strings.HasPrefix(string(push.Body), "two") {
			t.Errorf("sender %d", push.GetStored().GetSender())
		}
	}
	a.mu.Unlock()
	if n := len(a.bodies(second)); n != 2 { // all, and two
		t.Errorf("the other session got %d", n)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 8, job.Offline: 1})
}

// A caller's retry is a record of its own with the same id: one message, one
// row, one push, and the retry completes at once.
func TestRetriesAreOneMessage(t *testing.T) {
	w, id := storing(t, nil)
	_, p, _ := w.one(testConfig())
	for range 3 {
		p.append(kept("u:42", 0), message.ToUser(42))
	}
	p.append(kept("u:42", 1), message.ToUser(42))
	committed(t, p)
	if err := errors.Join(w.store.checkRows("u:42", 2), checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 2})); err != nil {
		t.Error(err)
	}
}

func TestExpiredMessagesKeepTheirPosition(t *testing.T) {
	w, id := storing(t, nil)
	j, p, _ := w.one(testConfig())
	late := kept("u:42", 0)
	late.ExpiresMS = 1
	p.append(late, message.ToUser(42))
	p.append(kept("u:42", 1), message.ToUser(42))
	late = text("u:42", 2)
	late.ExpiresMS = 1
	p.append(late, message.ToUser(42))
	committed(t, p)
	if err := w.store.checkRows("u:42", 2); err != nil {
		t.Error(err)
	}
	if got := w.comets["a"].bodies(id); !slices.Equal(got, []string{"u:42|1"}) {
		t.Errorf("delivered %v", got)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 1, job.Expired: 2})
}

// While the archive is away messages are delivered, and nothing is committed.
func TestNothingCompletesBeforeItIsArchived(t *testing.T) {
	w, id := storing(t, nil)
	w.store.set(awayFor("Archive"))
	_, p, _ := w.one(testConfig())
	for i := range 20 {
		p.append(kept("u:42", i), message.ToUser(42))
	}
	checkFor(t, "delivered", func() error { return checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 20}) })
	if p.committed != 0 || len(w.store.rows("u:42")) != 0 {
		t.Errorf("committed %d, rows %v", p.committed, w.store.rows("u:42"))
	}
	w.store.set(nil)
	committed(t, p)
	if err := w.store.checkRows("u:42", 20); err != nil {
		t.Error(err)
	}
}

// Symptom: a caller with wait=stored was never told that its message is stored,
// however often it asked again, until the next message of that timeline. Cause:
// a batch whose rows were written was done, also when the window could not be
// told, and whether a message is stored is what the window knows.
func TestNothingCompletesBeforeTheWindowKnows(t *testing.T) {
	w, _ := storing(t, nil)
	var refused atomic.Int32
	w.store.window.SetFault(func(method string) (bool, error) {
		if method == "MarkArchived" && refused.Add(1) <= 3 {
			return false, errStorage
		}
		return true, nil
	})
	_, p, _ := w.one(testConfig())
	m := kept("u:42", 0)
	p.append(m, message.ToUser(42))
	committed(t, p)
	at, stored, err := w.store.store.Find(t.Context(), "u:42", m.ID)
	if at != (timeline.Position{Epoch: timeline.FirstEpoch, Seq: 1}) || !stored || err != nil {
		t.Errorf("%+v, stored %v, %v, after %d refusals", at, stored, err, refused.Load())
	}
	if err := w.store.checkRows("u:42", 1); err != nil {
		t.Error(err)
	}
}

// The store forgets everything while nothing is archived: the worker appends
// it again, and each message gets the number that was shown.
func TestRewindGivesTheSameNumbers(t *testing.T) {
	for _, away := range []string{"Archive", "nothing"} {
		t.Run(away, func(t *testing.T) {
			w, id := storing(t, nil)
			empty := w.store.window.Snapshot()
			cfg := testConfig()
			cfg.MaxBatchRecords = 7
			j, p, _ := w.one(cfg)
			w.store.set(awayFor(away))
			n := 0
			for range 5 {
				for range 20 {
					p.append(kept("u:42", n), message.ToUser(42))
					p.append(kept("u:43", n), message.ToUser(43))
					n++
				}
				checkFor(t, "delivered", func() error { return checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": n}) })
				w.store.window.Lose(empty)
			}
			w.store.set(nil)
			p.append(kept("u:42", n), message.ToUser(42))
			committed(t, p)
			if err := errors.Join(w.store.checkRows("u:42", n+1), w.store.checkRows("u:43", n)); err != nil {
				t.Error(err)
			}
			for i, at := range w.comets["a"].pushedAt() {
				if want := fmt.Sprintf("u:42|%d@u:42:%d", i, i+1); at != want {
					t.Fatalf("push %d is %s, want %s", i, at, want)
				}
			}
			if got := j.metrics.PlainCounter("perseid_rewinds_total", "").Value(); got != 5 {
				t.Errorf("%d rewinds", got)
			}
			if got := j.metrics.PlainGauge("perseid_held_records", "").Value(); got != 0 {
				t.Errorf("%d records are held", got)
			}
		})
	}
}

// Symptom: a worker that rewound ended with "another worker has the partition"
// when the answer to RaiseFence was lost; its records were pushed again by the
// next one, and a claim that had taken the fence over waited for it once more.
// Cause: the fence that stood was the worker's own, raised without an answer.
func TestAFenceRaisedWithoutAnAnswerIsItsOwn(t *testing.T) {
	w, id := storing(t, nil)
	empty := w.store.window.Snapshot()
	_, p, worker := w.one(testConfig())
	w.store.set(awayFor("Archive"))
	for i := range 10 {
		p.append(kept("u:42", i), message.ToUser(42))
	}
	checkFor(t, "delivered", func() error { return checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 10}) })
	w.store.window.Lose(empty)
	lost := 0 // under the lock of the storage
	w.store.set(func(method string) error {
		if method != "RaiseFence's answer" || lost == 2 {
			return nil
		}
		lost++
		return errStorage
	})
	p.append(kept("u:42", 10), message.ToUser(42))
	committed(t, p)
	worker.revoke()
	if err := worker.ended(t); err != nil {
		t.Error(err)
	}
	if err := errors.Join(w.store.checkRows("u:42", 11), checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 11})); err != nil {
		t.Error(err)
	}
}

// A batch that is larger than the free space of the window makes its way by
// parts, and the archive makes room.
func TestAFullWindowWaitsForTheArchive(t *testing.T) {
	w, id := storing(t, func(c *timeline.Config) { c.InboxEntries, c.RoomEntries, c.HardEntries = 16, 16, 32 })
	w.store.set(awayFor("Archive"))
	j, p, _ := w.one(testConfig())
	for i := range 200 {
		p.append(kept("u:42", i), message.ToUser(42))
	}
	full := j.metrics.PlainCounter("perseid_window_full_total", "")
	checkFor(t, "full", func() error {
		if full.Value() < 3 {
			return errors.New("not yet")
		}
		return checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 32})
	})
	w.store.set(nil)
	committed(t, p)
	if err := errors.Join(w.store.checkRows("u:42", 200), checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 200})); err != nil {
		t.Error(err)
	}
}

// The next owner has the fence: the one before can write nothing, and ends.
func TestZombieStops(t *testing.T) {
	w, id := storing(t, nil)
	w.store.set(awayFor("Archive"))
	_, p, first := w.one(testConfig())
	for i := range 10 {
		p.append(kept("u:42", i), message.ToUser(42))
	}
	checkFor(t, "delivered", func() error { return checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 10}) })
	p.zombies = true
	second := w.job(testConfig()).work(p)
	checkFor(t, "the fence of the second", func() error {
		if _, err := w.store.store.TakeFence(t.Context(), timeline.Partition{Log: "push/1", Generation: 1}, 1, nil); !errors.Is(err, timeline.ErrStaleFence) {
			return fmt.Errorf("refused with %v", err)
		}
		return nil
	})
	w.store.set(nil)
	if err := first.ended(t); !errors.Is(err, timeline.ErrStaleFence) {
		t.Errorf("the first: %v", err)
	}
	p.append(kept("u:42", 10), message.ToUser(42))
	committed(t, p)
	second.revoke()
	if err := second.ended(t); err != nil {
		t.Error(err)
	}
	if err := errors.Join(w.store.checkRows("u:42", 11), checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"u:42": 11})); err != nil {
		t.Error(err)
	}
}

// Kafka counts generations from the start again: a claim that lasts gets the
// fence all the same, after a while.
func TestALastingClaimTakesTheFenceOver(t *testing.T) {
	w, _ := storing(t, nil)
	taken, err := w.store.store.TakeFence(t.Context(), timeline.Partition{Log: "push/1", Generation: 1}, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, p, _ := w.one(testConfig())
	p.append(kept("u:42", 0), message.ToUser(42))
	committed(t, p)
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("it did not wait until the claim was settled: %v", took)
	}
	if _, err := w.store.store.RaiseFence(t.Context(), taken); !errors.Is(err, timeline.ErrStaleFence) {
		t.Errorf("the fence was not taken: %v", err)
	}
}

// The topic is another one under the same generation: nothing is appended.
// (Symptom: a worker that was stopped while it asked said only that it was
// stopped. Cause: the attempt that was cut short hid why it had waited.)
func TestAnotherLogWaits(t *testing.T) {
	w, _ := storing(t, nil)
	if _, err := w.store.store.TakeFence(t.Context(), timeline.Partition{Log: "push/0", Generation: 1}, 1, nil); err != nil {
		t.Fatal(err)
	}
	_, p, r := w.one(testConfig())
	p.append(kept("u:42", 0), message.ToUser(42))
	asked := new(atomic.Int32)
	w.store.set(func(string) error { asked.Add(1); return nil })
	checkFor(t, "attempts", func() error {
		if asked.Load() < 3 {
			return errors.New("few")
		}
		return nil
	})
	r.revoke()
	r.cancel()
	if err := r.ended(t); !errors.Is(err, timeline.ErrLogChanged) {
		t.Errorf("Work = %v", err)
	}
	cfg := testConfig()
	cfg.TopicGeneration = 2
	w.job(cfg).work(p)
	committed(t, p)
}

// A row with another message: nothing is overwritten, the partition stops with
// an alarm, and goes on when somebody has mended it.
func TestConflictStopsThePartition(t *testing.T) {
	w, id := storing(t, nil)
	ctx := t.Context()
	cfg := testConfig()
	cfg.ConflictRetry = 20 * time.Millisecond
	var once atomic.Bool
	w.store.set(func(method string) error {
		if method == "Archive" && !once.Swap(true) { // behind the worker's back
			other := kept("u:42", 77)
			fold, err := w.store.store.TakeFence(ctx, timeline.Partition{Log: "push/1", Generation: 1, Number: 9}, 1, nil)
			if err != nil {
				return err
			}
			_, err = w.store.archive.Write(ctx, fold.Partition, fold.Fence, []timeline.Row{{
				Timeline: "u:42", Position: timeline.Position{Epoch: 1, Seq: 1}, Mode: timeline.Required, Message: &other}})
			return err
		}
		return nil
	})
	j, p, _ := w.one(cfg)
	p.append(kept("u:42", 0), message.ToUser(42))
	stopped := j.metrics.PlainGauge("perseid_partitions_stopped", "")
	checkFor(t, "the alarm", func() error {
		if stopped.Value() != 1 {
			return errors.New("no alarm")
		}
		return nil
	})
	p.append(kept("u:42", 1), message.ToUser(42))
	if got := w.store.rows("u:42"); !slices.Equal(got, []string{"1:u:42|77"}) || p.committed != 0 {
		t.Errorf("rows %v, committed %d", got, p.committed)
	}
	if got := w.comets["a"].bodies(id); len(got) > 1 {
		t.Errorf("the partition went on: %v", got)
	}
}

// Rows that nobody waits for: the archive may be away as long as it likes.
func TestLooseRowsHoldNothingUp(t *testing.T) {
	w, _ := storing(t, nil)
	w.store.set(awayFor("Archive"))
	cfg := testConfig()
	cfg.ArchiveQueueBytes = 64 << 10
	j, p, _ := w.one(cfg)
	for i := range 300 {
		p.append(kept("r:loose://1", i), message.ToRoom("loose://1"))
		p.append(kept("r:lost://1", i), message.ToRoom("lost://1"))
	}
	committed(t, p)
	rows := j.metrics.Counter("perseid_archive_rows_total", "", "result", []string{"written", "dropped"})
	// Symptom: rows were missing. Cause: what is committed need not have been
	// queued or dropped yet, and the dropped ones were counted then.
	checkFor(t, "rows that are dropped", func() error {
		if dropped := rows.Value(1); dropped == 0 {
			return errors.New("none")
		}
		return nil
	})
	w.store.set(nil)
	checkFor(t, "the rest", func() error {
		if written, dropped := rows.Value(0), rows.Value(1); written+dropped != 300 {
			return fmt.Errorf("%d rows written, %d dropped", written, dropped)
		}
		return nil
	})
	dropped := rows.Value(1)
	if dropped > 280 {
		t.Errorf("%d rows dropped", dropped)
	}
	if n := len(w.store.rows("r:loose://1")); n != int(300-dropped) || len(w.store.rows("r:lost://1")) != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestUnreadableStoredRecords(t *testing.T) {
	w, _ := storing(t, nil)
	j, p := w.job(testConfig()), newStubPartition(t, 0)
	p.append(kept("u:42", 0), message.ToUser(42))
	p.append(kept("k:k", 0), message.ToKey("k"))
	p.append(kept("x", 0), message.ToUser(42), message.ToKey("k"))
	noID := kept("u:42", 1)
	noID.ID = message.ID{}
	p.append(noID, message.ToUser(42))
	r := j.work(p)
	committed(t, p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.dead, []int64{1, 2, 3}) {
		t.Errorf("dead letters: %v", r.dead)
	}
	if err := w.store.checkRows("u:42", 1); err != nil {
		t.Error(err)
	}
}

// A worker that ends in good order leaves nothing unwritten.
func TestStopWritesLooseRows(t *testing.T) {
	w, _ := storing(t, nil)
	j, p := w.job(testConfig()), newStubPartition(t, 0)
	gate := make(chan struct{})
	w.store.set(func(method string) error {
		if method == "Archive" {
			<-gate
		}
		return nil
	})
	for i := range 50 {
		p.append(kept("r:loose://1", i), message.ToRoom("loose://1"))
	}
	r := j.work(p)
	committed(t, p)
	r.revoke()
	close(gate)
	if err := r.ended(t); err != nil {
		t.Error(err)
	}
	if n := len(w.store.rows("r:loose://1")); n != 50 {
		t.Errorf("%d rows of 50", n)
	}
}
