package sqlstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func open(t testing.TB, dsn string, change ...func(*Config)) *Store {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DSN = dsn
	for _, fn := range change {
		fn(&cfg)
	}
	cfg.DialWithin, cfg.LockWithin = time.Minute, time.Minute // the machine may pause
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := Open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// onBoth runs a test on an empty archive of each dialect; dsn opens it again.
func onBoth(t *testing.T, f func(t *testing.T, s *Store, dsn string), change ...func(*Config)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dsn := "sqlite:" + filepath.Join(t.TempDir(), "a?b#c%41.db")
		f(t, open(t, dsn, change...), dsn)
	})
	t.Run("mariadb", func(t *testing.T) {
		t.Parallel()
		dsn := testdeps.Database(testdeps.MariaDB(t))
		f(t, open(t, dsn, change...), dsn)
	})
}

var (
	here = timeline.Partition{Log: "pushes/a1", Generation: 1, Number: 3}
	room = message.Timeline("r:live://\xffa'b\\c%_\x00`")
)

// rowOf is a row whose message is made of its position, so that it can be told
// from all others.
func rowOf(tl message.Timeline, seq uint64, mode timeline.Mode) timeline.Row {
	r := rand.New(rand.NewPCG(seq, uint64(len(tl))))
	body := make([]byte, r.IntN(40))
	for i := range body {
		body[i] = byte(r.Uint32())
	}
	if len(body) == 0 {
		body = nil
	}
	return timeline.Row{
		Timeline: tl, Position: timeline.Position{Epoch: timeline.FirstEpoch, Seq: seq},
		At: timeline.Offset{Generation: 1, Offset: int64(seq) * 10}, Mode: mode,
		Message: &message.Message{
			ID: message.DeriveID(string(tl), fmt.Sprint(seq)), Op: int32(1000 + seq), Flags: message.Store | message.Unread | 1<<31,
			Kind: message.Chat, Sender: int64(seq % 3), ClientID: "c'\x00\xff", Operator: "op", Source: `s"\`,
			AcceptedMS: int64(seq) * 1000, Body: body,
		},
	}
}

func rowsOf(tl message.Timeline, from, to uint64) []timeline.Row {
	var rows []timeline.Row
	for seq := from; seq <= to; seq++ {
		rows = append(rows, rowOf(tl, seq, timeline.Required))
	}
	return rows
}

// fenced takes the fence of here.
func fenced(t testing.TB, s *Store, owner uint64) timeline.Fence {
	t.Helper()
	f, err := s.TakeFence(t.Context(), here, owner, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t testing.TB, s *Store, f timeline.Fence, rows ...timeline.Row) {
	t.Helper()
	if skipped, err := s.Write(t.Context(), here, f, rows); err != nil || skipped != 0 {
		t.Fatalf("write: %d skipped, %v", skipped, err)
	}
}

func everything(tl message.Timeline) timeline.ArchiveRead {
	return timeline.ArchiveRead{Timeline: tl, To: 1<<64 - 1, Entries: 10_000, Bytes: 1 << 30}
}
