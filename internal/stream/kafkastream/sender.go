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

// A partition that cannot be written must not stop the others, but sarama serves
// them one after the other: it waits where the queue of a partition is full, and
// where its batches are. So what it holds of a partition is bounded by a batch,
// and by records for which the queue has room, beside the marks by which sarama
// keeps the order of retries.
const (
	maxPartitionRecords = 2048
	partitionQueue      = maxPartitionRecords + 256
)

// sender gives records to sarama's asynchronous producer and tells each caller
// when all of its records are acknowledged. What is not acknowledged is
// bounded, in all and by partition, also that whose caller has given up.
type sender struct {
	client         sarama.Client
	async          sarama.AsyncProducer
	buffered       *semaphore.Weighted
	partitionBytes int64
	pace           *pace

	mu         sync.Mutex
	partitions map[int32]*partitionBuffer
	closed     bool
	sending    sync.WaitGroup // callers that may write to async's input
	closing    chan struct{}
	ended      chan struct{} // async has given back everything
}

// partitionBuffer is what is not acknowledged of one partition.
type partitionBuffer struct{ records, bytes *semaphore.Weighted }

// newSender connects; it fails at once when no broker answers.
func newSender(brokers []string, cfg *sarama.Config, maxBufferedBytes int, linger time.Duration) (*sender, error) {
	attempts := cfg.Metadata.Retry.Max
	cfg.Metadata.Retry.Max = 0 // leaders does it
	client, err := sarama.NewClient(brokers, cfg)
	if err != nil {
		return nil, err
	}
	async, err := sarama.NewAsyncProducerFromClient(&leaders{client, attempts})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	s := &sender{
		client:         client,
		async:          async,
		buffered:       semaphore.NewWeighted(int64(max(maxBufferedBytes, cfg.Producer.MaxMessageBytes))),
		partitionBytes: int64(cfg.Producer.MaxMessageBytes) - 1, // with one byte more sarama begins a second batch
		partitions:     map[int32]*partitionBuffer{},
		pace:           newPace(linger),
		closing:        make(chan struct{}),
		ended:          make(chan struct{}),
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

// sentRecord is the Metadata of a record that sarama has.
type sentRecord struct {
	by    *appending
	of    *partitionBuffer
	bytes int64 // of the buffer
	batch int64 // of a batch, as sarama counts
}

func (s *sender) answer(msg *sarama.ProducerMessage, err error) {
	sent := msg.Metadata.(sentRecord)
	s.release(sent)
	sent.by.answered(err)
}

// hold waits until there is room for the record, first in its partition: who
// waits there has nothing that others need.
func (s *sender) hold(ctx context.Context, a *appending, msg *sarama.ProducerMessage) (sentRecord, error) {
	const recordFormat = 2 // since Kafka 0.11
	s.mu.Lock()
	of := s.partitions[msg.Partition]
	if of == nil {
		of = &partitionBuffer{semaphore.NewWeighted(maxPartitionRecords), semaphore.NewWeighted(s.partitionBytes)}
		s.partitions[msg.Partition] = of
	}
	s.mu.Unlock()
	sent := sentRecord{by: a, of: of, bytes: recordBytes(msg), batch: min(int64(msg.ByteSize(recordFormat)), s.partitionBytes)}
	if of.records.Acquire(ctx, 1) != nil {
		return sent, fmt.Errorf("buffer of partition %d is full: %w", msg.Partition, context.Cause(ctx))
	}
	if of.bytes.Acquire(ctx, sent.batch) != nil {
		of.records.Release(1)
		return sent, fmt.Errorf("buffer of partition %d is full: %w", msg.Partition, context.Cause(ctx))
	}
	if s.buffered.Acquire(ctx, sent.bytes) != nil {
		of.bytes.Release(sent.batch)
		of.records.Release(1)
		return sent, fmt.Errorf("buffer is full: %w", context.Cause(ctx))
	}
	return sent, nil
}

func (s *sender) release(sent sentRecord) {
	s.buffered.Release(sent.bytes)
	sent.of.bytes.Release(sent.batch)
	sent.of.records.Release(1)
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
	sent, err := s.hold(ctx, a, msg)
	if err != nil {
		return err
	}
	msg.Metadata = sent
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.release(sent)
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
		s.release(sent)
		a.open.Add(-1) // never the last: the caller holds one
		return context.Cause(ctx)
	case <-s.closing:
		s.release(sent)
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
