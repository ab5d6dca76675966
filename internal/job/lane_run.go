package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

var (
	errLaneClosed = errors.New("job: lane closed")
	errReopen     = errors.New("job: lane goes on in another log")
	errResults    = errors.New("job: the results do not fit the batch")
)

// run keeps a stream open and sends what is queued, until the comet left and
// the lane is empty or its stream broken: without a lease nobody answers for
// the sessions.
func (l *lane) run() {
	defer l.shut()
	pause := l.job.backoff()
	log := l.comet.log.With(slog.Int("lane", l.index))
	var down time.Time
	for l.comet.present.Err() == nil {
		began := l.job.now()
		opened, err := l.carry(func() {
			l.reached()
			if !down.IsZero() {
				log.Info("lane open again", slog.Duration("after", time.Since(down)))
				down = time.Time{}
			}
		})
		switch {
		case err == nil: // the comet left and everything is answered
			return
		case errors.Is(err, errReopen):
			continue
		case errors.Is(err, ErrOtherLife):
			l.comet.refuse()
			return
		case errors.Is(err, ErrRefused):
			l.refuse()
		}
		if opened {
			pause.opened(time.Duration(l.job.now() - began))
		}
		if down.IsZero() && l.comet.present.Err() == nil {
			down = time.Now()
			log.Warn("lane broke, it is opened again", slog.Any("error", err))
		}
		if !pause.wait(l.comet.present) {
			return
		}
	}
}

// carry opens one stream and works it to its end. It returns nil when the
// comet left and the lane is empty.
func (l *lane) carry(up func()) (opened bool, err error) {
	ctx, cancel := context.WithCancel(l.comet.ctx)
	defer cancel()
	stream, err := l.open(ctx, cancel)
	if err != nil {
		return false, err
	}
	up()
	number := l.attach(cancel)
	received := make(chan error, 1)
	go func() {
		err := l.receive(stream, number)
		l.detach(number)
		cancel()
		received <- err
	}()
	err = l.send(ctx, stream, number)
	cancel()
	broken := <-received
	if errors.Is(err, context.Canceled) {
		err = broken
	}
	return true, err
}

// open asks for the stream; it gives up when the comet leaves meanwhile.
func (l *lane) open(ctx context.Context, cancel context.CancelFunc) (DispatchStream, error) {
	l.mu.Lock()
	hello := Hello{Job: l.job.name, Log: l.log, Lane: l.index, Lanes: l.job.cfg.Lanes}
	l.mu.Unlock()
	giveUp := time.AfterFunc(l.job.cfg.ConnectTimeout, cancel)
	left := context.AfterFunc(l.comet.present, cancel)
	stream, err := l.comet.link.Dispatch(ctx, hello)
	if inTime, present := giveUp.Stop(), left(); err == nil && !(inTime && present) {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return stream, nil
}

func (l *lane) send(ctx context.Context, stream DispatchStream, number int) error {
	var pushes []Push
	left := l.comet.present.Done()
	for {
		var action next
		pushes, action = l.take(number, pushes[:0])
		switch action {
		case retired:
			return nil
		case reopen:
			return errReopen
		case send:
			if err := stream.Send(pushes); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			continue
		}
		select {
		case <-l.wake:
		case <-left:
			left = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *lane) receive(stream DispatchStream, number int) error {
	for {
		results, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if !l.answer(number, results) {
			return errResults
		}
	}
}
