package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// RetainConfig is the section of what the archive keeps.
type RetainConfig struct {
	Inboxes  time.Duration `toml:"inboxes" doc:"how long messages of inboxes are kept; duration, 1m or more; 0s = for good"`
	Rooms    time.Duration `toml:"rooms" doc:"how long messages of rooms are kept; duration, 1m or more; 0s = for good"`
	Interval time.Duration `toml:"interval" doc:"how often a logic looks for what is too old; duration; 1s to 24h"`
}

// DefaultRetainConfig keeps everything.
func DefaultRetainConfig() RetainConfig { return RetainConfig{Interval: time.Hour} }

// Problems lists everything that is wrong.
func (c *RetainConfig) Problems() []string {
	var problems []string
	bad := func(key string, value any, allowed string) {
		problems = append(problems, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	if c.Inboxes != 0 && c.Inboxes < time.Minute {
		bad("inboxes", c.Inboxes, "1m or more, or 0s")
	}
	if c.Rooms != 0 && c.Rooms < time.Minute {
		bad("rooms", c.Rooms, "1m or more, or 0s")
	}
	if c.Interval < time.Second || c.Interval > 24*time.Hour {
		bad("interval", c.Interval, "1s to 24h")
	}
	return problems
}

// Old is the archive as a Retainer needs it.
type Old interface {
	Older(ctx context.Context, after message.Timeline, beforeMS int64, limit int) ([]timeline.Top, error)
	Retain(ctx context.Context, tl message.Timeline, floor uint64) (more bool, err error)
}

// Floors is the window as a Retainer needs it.
type Floors interface {
	RaiseFloor(ctx context.Context, tl message.Timeline, epoch uint32, floor uint64) error
}

// Retainer removes what is too old, in steps. Any number of them may work on
// one archive: a floor only grows.
type Retainer struct {
	cfg    RetainConfig
	old    Old
	floors Floors
	log    *slog.Logger

	end    context.CancelFunc
	ended  chan struct{}
	closed sync.Once
}

// NewRetainer starts one, if there is anything for it to do.
func NewRetainer(cfg RetainConfig, old Old, floors Floors, log *slog.Logger) (*Retainer, error) {
	if problems := cfg.Problems(); len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "; "))
	}
	life, end := context.WithCancel(context.Background()) //nolint:forbidigo // ended by Close
	r := &Retainer{cfg: cfg, old: old, floors: floors, log: log, end: end, ended: make(chan struct{})}
	if cfg.Inboxes == 0 && cfg.Rooms == 0 {
		close(r.ended)
		return r, nil
	}
	go r.run(life)
	return r, nil
}

// Close ends it between two steps. It may be called again.
func (r *Retainer) Close(ctx context.Context) error {
	r.closed.Do(r.end)
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the retainer: %w", ctx.Err())
	}
}

// run begins at a random moment, so that those of several logics that started
// together do not all look at the same time.
func (r *Retainer) run(life context.Context) {
	defer close(r.ended)
	timer := time.NewTimer(rand.N(r.cfg.Interval))
	defer timer.Stop()
	for {
		select {
		case <-life.Done():
			return
		case <-timer.C:
		}
		if n, err := r.round(life, time.Now()); err != nil && life.Err() == nil {
			r.log.Warn("old messages were not removed, the next round tries again", "timelines_done", n, "error", err)
		} else if n > 0 {
			r.log.Info("old messages were removed", "timelines", n)
		}
		timer.Reset(r.cfg.Interval)
	}
}

// retainAtOnce is how many timelines one question lists.
const retainAtOnce = 200

// round answers how many timelines had something old.
func (r *Retainer) round(ctx context.Context, now time.Time) (timelines int, err error) {
	for _, kind := range []struct {
		prefix string
		keep   time.Duration
	}{{"r:", r.cfg.Rooms}, {"u:", r.cfg.Inboxes}} {
		if kind.keep == 0 {
			continue
		}
		n, err := r.retain(ctx, kind.prefix, now.Add(-kind.keep).UnixMilli())
		timelines += n
		if err != nil {
			return timelines, err
		}
	}
	return timelines, nil
}

func (r *Retainer) retain(ctx context.Context, prefix string, beforeMS int64) (timelines int, err error) {
	for after := message.Timeline(prefix); ; {
		tops, err := r.old.Older(ctx, after, beforeMS, retainAtOnce)
		if err != nil || len(tops) == 0 {
			return timelines, err
		}
		for _, top := range tops {
			if !strings.HasPrefix(string(top.Timeline), prefix) {
				return timelines, nil // names are in order: the rest is of another kind
			}
			if err := r.raise(ctx, top); err != nil {
				return timelines, err
			}
			timelines++
			after = top.Timeline
		}
	}
}

// raise begins with the window: a reader then never looks for a row that has
// just gone.
func (r *Retainer) raise(ctx context.Context, top timeline.Top) error {
	if err := r.floors.RaiseFloor(ctx, top.Timeline, top.Epoch, top.Seq); err != nil {
		return err
	}
	for {
		more, err := r.old.Retain(ctx, top.Timeline, top.Seq)
		if err != nil || !more {
			return err
		}
	}
}
