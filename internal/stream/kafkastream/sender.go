package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/semaphore"
)

// errClosed is the answer of a sender after its close began.
var errClosed = errors.New("kafka: producer closed")

// sender gives records to sarama's asynchronous producer and tells each caller
// when all of its records are acknowledged. Bytes that are not acknowledged
// are bounded, also those whose caller has given up.
type sender struct {
	client   sarama.Client
	async    sarama.AsyncProducer
	buffered *semaphore.Weighted
	pace     *pace

	mu      sync.Mutex
	closed  bool
	sending sync.WaitGroup // callers that may write to async's input
	closing chan struct{}
	ended   chan struct{} // async has given back everything
}

// newSender connects; it fails at once when no broker answers.
func newSender(brokers []string, cfg *sarama.Config, maxBufferedBytes int, linger time.Duration) (*sender, error) {
	client, err := sarama.NewClient(brokers, cfg)
	if err != nil {
		return nil, err
	}
	async, err := sarama.NewAsyncProducerFromClient(client)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	s := &sender{
		client:   client,
		async:    async,
		buffered: semaphore.NewWeighted(int64(maxBufferedBytes)),
		pace:     newPace(linger),
		closing:  make(chan struct{}),
		ended:    make(chan struct{}),
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		for msg := range async.Successes() {
			s.answer(msg, nil)
		}
	})
	answers.Go(func() {
		for failed := range async.Errors() {
			s.answer(failed.Msg, failed.Err)
		}
	})
	go func() {
		answers.Wait()
		close(s.ended)
	}()
	return s, nil
}

// appending is the records of one caller.
type appending struct {
	open atomic.Int64 // records without an answer, and one for the caller while it sends
	done chan struct{}

	mu     sync.Mutex
	failed int
	err    error // of the first record that failed
}

func (a *appending) answered(err error) {
	if err != nil {
		a.mu.Lock()
		a.failed++
		if a.err == nil {
			a.err = err
		}
		a.mu.Unlock()
	}
	if a.open.Add(-1) == 0 {
		close(a.done)
	}
}

func recordBytes(msg *sarama.ProducerMessage) int64 {
	n := msg.Value.Length()
	if msg.Key != nil {
		n += msg.Key.Length()
	}
	return int64(n)
}

func (s *sender) answer(msg *sarama.ProducerMessage, err error) {
	s.buffered.Release(recordBytes(msg))
	msg.Metadata.(*appending).answered(err)
}

// send writes n records, made one after the other by next, and waits until all
// are acknowledged. When ctx ends or a record fails, others may have been, or
// may still be, written.
func (s *sender) send(ctx context.Context, n int, next func(i int) (*sarama.ProducerMessage, error)) error {
	a := &appending{done: make(chan struct{})}
	a.open.Store(1)
	var cut error // why not all were sent
	for i := range n {
		msg, err := next(i)
		if err == nil {
			err = s.enqueue(ctx, a, msg)
		}
		if err != nil {
			cut = fmt.Errorf("%d of %d records not sent: %w", n-i, n, err)
			break
		}
	}
	a.answered(cut)
	if cut != nil && ctx.Err() != nil {
		return cut
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return fmt.Errorf("not acknowledged: %w", context.Cause(ctx))
	}
	switch {
	case cut != nil:
		return cut
	case a.err != nil:
		return fmt.Errorf("%d of %d records not acknowledged: %w", a.failed, n, a.err)
	}
	return nil
}

// linger waits until a record for the partition should go.
func (s *sender) linger(ctx context.Context, partition int32) error {
	wait := s.pace.next(partition, time.Now())
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closing:
		return errClosed
	}
}

// enqueue gives the record to sarama, which answers it in any case from then on.
func (s *sender) enqueue(ctx context.Context, a *appending, msg *sarama.ProducerMessage) error {
	msg.Metadata = a
	size := recordBytes(msg)
	if err := s.buffered.Acquire(ctx, size); err != nil {
		return fmt.Errorf("buffer is full: %w", context.Cause(ctx))
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.buffered.Release(size)
		return errClosed
	}
	s.sending.Add(1)
	s.mu.Unlock()
	defer s.sending.Done()
	a.open.Add(1)
	select {
	case s.async.Input() <- msg:
		return nil
	case <-ctx.Done():
		s.buffered.Release(size)
		a.open.Add(-1) // never the last: the caller holds one
		return context.Cause(ctx)
	case <-s.closing:
		s.buffered.Release(size)
		a.open.Add(-1)
		return errClosed
	}
}

// close waits for the answers to all records until ctx ends; then it cuts the
// connections, which fails the records that are left.
func (s *sender) close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closed
	if first {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	if first {
		s.sending.Wait() // short: closing wakes them
		s.async.AsyncClose()
	}
	select {
	case <-s.ended:
	case <-ctx.Done():
		// sarama goes on with its retries in the background and ends at their limit.
		return errors.Join(fmt.Errorf("kafka: close: records are not acknowledged: %w", context.Cause(ctx)), closeClient(s.client))
	}
	return closeClient(s.client)
}

func closeClient(c sarama.Client) error {
	if c.Closed() {
		return nil
	}
	if err := c.Close(); err != nil && !errors.Is(err, sarama.ErrClosedClient) {
		return fmt.Errorf("kafka: close: %w", err)
	}
	return nil
}
