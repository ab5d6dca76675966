package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/redistore"
	"github.com/perseid-im/perseid/internal/timeline/sqlstore"
)

var _ logic.Timelines = (*timeline.Store)(nil)

// timelineParts are the stored messages of a logic.
type timelineParts struct {
	cfg      LogicConfig
	window   *redistore.Store
	archive  *sqlstore.Store // nil before the start, and without an archive
	store    *timeline.Store // nil before the start
	retainer *sqlstore.Retainer
	late     lateTimelines
}

// lateTimelines is made with the core and filled when the database was there,
// before anything asks.
type lateTimelines struct{ logic.Timelines }

func newTimelineParts(cfg LogicConfig, p *process) (*timelineParts, error) {
	if cfg.Window.Addr == "" {
		cfg.Window.Addr, cfg.Window.DB = cfg.Redis.Addr, cfg.Redis.DB
		cfg.Window.Username, cfg.Window.Password = cfg.Redis.Username, cfg.Redis.Password
	}
	t := &timelineParts{cfg: cfg}
	var err error
	if t.window, err = redistore.New(cfg.Window); err != nil {
		return nil, err
	}
	p.keep(func(context.Context) error { return t.window.Close() })
	return t, nil
}

func (t *timelineParts) stage(p *process) stage {
	return stage{
		name:   "timelines",
		start:  func(ctx context.Context) error { return t.start(ctx, p) },
		stop:   t.close,
		budget: 10 * time.Second,
	}
}

func (t *timelineParts) start(ctx context.Context, p *process) error {
	if err := retry(ctx, p.log, "the Redis of the timelines does not answer", t.window.Ping); err != nil {
		return err
	}
	var archive timeline.Archive
	if t.cfg.Archive.On() {
		if err := retry(ctx, p.log, "the archive does not answer", func(ctx context.Context) (err error) {
			t.archive, err = sqlstore.Open(ctx, t.cfg.Archive, p.log)
			return err
		}); err != nil {
			return err
		}
		archive = t.archive
	} else {
		p.log.Warn("no archive is configured: stored messages are as lasting as Redis, and a Redis that forgets begins new epochs")
	}
	var err error
	if t.store, err = timeline.NewStore(t.cfg.Timelines, t.window, archive, timeline.Deps{
		Log: p.log, Metrics: p.metrics, Now: time.Now, Random: rand.Reader,
	}); err != nil {
		return err
	}
	t.late.Timelines = t.store
	if t.archive == nil {
		return nil
	}
	if t.retainer, err = sqlstore.NewRetainer(t.cfg.Retention, t.archive, t.window, p.log); err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	return nil
}

// close saves what is moved and not saved, and ends the connections.
func (t *timelineParts) close(ctx context.Context) error {
	var errs []error
	if t.retainer != nil {
		errs = append(errs, t.retainer.Close(ctx))
	}
	if t.store != nil {
		errs = append(errs, t.store.Close(ctx))
	}
	if t.archive != nil {
		errs = append(errs, t.archive.Close())
	}
	return errors.Join(append(errs, t.window.Close())...)
}
