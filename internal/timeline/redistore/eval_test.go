package redistore

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/hotrooms"
	"github.com/perseid-im/perseid/internal/hotrooms/redishot"
)

// Rooms of all slots are counted on a cluster: every script has one key.
func TestHotRoomsOnACluster(t *testing.T) {
	m := newMasters(t)
	cfg := hotrooms.DefaultConfig()
	cfg.Interval, cfg.Timeout = 100*time.Millisecond, time.Minute
	tr, err := hotrooms.New(cfg, hotrooms.Deps{Store: redishot.New(m.Store), Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var want []hotrooms.Room
	for n := range 50 {
		name := fmt.Sprintf("live://%d", n)
		want = append(want, hotrooms.Room{Name: name, Speakers: n + 1})
		for mid := range int64(n + 1) {
			tr.Note(name, mid+1, time.Now())
		}
	}
	slices.SortFunc(want, func(a, b hotrooms.Room) int { return cmp.Compare(b.Speakers, a.Speakers) })
	if err := tr.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tr.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	deadline := time.After(time.Minute)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for !slices.Equal(tr.Top(100).Rooms, want) {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("%+v", tr.Top(100))
		}
	}
}
