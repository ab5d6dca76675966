package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// floors notes what is raised.
type floors map[message.Timeline]uint64

func (f floors) RaiseFloor(_ context.Context, tl message.Timeline, epoch uint32, floor uint64) error {
	if epoch != timeline.FirstEpoch {
		return errors.New("another epoch")
	}
	f[tl] = floor
	return nil
}

func TestRetainerKeepsWhatIsYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		archive := timelinetest.NewArchive()
		f, err := archive.TakeFence(t.Context(), here, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for _, tl := range []message.Timeline{"u:1", "u:2", "r:a://1"} {
			rows := rowsOf(tl, 1, 900)
			for i := range rows { // one an hour, the newest is an hour ahead
				rows[i].Message.AcceptedMS = begin.Add(time.Duration(i-898) * time.Hour).UnixMilli()
			}
			if _, err := archive.Write(t.Context(), here, f, rows); err != nil {
				t.Fatal(err)
			}
		}
		raised := floors{}
		r, err := NewRetainer(RetainConfig{Inboxes: 100 * time.Hour, Interval: time.Minute}, archive, raised, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Index 798 was accepted exactly 100 h before the begin.
		if want := "map[u:1:799 u:2:799]"; fmt.Sprint(raised) != want {
			t.Errorf("raised %v, want %s", raised, want)
		}
		tops, err := archive.Tops(t.Context(), []message.Timeline{"u:1", "r:a://1"})
		if err != nil || tops[0].Floor != 799 || tops[1].Floor != 0 {
			t.Errorf("floors %+v, %v", tops, err)
		}
		if n := len(archive.Rows("u:1")); n != timeline.RecentInbox {
			t.Errorf("%d rows are left", n)
		}
	})
}

func TestRetainerThatKeepsAllDoesNothing(t *testing.T) {
	r, err := NewRetainer(DefaultRetainConfig(), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewRetainer(RetainConfig{Inboxes: time.Second}, nil, nil, nil); err == nil {
		t.Error("a second and no interval are taken")
	}
}
