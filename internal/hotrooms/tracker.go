package hotrooms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// Bounds of one turn.
const (
	batchRooms    = 200
	batchSpeakers = 500 // of one room in one script
	sweepRooms    = 500
	sweepTurns    = 20
	// quietAgain is when a room that has just become quiet is looked at once more.
	quietAgain = 30 * time.Second
)

// Deps is what a tracker works with; Metrics may be nil.
type Deps struct {
	Store   Store
	Logger  *slog.Logger
	Metrics *obs.Metrics
	Now     func() time.Time
}

// Outcomes of a note and places of failures, by index.
const (
	noteTaken = iota
	noteOld
	noteFull
)

const (
	failedCount = iota
	failedBuild
	failedRead
)

// Tracker notes who speaks and knows the ranking.
type Tracker struct {
	cfg    Config
	store  Store
	storms *obs.Limited
	now    func() time.Time
	notes  *obs.CounterSet
	failed *obs.CounterSet

	mu      sync.Mutex
	pending map[string]map[int64]time.Time // room -> speaker -> when
	waiting int

	ranking atomic.Pointer[Ranking]

	life    sync.Mutex
	closed  bool
	stop    context.CancelFunc // nil until Start
	stopped chan struct{}
}

// New makes a tracker that notes; Start makes it count.
func New(cfg Config, deps Deps) (*Tracker, error) {
	if problems := cfg.Problems(); len(problems) > 0 {
		return nil, fmt.Errorf("hotrooms: %s", problems[0])
	}
	if deps.Store == nil || deps.Logger == nil || deps.Now == nil {
		return nil, errors.New("hotrooms: store, logger and clock are required")
	}
	t := &Tracker{
		cfg: cfg, store: deps.Store, storms: obs.NewLimited(deps.Logger, 30*time.Second), now: deps.Now,
		pending: map[string]map[int64]time.Time{},
		notes: deps.Metrics.Counter("perseid_hot_notes_total", "Speakers of rooms, by whether they will be counted.",
			"result", []string{"taken", "old", "full"}),
		failed: deps.Metrics.Counter("perseid_hot_errors_total", "Turns of the hot rooms that failed, by what they were for.",
			"purpose", []string{"count", "build", "read"}),
	}
	t.ranking.Store(&Ranking{})
	return t, nil
}

// Note says that somebody spoke in a room. It never waits.
func (t *Tracker) Note(room string, mid int64, at time.Time) {
	if now := t.now(); at.After(now) {
		at = now
	} else if now.Sub(at) >= t.cfg.Window {
		t.notes.Inc(noteOld)
		return
	}
	t.mu.Lock()
	taken := t.note(room, mid, at)
	t.mu.Unlock()
	if taken {
		t.notes.Inc(noteTaken)
	} else {
		t.notes.Inc(noteFull)
	}
}

func (t *Tracker) note(room string, mid int64, at time.Time) bool {
	speakers := t.pending[room]
	last, again := speakers[mid]
	switch {
	case again && last.After(at):
		return true
	case again:
	case t.waiting >= t.cfg.MaxPending:
		return false
	case speakers == nil:
		speakers = map[int64]time.Time{}
		t.pending[room] = speakers
		t.waiting++
	default:
		t.waiting++
	}
	speakers[mid] = at
	return true
}

// Top is the ranking, cut to limit rooms. The zero Ranking says that none is
// known that is younger than the window. The rooms are only read.
func (t *Tracker) Top(limit int) Ranking {
	r := *t.ranking.Load()
	if t.now().UnixMilli()-r.BuiltMS > t.cfg.Window.Milliseconds() {
		return Ranking{}
	}
	r.Rooms = r.Rooms[:min(max(limit, 0), len(r.Rooms))]
	return r
}

// Window is how long a speaker counts.
func (t *Tracker) Window() time.Duration { return t.cfg.Window }

// Start begins to count, until Close.
func (t *Tracker) Start(ctx context.Context) error {
	t.life.Lock()
	defer t.life.Unlock()
	if t.closed || t.stop != nil {
		return errors.New("hotrooms: started twice or after Close")
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	t.stop, t.stopped = stop, stopped
	go func() {
		defer close(stopped)
		t.run(run)
	}()
	return nil
}

// Close ends the goroutine and counts what was noted last. It is idempotent.
func (t *Tracker) Close(ctx context.Context) error {
	t.life.Lock()
	stop, again := t.stop, t.closed
	t.closed = true
	t.life.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	select {
	case <-t.stopped:
	case <-ctx.Done():
		return fmt.Errorf("hotrooms: close: %w", ctx.Err())
	}
	if again {
		return nil
	}
	if err := t.flush(ctx); err != nil {
		return fmt.Errorf("hotrooms: close: %w", err)
	}
	return nil
}

func (t *Tracker) run(ctx context.Context) {
	flush, build := time.NewTicker(t.cfg.FlushInterval), time.NewTicker(t.cfg.Interval)
	defer flush.Stop()
	defer build.Stop()
	t.turn(ctx, failedRead, t.read)
	for {
		select {
		case <-ctx.Done():
			return
		case <-flush.C:
			t.turn(ctx, failedCount, t.flush)
		case <-build.C:
			t.turn(ctx, failedBuild, t.build)
			t.turn(ctx, failedRead, t.read)
		}
	}
}

// turn does one thing within the deadline; a failure is told, not returned:
// the next turn tries again.
func (t *Tracker) turn(ctx context.Context, purpose int, do func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if err := do(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.failed.Inc(purpose)
		t.storms.Warn("hot rooms", "hot rooms are not up to date", slog.Any("error", err))
	}
}
