package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Symptom: a job that was told to stop while its brokers took connections and
// answered nothing went on for minutes: sarama was in the middle of its retries.
// Cause: each part had a budget for its stop, but the end of what ran was waited
// for without one.
func TestAPartThatDoesNotEndIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, stopped := make(chan struct{}), []string(nil)
		stop := func(name string) func(context.Context) error {
			return func(context.Context) error { stopped = append(stopped, name); return nil }
		}
		s := newStages(slog.New(slog.DiscardHandler), []stage{
			{name: "first", stop: stop("first"), run: func(ctx context.Context) error { <-ctx.Done(); return nil }},
			{
				name:   "stuck",
				run:    func(context.Context) error { <-release; return nil },
				stop:   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
				budget: 3 * time.Second,
			},
			{name: "last", stop: stop("last")},
		})
		ended := make(chan error, 1)
		go func() { ended <- s.Start(t.Context()) }()
		<-s.ready
		began := time.Now()
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		err := <-ended
		if took := time.Since(began); took > 3*time.Second+runsEnd {
			t.Errorf("the stop took %v", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errRuns) || !strings.Contains(err.Error(), "stop stuck") {
			t.Errorf("Start = %v", err)
		}
		if len(stopped) != 2 || stopped[0] != "last" {
			t.Errorf("stopped %v", stopped)
		}
		close(release)
	})
}
