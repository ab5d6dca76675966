package timeline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
)

// Store is stored messages: the rules of this package over a window and an
// archive. It is safe for concurrent use.
type Store struct {
	cfg      Config
	window   Window
	archive  Archive // nil = none is configured
	deps     Deps
	metrics  metrics
	warnings *obs.Limited
	roomMode Mode
	modes    map[string]Mode // by room type

	unsaved unsavedCursors

	stop    context.CancelFunc
	stopped chan struct{}
	closing sync.Once
}

// Deps are what a Store needs beside its ports.
type Deps struct {
	Log     *slog.Logger
	Metrics *obs.Metrics // nil = not counted
	Now     func() time.Time
	Random  io.Reader // of new epochs
}

// metrics are the counters of a Store.
type metrics struct {
	positions *obs.CounterSet // by Verdict - 1
	reload    *obs.Counter
	epoch     *obs.Counter
	skipped   *obs.Counter
}

func newMetrics(m *obs.Metrics) metrics {
	return metrics{
		positions: m.Counter("perseid_timeline_positions_total", "Records that asked for a position, by the answer.",
			"verdict", []string{"new", "repeat", "dup"}),
		reload:  m.PlainCounter("perseid_timeline_reload_total", "Timelines that began, or came back after the window had lost or forgotten them."),
		epoch:   m.PlainCounter("perseid_timeline_epoch_total", "New epochs: timelines without a required archive that began, or were lost."),
		skipped: m.PlainCounter("perseid_timeline_skipped_total", "Rows of best-effort archives whose position had another message."),
	}
}

// warnEvery bounds the log lines of one kind.
const warnEvery = 5 * time.Second

// NewStore makes a store; archive nil means that none is configured. It starts the
// goroutine that saves cursors, which Close ends.
func NewStore(cfg Config, window Window, archive Archive, deps Deps) (*Store, error) {
	if problems := cfg.Problems(); problems != nil {
		return nil, errors.New("timeline: " + strings.Join(problems, "; "))
	}
	if window == nil || deps.Log == nil || deps.Now == nil || deps.Random == nil {
		return nil, errors.New("timeline: a window, a log, a clock and randomness are needed")
	}
	s := &Store{
		cfg: cfg, window: window, archive: archive, deps: deps, metrics: newMetrics(deps.Metrics), warnings: obs.NewLimited(deps.Log, warnEvery), modes: map[string]Mode{},
		unsaved: unsavedCursors{moved: map[int64]map[message.Timeline]UserCursor{}},
		stopped: make(chan struct{}),
	}
	s.roomMode, _ = ParseMode(cfg.RoomArchive)
	for kind, name := range cfg.RoomTypes {
		s.modes[kind], _ = ParseMode(name)
	}
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // the life of the goroutine, ended by Close
	s.stop = stop
	go s.saveCursors(ctx)
	return s, nil
}

// Close saves what is not saved yet and ends the goroutine. The ports are not
// closed: they belong to whoever made them.
func (s *Store) Close(ctx context.Context) error {
	s.closing.Do(s.stop)
	select {
	case <-s.stopped:
	case <-ctx.Done():
		return fmt.Errorf("close timelines: %w", ctx.Err())
	}
	return s.flushCursors(ctx)
}

// Ping tells whether window and archive answer.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.window.Ping(ctx); err != nil {
		return fmt.Errorf("window: %w", err)
	}
	if s.archive == nil {
		return nil
	}
	if err := s.archive.Ping(ctx); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

func (s *Store) nowMS() int64 { return s.deps.Now().UnixMilli() }

// newEpoch is random, and neither "none yet" nor FirstEpoch.
func (s *Store) newEpoch() (uint32, error) {
	for {
		var b [4]byte
		if _, err := io.ReadFull(s.deps.Random, b[:]); err != nil {
			return 0, fmt.Errorf("epoch: %w", err)
		}
		if e := binary.BigEndian.Uint32(b[:]); e > FirstEpoch {
			return e, nil
		}
	}
}
