package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/redistore"
	"github.com/perseid-im/perseid/internal/timeline/sqlstore"
)

// A message to a room is one append and one row, whatever the number of its
// durable members: the time of both for 10 and for 100,000 must be the same.
func BenchmarkRoomAppend(b *testing.B) {
	window := redistore.DefaultConfig()
	window.Addr = testdeps.Redis(b).Addr
	w, err := redistore.New(window)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = w.Close() })
	rows := sqlstore.DefaultConfig()
	rows.DSN = testdeps.Database(testdeps.MariaDB(b))
	archive, err := sqlstore.Open(b.Context(), rows, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = archive.Close() })
	cfg := timeline.DefaultConfig()
	cfg.MaxMembers = 200_000
	store, err := timeline.NewStore(cfg, w, archive, timeline.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close(context.WithoutCancel(b.Context())) })
	fold, err := store.TakeFence(b.Context(), timeline.Partition{Log: "bench", Generation: 1}, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	offset := int64(0)
	for _, members := range []int{10, 100_000} {
		room := message.Timeline(fmt.Sprintf("r:group://%d", members))
		for mid := 1; mid <= members; mid += 1000 {
			var some []timeline.Member
			for i := mid; i < min(mid+1000, members+1); i++ {
				some = append(some, timeline.Member{Mid: int64(i)})
			}
			if err := store.Join(b.Context(), room, some); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			for b.Loop() {
				offset++
				m := message.Message{Kind: message.Chat, Flags: message.Store | message.Archive, Body: make([]byte, 200)}
				copy(m.ID[:], fmt.Sprint(offset))
				got, err := store.Append(b.Context(), timeline.Batch{Fold: fold, Records: []timeline.Record{{Offset: offset, Message: m, Timelines: []message.Timeline{room}}}})
				if err != nil {
					b.Fatal(err)
				}
				at := got.Records[0][0]
				if err := store.Archive(b.Context(), timeline.Archiving{Fold: fold, Records: []timeline.Positioned{{
					Offset: offset, Message: m, Places: []timeline.Place{{Timeline: room, Position: at.Position, Mode: at.Mode}},
				}}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
