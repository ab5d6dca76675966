package sqlstore

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
)

func TestRowsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, dsn string) {
		f := fenced(t, s, 1)
		rows := rowsOf(room, 1, 50)
		rows[7].Message.Body = bytes.Repeat([]byte{0, '\'', '\\', 0xff}, 600_000) // above one INSERT
		rows[8].Message.ExpiresMS = 1 << 50
		write(t, s, f, rows...)
		write(t, s, f, rows[10:20]...) // again
		for _, s := range []*Store{s, open(t, dsn)} {
			got, err := s.Read(t.Context(), 0, everything(room))
			if err != nil || len(got) != len(rows) {
				t.Fatalf("%d rows, %v", len(got), err)
			}
			for i, e := range got {
				want := timeline.Entry{Seq: rows[i].Seq, At: rows[i].At, Message: *rows[i].Message}
				if !reflect.DeepEqual(e, want) {
					t.Fatalf("row %d is %.200v, want %.200v", i, e, want)
				}
			}
		}
	})
}

// Letters that differ only in case, or by a space at the end, are other
// timelines: names are bytes.
func TestNamesAreBytes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		f := fenced(t, s, 1)
		tls := []message.Timeline{"r:a://x", "r:A://x", "r:a://x ", "r:á://x"}
		for i, tl := range tls {
			write(t, s, f, rowsOf(tl, 1, uint64(i+1))...)
		}
		tops, err := s.Tops(t.Context(), append(tls, "r:a://nothing"))
		if err != nil {
			t.Fatal(err)
		}
		for i, top := range tops[:4] {
			if top.Seq != uint64(i+1) || top.Timeline != tls[i] || top.Epoch != timeline.FirstEpoch {
				t.Errorf("%q: %+v", tls[i], top)
			}
		}
		if want := (timeline.ArchiveTop{Top: timeline.Top{Timeline: "r:a://nothing"}}); tops[4] != want {
			t.Errorf("nothing: %+v", tops[4])
		}
	})
}

func TestAConflictWritesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		f := fenced(t, s, 1)
		write(t, s, f, rowsOf("u:1", 1, 300)...)
		batch := rowsOf("u:2", 1, 700)
		other := rowOf("u:1", 299, timeline.Required)
		other.Message.ID = message.ID{9}
		_, err := s.Write(t.Context(), here, f, append(batch, other))
		var conflict *timeline.Conflict
		if !errors.As(err, &conflict) || conflict.Timeline != "u:1" || conflict.Seq != 299 || conflict.Refused != (message.ID{9}) ||
			conflict.Stands != rowOf("u:1", 299, timeline.Required).Message.ID {
			t.Fatalf("err = %v", err)
		}
		tops, err := s.Tops(t.Context(), []message.Timeline{"u:2"})
		if err != nil || tops[0].Seq != 0 || tops[0].Epoch != 0 {
			t.Fatalf("rows beside the conflict were written: %+v, %v", tops, err)
		}
		other.Mode = timeline.BestEffort
		other.Epoch = 77
		if skipped, err := s.Write(t.Context(), here, f, append(batch, other)); skipped != 1 || err != nil {
			t.Fatalf("best effort: %d skipped, %v", skipped, err)
		}
		if e, err := s.Find(t.Context(), "u:1", conflict.Stands); err != nil || e.Seq != 299 {
			t.Fatalf("the row that stood: %+v, %v", e, err)
		}
	})
}

// Symptom it guards against: rows of an earlier life of a worker slip in after
// the state was reloaded without them. The fence must hold until the rows are
// committed, so raising it waits.
func TestRaiseFenceWaitsForTheWriteUnderWay(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		f := fenced(t, s, 1)
		tx, err := s.writer.BeginTx(t.Context(), s.dialect.writing)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		if err := checkFence(t.Context(), tx, here, f, s.dialect.forUpdate); err != nil {
			t.Fatal(err)
		}
		raised := make(chan error, 1)
		go func() {
			_, err := s.RaiseFence(context.WithoutCancel(t.Context()), here, f)
			raised <- err
		}()
		select {
		case err := <-raised:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-raised; err != nil {
			t.Fatal(err)
		}
		var stale *timeline.StaleFence
		if _, err := s.Write(t.Context(), here, f, rowsOf("u:1", 1, 1)); !errors.As(err, &stale) || stale.Stands != (timeline.Fence{Owner: 1, Rewinds: 1}) {
			t.Fatalf("a late write: %v", err)
		}
		if _, err := s.Load(t.Context(), here, f, []message.Timeline{"u:1"}); !errors.Is(err, timeline.ErrStaleFence) {
			t.Fatalf("a late load: %v", err)
		}
	})
}

// Many workers fight for one partition and write what they believe in; only
// rows of fences that stood at their commit may be there, one life after the
// other.
func TestOnlyOneFenceStandsAtATime(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		var mu sync.Mutex
		written := map[uint64]timeline.Fence{}
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 12 {
					f, err := s.TakeFence(t.Context(), here, 5, nil)
					if err != nil {
						t.Error(err)
						return
					}
					for k := range 3 {
						seq := uint64(w*1000 + i*10 + k + 1)
						row := rowOf("u:1", seq, timeline.Required)
						row.At = timeline.Offset{Generation: uint32(f.Rewinds), Offset: int64(seq)}
						_, err := s.Write(t.Context(), here, f, []timeline.Row{row})
						if err != nil && !errors.Is(err, timeline.ErrStaleFence) {
							t.Error(err)
						}
						if err == nil {
							mu.Lock()
							written[seq] = f
							mu.Unlock()
						}
					}
				}
			})
		}
		wg.Wait()
		got, err := s.Read(t.Context(), 0, everything("u:1"))
		if err != nil || len(got) != len(written) || len(got) == 0 {
			t.Fatalf("%d rows of %d that were acknowledged, %v", len(got), len(written), err)
		}
		f, err := s.TakeFence(t.Context(), here, 5, nil)
		if err != nil || f.Rewinds != 96 {
			t.Fatalf("97 lives end in %+v, %v", f, err)
		}
	})
}

func TestSeedsAreTheNewestRows(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		f := fenced(t, s, 1)
		for seq := uint64(1); seq < 1200; seq += 600 {
			write(t, s, f, rowsOf("u:7", seq, seq+599)...)
			write(t, s, f, rowsOf("r:a://1", seq, seq+599)...)
		}
		tls := []message.Timeline{"u:7", "r:a://none", "r:a://1"}
		for i := range 70 { // more than one query
			tls = append(tls, message.Inbox(int64(i+100)))
		}
		seeds, err := s.Load(t.Context(), here, f, tls)
		if err != nil || len(seeds) != len(tls) {
			t.Fatalf("%d seeds, %v", len(seeds), err)
		}
		for i, recent := range map[int]int{0: timeline.RecentInbox, 2: timeline.RecentRoom} {
			seed := seeds[i]
			if seed.Top != 1200 || seed.Epoch != timeline.FirstEpoch || seed.Off != (timeline.Offset{Generation: 1, Offset: 12000}) || len(seed.IDs) != recent {
				t.Fatalf("%s: top %d, epoch %d, off %v, %d ids", tls[i], seed.Top, seed.Epoch, seed.Off, len(seed.IDs))
			}
			for k, id := range seed.IDs {
				if want := uint64(1200 - recent + 1 + k); id.Seq != want || id.ID != rowOf(tls[i], want, 0).Message.ID {
					t.Fatalf("%s: id %d is %+v", tls[i], k, id)
				}
			}
		}
		if seeds[1].Top != 0 || seeds[1].Epoch != 0 || seeds[40].IDs != nil {
			t.Errorf("timelines without rows: %+v", seeds[1])
		}
	})
}

func TestRetentionKeepsWhatASeedNeeds(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		f := fenced(t, s, 1)
		const last = 2500
		for seq := uint64(1); seq <= last; seq += 500 {
			write(t, s, f, rowsOf("u:7", seq, seq+499)...)
		}
		if err := s.Hide(t.Context(), 7, "u:7", []uint64{3, last}); err != nil {
			t.Fatal(err)
		}
		before, err := s.Load(t.Context(), here, f, []message.Timeline{"u:7"})
		if err != nil {
			t.Fatal(err)
		}
		floor := uint64(last - 100)
		steps := 0
		for more := true; more; steps++ {
			if more, err = s.Retain(t.Context(), "u:7", floor); err != nil || steps > 5 {
				t.Fatalf("step %d: %v", steps, err)
			}
		}
		if steps != 3 {
			t.Errorf("%d steps", steps)
		}
		after, err := s.Load(t.Context(), here, f, []message.Timeline{"u:7"})
		if err != nil || after[0].Floor != floor {
			t.Fatalf("floor %d, %v", after[0].Floor, err)
		}
		after[0].Floor = 0
		if !reflect.DeepEqual(before, after) {
			t.Errorf("the seed changed: top %d, %d ids", after[0].Top, len(after[0].IDs))
		}
		got, err := s.Read(t.Context(), 7, everything("u:7"))
		if err != nil || len(got) != 100 || got[0].Seq != floor+1 || got[99].Gone != timeline.Hidden {
			t.Fatalf("%d rows are read, %v", len(got), err)
		}
		var rows, bodies, hidden int
		for _, count := range []struct {
			query string
			n     *int
		}{{`SELECT COUNT(*) FROM message`, &rows}, {`SELECT COUNT(*) FROM message WHERE LENGTH(body) > 0 AND seq <= 2400`, &bodies}, {`SELECT COUNT(*) FROM hidden`, &hidden}} {
			if err := s.reader.QueryRowContext(t.Context(), count.query).Scan(count.n); err != nil {
				t.Fatal(err)
			}
		}
		if rows != timeline.RecentInbox || bodies != 0 || hidden != 1 {
			t.Errorf("%d rows, %d old bodies, %d hidden positions are left", rows, bodies, hidden)
		}
		if more, err := s.Retain(t.Context(), "u:7", 5); more || err != nil {
			t.Errorf("a lower floor: %v, %v", more, err)
		}
		if tops, err := s.Tops(t.Context(), []message.Timeline{"u:7"}); err != nil || tops[0].Floor != floor || tops[0].Seq != last {
			t.Errorf("tops %+v, %v", tops, err)
		}
	})
}

func TestOlderFindsWhatRetentionTakes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		f := fenced(t, s, 1)
		var rows []timeline.Row
		for i := range 700 { // more than one look; each has rows accepted at 1 s and 2 s
			rows = append(rows, rowsOf(message.Timeline("r:a://"+string(rune('a'+i/26))+string(rune('a'+i%26))), 1, 2)...)
			if len(rows) == 700 {
				write(t, s, f, rows...)
				rows = nil
			}
		}
		write(t, s, f, rowsOf("r:b://long", 1, 100)...)
		write(t, s, f, rowOf("r:b://young", 90, timeline.BestEffort), rowOf("r:b://hole", 2, timeline.BestEffort), rowOf("r:b://hole", 80, timeline.BestEffort))
		older, err := s.Older(t.Context(), "r:a://~", 43_500, 10)
		if err != nil {
			t.Fatal(err)
		}
		want := []timeline.Top{
			{Timeline: "r:b://hole", Position: timeline.Position{Epoch: 1, Seq: 2}},
			{Timeline: "r:b://long", Position: timeline.Position{Epoch: 1, Seq: 43}},
		}
		if !reflect.DeepEqual(older, want) {
			t.Fatalf("older: %+v", older)
		}
		all := 0
		for after := message.Timeline(""); ; {
			page, err := s.Older(t.Context(), after, 1500, 99)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, top := range page {
				if top.Timeline <= after || top.Seq != 1 {
					t.Fatalf("after %q: %+v", after, top)
				}
				after = top.Timeline
				all++
			}
		}
		if all != 701 {
			t.Errorf("%d timelines in all pages", all)
		}
		if _, err := s.Retain(t.Context(), "r:b://long", 43); err != nil {
			t.Fatal(err)
		}
		if older, err := s.Older(t.Context(), "r:b://hole", 43_500, 10); err != nil || len(older) != 0 {
			t.Errorf("what is below the floor is old again: %+v, %v", older, err)
		}
	})
}

func TestMembersUpToALimit(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		var wg sync.WaitGroup
		refused := make(chan error, 20)
		for i := range 20 {
			wg.Go(func() {
				refused <- s.Join(t.Context(), room, []timeline.Member{{Mid: int64(i + 1)}, {Mid: int64(i + 101)}, {Mid: int64(i + 1), Role: timeline.Admin}}, true, 30)
			})
		}
		wg.Wait()
		close(refused)
		n := 0
		for err := range refused {
			if errors.Is(err, timeline.ErrTooMany) {
				n++
			} else if err != nil {
				t.Error(err)
			}
		}
		members, err := s.Members(t.Context(), room, 0, 1000)
		if err != nil || n != 5 || len(members) != 30 {
			t.Fatalf("%d joins refused, %d members, %v", n, len(members), err)
		}
		admins := 0
		for _, m := range members {
			if m.Role == timeline.Admin {
				admins++
			}
		}
		if admins != 15 {
			t.Errorf("%d admins", admins)
		}
		if err := s.Leave(t.Context(), room, []int64{members[0].Mid, 999, members[0].Mid}, 0); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Range(t.Context(), members[0].Mid, room); err != nil || r.Contains(1) || r.Contains(2) {
			t.Errorf("who left an empty room sees %+v, %v", r, err)
		}
		if err := s.Join(t.Context(), room, []timeline.Member{{Mid: 500}}, true, 30); err != nil {
			t.Errorf("the place that was left: %v", err)
		}
	})
}

// Only a server of one's own may be told to be careless.
func TestACarelessServerIsNamed(t *testing.T) {
	t.Parallel()
	server := testdeps.MariaDBServer(t)
	s := open(t, testdeps.Database(server.Addr))
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	if s.checkDurability(t.Context()); log.Len() > 0 {
		t.Errorf("the default is warned of: %s", &log)
	}
	if _, err := s.writer.ExecContext(t.Context(), `SET GLOBAL innodb_flush_log_at_trx_commit = 2`); err != nil {
		t.Fatal(err)
	}
	if s.checkDurability(t.Context()); !strings.Contains(log.String(), "innodb_flush_log_at_trx_commit=2") {
		t.Errorf("logged: %q", &log)
	}
}

func TestOpenTwiceAndTablesOfANewerVersion(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, dsn string) {
		if _, err := s.writer.ExecContext(t.Context(), `INSERT INTO migration (version, applied_ms) VALUES (99, 0)`); err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		cfg.DSN, cfg.DialWithin = dsn, time.Minute
		if _, err := Open(t.Context(), cfg, s.log); err == nil || !strings.Contains(err.Error(), "version 99") {
			t.Fatalf("err = %v", err)
		}
	})
}
