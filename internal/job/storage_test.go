package job_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// storage is the real timelines over a window and an archive in memory.
type storage struct {
	window  *timelinetest.Window
	archive *timelinetest.Archive
	store   *timeline.Store

	mu   sync.Mutex
	fail func(method string) error // before the call; nil = never
}

var errStorage = errors.New("storage is away")

func newStorage(t testing.TB, change func(*timeline.Config)) *storage {
	cfg := timeline.DefaultConfig()
	cfg.RoomTypes = map[string]string{"loose": "best_effort", "lost": "off"}
	if change != nil {
		change(&cfg)
	}
	s := &storage{window: timelinetest.NewWindow(), archive: timelinetest.NewArchive()}
	var err error
	s.store, err = timeline.NewStore(cfg, s.window, s.archive, timeline.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// set makes calls fail.
func (s *storage) set(fail func(method string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *storage) asked(method string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		return nil
	}
	return s.fail(method)
}

// awayFor fails every call of one method.
func awayFor(method string) func(string) error {
	return func(m string) error {
		if m == method {
			return errStorage
		}
		return nil
	}
}

// rows are the rows of a timeline, "<seq>:<body>".
func (s *storage) rows(tl message.Timeline) []string {
	out := []string{}
	for _, e := range s.archive.Rows(tl) {
		out = append(out, fmt.Sprintf("%d:%s", e.Seq, e.Message.Body))
	}
	return out
}

// checkRows: the rows are text(tl, 0..n-1) with the seqs 1..n.
func (s *storage) checkRows(tl message.Timeline, n int) error {
	rows := s.rows(tl)
	for i, row := range rows {
		if want := strconv.Itoa(i+1) + ":" + string(tl) + "|" + strconv.Itoa(i); row != want {
			return fmt.Errorf("%s: row %q, want %q", tl, row, want)
		}
	}
	if len(rows) != n {
		return fmt.Errorf("%s: %d rows, want %d", tl, len(rows), n)
	}
	return nil
}

// located is the port as a logic serves it: append, then locate.
type located struct {
	*storage
	router job.Router
}

func (l *located) TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fold, error) {
	if err := l.asked("TakeFence"); err != nil {
		return timeline.Fold{}, err
	}
	return l.store.TakeFence(ctx, p, owner, over)
}

func (l *located) RaiseFence(ctx context.Context, f timeline.Fold) (timeline.Fold, error) {
	if err := l.asked("RaiseFence"); err != nil {
		return timeline.Fold{}, err
	}
	raised, err := l.store.RaiseFence(ctx, f)
	if lost := l.asked("RaiseFence's answer"); lost != nil {
		return timeline.Fold{}, lost
	}
	return raised, err
}

func (l *located) Archive(ctx context.Context, a timeline.Archiving) error {
	if err := l.asked("Archive"); err != nil {
		return err
	}
	return l.store.Archive(ctx, a)
}

func (l *located) RouteStored(ctx context.Context, f timeline.Fold, items []job.RouteItem) (job.Routes, bool, error) {
	if err := l.asked("RouteStored"); err != nil {
		return job.Routes{}, false, err
	}
	batch := timeline.Batch{Fold: f}
	for _, item := range items {
		if item.Stored != nil {
			batch.Records = append(batch.Records, *item.Stored)
		}
	}
	result, err := l.store.Append(ctx, batch)
	if err != nil {
		return job.Routes{}, false, err
	}
	n, next := 0, 0
	plain := make([]job.RouteItem, 0, len(items))
	for ; n < len(items); n++ {
		if items[n].Stored != nil {
			if next == len(result.Records) {
				break
			}
			next++
		}
		plain = append(plain, job.RouteItem{Keys: items[n].Keys, Mids: items[n].Mids})
	}
	routes, err := l.router.Route(ctx, plain)
	if err != nil {
		return job.Routes{}, false, err
	}
	next = 0
	for i := range routes.Results {
		if items[i].Stored != nil {
			routes.Results[i].Appended = result.Records[next]
			next++
		}
	}
	return routes, n < len(items), nil
}

// kept is text as a stored message with an id of its own.
func kept(tl message.Timeline, n int) message.Message {
	m := text(tl, n)
	m.ID = message.DeriveID("test", string(m.Body))
	m.Flags, m.Kind = message.Store, message.Chat
	return m
}

// storing is a world with storage and a session of user 42 on comet a.
func storing(t testing.TB, change func(*timeline.Config)) (*world, uint64) {
	w := newWorld(t, "a")
	w.store = newStorage(t, change)
	return w, w.connect("a", "k", 42)
}
