package job

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/timeline"
)

// sluggish is a store whose archive takes rowTakes for a row, all of a call in
// one transaction.
type sluggish struct {
	noStorage
	last  atomic.Uint64
	calls atomic.Int32
}

const rowTakes = 20 * time.Millisecond

func (*sluggish) TakeFence(_ context.Context, p timeline.Partition, owner uint64, _ *timeline.Fence) (timeline.Fold, error) {
	return timeline.Fold{Partition: p, Fence: timeline.Fence{Owner: owner}}, nil
}

func (s *sluggish) RouteStored(_ context.Context, _ timeline.Fold, items []RouteItem) (Routes, bool, error) {
	out := Routes{Results: make([]Located, len(items))}
	for i := range items {
		at := timeline.Position{Epoch: 1, Seq: s.last.Add(1)}
		out.Results[i] = Located{Offline: 1, Appended: []timeline.Appended{{Verdict: timeline.New, Position: at, Mode: timeline.Required}}}
	}
	return out, false, nil
}

func (s *sluggish) Archive(ctx context.Context, a timeline.Archiving) error {
	s.calls.Add(1)
	if !sleep(ctx, time.Duration(rowsOf(a))*rowTakes) {
		return ctx.Err()
	}
	return nil
}

// storedRecords is a claim with so many stored records.
type storedRecords struct {
	memClaim
	left int
}

func (c *storedRecords) Next(ctx context.Context, max int) ([]stream.Record, error) {
	if c.left == 0 {
		return c.memClaim.Next(ctx, max)
	}
	out := make([]stream.Record, min(max, c.left))
	for i := range out {
		out[i] = stream.Record{
			Offset:  int64(c.left - i),
			Message: message.Message{ID: message.DeriveID("test", strconv.Itoa(c.left-i)), Flags: message.Store, Kind: message.Chat},
			Targets: []message.Target{message.ToUser(42)},
		}
	}
	c.left -= len(out)
	return out, nil
}

// Symptom: after an outage of the archive a partition with a backlog never went
// on. Cause: what waited went into one call, which the archive could not write
// within route_timeout; it was taken back, and the same was asked again and
// again.
func TestAnArchiveThatIsSlowGetsLessAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, claim := &sluggish{}, &storedRecords{left: 2000}
		j, err := New(DefaultConfig(), Deps{Name: "j", Router: &memRouter{}, Storage: store, Edge: newMemEdge(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- j.Work(ctx, claim) }()
		// 40 s for the rows, and what is learned by timeouts of 5 s.
		time.Sleep(2 * time.Minute)
		if n := claim.count(); n != 2000 {
			t.Errorf("%d of 2000 records are archived, after %d calls", n, store.calls.Load())
		}
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
