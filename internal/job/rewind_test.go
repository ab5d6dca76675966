package job

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/timeline"
)

// restless is a store that is another one than before whenever it is asked.
type restless struct {
	noStorage
	raised atomic.Int32
}

// enough is where restless goes silent, so that a worker that never pauses
// lets the fake clock go on.
const enough = 1000

func (s *restless) TakeFence(_ context.Context, p timeline.Partition, owner uint64, _ *timeline.Fence) (timeline.Fold, error) {
	return timeline.Fold{Partition: p, Fence: timeline.Fence{Owner: owner}}, nil
}

func (s *restless) RaiseFence(ctx context.Context, f timeline.Fold) (timeline.Fold, error) {
	if s.raised.Add(1) >= enough {
		<-ctx.Done()
		return timeline.Fold{}, ctx.Err()
	}
	f.Fence.Rewinds++
	return f, nil
}

func (s *restless) RouteStored(context.Context, timeline.Fold, []RouteItem) (Routes, bool, error) {
	return Routes{}, false, timeline.ErrRewind
}

// oneRecord is a claim with one stored record.
type oneRecord struct {
	memClaim
	taken bool
}

func (c *oneRecord) Next(ctx context.Context, max int) ([]stream.Record, error) {
	if c.taken {
		return c.memClaim.Next(ctx, max)
	}
	c.taken = true
	return []stream.Record{{
		Message: message.Message{ID: message.DeriveID("test", "0"), Flags: message.Store, Kind: message.Chat},
		Targets: []message.Target{message.ToUser(42)},
	}}, nil
}

// Symptom: while two logics saw two stores, a failover being under way or the
// configuration wrong, each partition raised its fence in SQL as fast as SQL
// could. Cause: an append that was told to rewind was asked again at once,
// however often that had happened.
func TestRewindsInARowPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &restless{}
		j, err := New(DefaultConfig(), Deps{Name: "j", Router: &memRouter{}, Storage: store, Edge: newMemEdge(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- j.Work(ctx, &oneRecord{}) }()
		const minute = 60
		time.Sleep(minute * time.Second)
		// From retry_min to retry_max, and then one in each.
		if n := store.raised.Load(); n < minute/2 || n > 3*minute {
			t.Errorf("%d rewinds in a minute", n)
		}
		cancel()
		if err := <-ended; err == nil {
			t.Error("the worker ended without an error")
		}
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
