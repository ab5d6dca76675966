package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-kratos/kratos/v2/transport"
)

// stage is one part of a process. A nil function is skipped.
type stage struct {
	name string
	// start returns when the part works; it retries what may come later (a
	// broker, a store) until ctx ends.
	start func(ctx context.Context) error
	// run blocks while the part works. An end before stop was asked is a
	// failure of the process.
	run func(ctx context.Context) error
	// stop ends the part within budget.
	stop   func(ctx context.Context) error
	budget time.Duration
}

// stages is the composite server that kratos runs: kratos stops all its
// servers at once, and an order is what a clean stop is made of.
type stages struct {
	log     *slog.Logger
	list    []stage
	ready   chan struct{} // closed when every stage has started
	halt    chan struct{} // closed by Stop
	ended   chan struct{} // closed when Start has stopped everything
	failed  chan error    // the first run that ended by itself
	once    sync.Once
	running sync.WaitGroup
}

var _ transport.Server = (*stages)(nil)

func newStages(log *slog.Logger, list []stage) *stages {
	return &stages{
		log: log, list: list,
		ready: make(chan struct{}), halt: make(chan struct{}), ended: make(chan struct{}),
		failed: make(chan error, len(list)),
	}
}

// Start starts the stages in order, waits for Stop or for one of them to
// fail, and stops them in reverse. It does not wait without end for a part that
// ignores its stop.
func (s *stages) Start(ctx context.Context) error {
	defer close(s.ended)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stopWatch := context.AfterFunc(ctx, func() { s.once.Do(func() { close(s.halt) }) })
	defer stopWatch()
	starting, cancel := context.WithCancel(life)
	defer cancel()
	go func() {
		select {
		case <-s.halt:
			cancel()
		case <-starting.Done():
		}
	}()

	started := 0
	var err error
	for _, st := range s.list {
		if st.start != nil {
			if err = st.start(starting); err != nil {
				err = fmt.Errorf("start %s: %w", st.name, err)
				break
			}
		}
		if st.run != nil {
			s.running.Go(func() {
				if err := st.run(life); err != nil {
					s.failed <- fmt.Errorf("%s: %w", st.name, err)
				} else {
					s.failed <- fmt.Errorf("%s: ended by itself", st.name)
				}
			})
		}
		started++
	}
	if err == nil {
		close(s.ready)
		select {
		case <-s.halt:
		case err = <-s.failed:
			s.log.Error("a part of the process failed, stopping", "error", err)
		}
	} else if starting.Err() != nil && life.Err() == nil {
		err = nil // asked to stop while it started
	}
	errs := []error{err}
	for i := started - 1; i >= 0; i-- {
		errs = append(errs, s.stopOne(s.list[i]))
	}
	end()
	return errors.Join(append(errs, s.awaitRuns())...)
}

// runsEnd is how long parts that run may take to end when all are stopped. What
// is still there then had its budget before, and is in a call that nothing ends.
const runsEnd = 5 * time.Second

var errRuns = errors.New("a part that was stopped still runs; it is left behind")

func (s *stages) awaitRuns() error {
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	timer := time.NewTimer(runsEnd)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return errRuns
	}
}

func (s *stages) stopOne(st stage) error {
	if st.stop == nil {
		return nil
	}
	budget := st.budget
	if budget == 0 {
		budget = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	began := time.Now()
	if err := st.stop(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", st.name, err)
	}
	s.log.Debug("stopped", "part", st.name, "took", time.Since(began))
	return nil
}

// Stop asks Start to stop everything and waits for it.
func (s *stages) Stop(ctx context.Context) error {
	s.once.Do(func() { close(s.halt) })
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
