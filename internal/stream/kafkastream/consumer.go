package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	"github.com/perseid-im/perseid/internal/stream"
)

var _ stream.Consumer = (*Consumer)(nil)

// ConsumerHooks are called synchronously and must not block; nil functions are
// skipped.
type ConsumerHooks struct {
	// Lag is called as records are given out: how many are in the partition
	// behind them.
	Lag func(partition int32, records int64)
	// Released is called when a partition is no longer ours.
	Released func(partition int32)
	// DeadLetter is called when an unreadable record is durable in the
	// dead-letter topic.
	DeadLetter func(partition int32)
}

// Consumer is a member of the consumer group.
type Consumer struct {
	cfg    Config
	logger *slog.Logger
	hooks  ConsumerHooks
	joined atomic.Bool
}

// NewConsumer makes a consumer; it connects in Run.
func NewConsumer(cfg Config, logger *slog.Logger, hooks ConsumerHooks) (*Consumer, error) {
	if err := cfg.err(); err != nil {
		return nil, err
	}
	if err := consumerConfig(&cfg).Validate(); err != nil {
		return nil, fmt.Errorf("kafka: consumer: %w", err)
	}
	return &Consumer{cfg: cfg, logger: logger, hooks: hooks}, nil
}

// Joined tells whether the consumer is a member of its group at the moment,
// with or without partitions.
func (c *Consumer) Joined() bool { return c.joined.Load() }

// Run implements stream.Consumer. It survives errors of the brokers with
// backoff. When ctx ends it waits for the workers, whose budget is
// finish_timeout, commits and leaves the group.
func (c *Consumer) Run(ctx context.Context, w stream.Worker) error {
	var group sarama.ConsumerGroup
	var client sarama.Client
	err := untilDone(ctx, c.logger, "starting the consumer", func() (err error) {
		if client, err = newGroupClient(&c.cfg); err != nil {
			return err
		}
		if group, err = sarama.NewConsumerGroupFromClient(c.cfg.Group, client); err != nil {
			return errors.Join(err, client.Close())
		}
		return nil
	})
	if ctx.Err() != nil && err != nil {
		return nil
	}
	if err != nil {
		return err
	}

	m := &member{
		consumer: c,
		client:   client,
		group:    group,
		worker:   w,
		base:     context.WithoutCancel(ctx),
		dead:     &deadLetters{cfg: c.cfg, logger: c.logger},
	}
	var logging sync.WaitGroup
	logging.Go(m.logErrors)
	m.consume(ctx)

	// Close leaves the group, so the others take over without a timeout.
	err = group.Close()
	logging.Wait()
	closing, cancel := context.WithTimeout(m.base, c.cfg.RequestTimeout)
	defer cancel()
	if err = errors.Join(err, m.dead.close(closing), closeClient(client)); err != nil {
		return fmt.Errorf("kafka: leaving group %s: %w", c.cfg.Group, err)
	}
	return nil
}

// member is one run of a consumer, and sarama's handler.
type member struct {
	consumer *Consumer
	client   sarama.Client
	group    sarama.ConsumerGroup
	worker   stream.Worker
	base     context.Context // parent of the workers' contexts, which outlive Run's
	dead     *deadLetters
}

// settled is how long a session lasts that is not counted as a failure.
const settled = 5 * time.Second

// consume joins the group again and again: a session ends with every error
// and, with the sticky strategy, with every rebalance. A session that ends soon
// is followed by a pause that grows, so that a claim which cannot start does
// not keep the whole group rebalancing.
func (m *member) consume(ctx context.Context) {
	c := m.consumer
	told := false
	for short := 1; ctx.Err() == nil; short++ {
		began := time.Now()
		err := m.group.Consume(ctx, []string{c.cfg.Topic}, m)
		if c.joined.Swap(false) {
			told = false
			if time.Since(began) > settled {
				short = 1
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !told {
			told = true
			c.logger.Warn("kafka: not in the consumer group, trying again", "group", c.cfg.Group, "error", err)
		}
		pause(ctx, short)
	}
}

// Setup is sarama's call at the start of a session.
func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	c := m.consumer
	c.joined.Store(true)
	c.logger.Info("kafka: joined the consumer group", "group", c.cfg.Group,
		"member", s.MemberID(), "generation", s.GenerationID(), "partitions", s.Claims()[c.cfg.Topic])
	return nil
}

// Cleanup is sarama's call at the end of a session, before the last commit.
func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim is sarama's call for one partition. It returns when the
// partition is revoked and its worker has returned; a return before that would
// end the session of all partitions.
func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, from sarama.ConsumerGroupClaim) error {
	c := m.consumer
	topic, partition := from.Topic(), from.Partition()
	logger := c.logger.With("partition", partition)
	id, err := m.topicID(session.Context(), topic)
	if err != nil {
		return err
	}
	if from.InitialOffset() < 0 {
		// What is committed may be beyond the end: of a topic of this name that
		// was there before. Marks only grow, so none would be committed up to
		// that offset, and the next owner would go on from it.
		session.ResetOffset(topic, partition, 0, "")
	}
	// In a partition that never had a record there is nothing to commit.
	if newest, err := m.client.GetOffset(topic, partition, sarama.OffsetNewest); from.InitialOffset() < 0 && (err != nil || newest > 0) {
		logger.Warn("kafka: nothing is committed for the partition, or what is committed is gone; reading from the oldest record")
	}
	cl := newClaim(claimed{
		partition:    partition,
		generation:   session.GenerationID(),
		log:          topic + "/" + id,
		maxRecords:   c.cfg.MaxInFlightRecords,
		maxBytes:     c.cfg.MaxInFlightBytes,
		maxBodyBytes: c.cfg.MaxBodyBytes(),
		mark:         func(offset int64) { session.MarkOffset(topic, partition, offset, "") },
		pause: func(paused bool) {
			if which := map[string][]int32{topic: {partition}}; paused {
				m.group.Pause(which)
			} else {
				m.group.Resume(which)
			}
		},
		lag: func(last int64) {
			if c.hooks.Lag != nil {
				c.hooks.Lag(partition, max(0, from.HighWaterMarkOffset()-last-1))
			}
		},
		dead: func(ctx context.Context, msg *sarama.ConsumerMessage, why error) error {
			err := m.dead.put(ctx, msg, why)
			if err == nil && c.hooks.DeadLetter != nil {
				c.hooks.DeadLetter(partition)
			}
			return err
		},
	})
	var filling sync.WaitGroup
	filling.Go(func() { cl.fill(from.Messages(), session.Context().Done()) })
	m.work(cl, logger)
	filling.Wait()
	if c.hooks.Released != nil {
		c.hooks.Released(partition)
	}
	return nil
}

// topicID tries for a while: its failure would end the session.
func (m *member) topicID(ctx context.Context, topic string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.consumer.cfg.RequestTimeout)
	defer cancel()
	err = untilDone(ctx, m.consumer.logger, "reading the topic's id", func() (err error) {
		if id, err = topicID(m.client, topic); err != nil {
			// This also drops brokers that are gone, so another is asked next.
			return errors.Join(err, m.client.RefreshMetadata(topic))
		}
		return nil
	})
	return id, err
}

// work runs workers on the claim until it is revoked. A worker that fails
// stops its partition for the time of a backoff, and nothing else.
func (m *member) work(cl *claim, logger *slog.Logger) {
	ctx, cancel := context.WithCancelCause(m.base)
	defer cancel(nil)
	finished := make(chan struct{})
	var budget sync.WaitGroup
	budget.Go(func() { m.limit(cl, finished, cancel, logger) })
	defer budget.Wait()
	defer close(finished)

	for failures := 1; ; failures++ {
		began := time.Now()
		err := m.serve(ctx, cl)
		if cl.isRevoked() {
			if err != nil && !errors.Is(err, stream.ErrRevoked) && !errors.Is(err, errBudget) {
				logger.Error("kafka: the worker of a revoked partition failed", "error", err)
			}
			return
		}
		if time.Since(began) > time.Minute {
			failures = 1
		}
		logger.Error("kafka: the worker failed and is started again from the mark", "error", err, "failures", failures)
		waiting, stop := cl.whileHeld(ctx)
		pause(waiting, failures)
		stop()
	}
}

// limit gives the worker its budget from the revocation on. A worker that does
// not return even when its context has ended holds up this member: handing its
// partition on could reorder it, so that is logged and waited for.
func (m *member) limit(cl *claim, finished <-chan struct{}, cancel context.CancelCauseFunc, logger *slog.Logger) {
	select {
	case <-cl.revocation:
	case <-finished:
		return
	}
	budget := m.consumer.cfg.FinishTimeout
	ticker := time.NewTicker(budget)
	defer ticker.Stop()
	for late := false; ; late = true {
		select {
		case <-finished:
			return
		case <-ticker.C:
		}
		if !late {
			logger.Warn("kafka: the worker of a revoked partition has not finished in time; what is unfinished will be repeated", "budget", budget)
			cancel(errBudget)
		} else {
			logger.Error("kafka: the worker of a revoked partition does not return; this consumer waits for it", "budget", budget)
		}
	}
}

// errBudget ends the context of a worker that takes too long after revocation.
var errBudget = errors.New("kafka: the time to finish is over")

// errEarly is a worker's return, without an error, from a partition that is
// still ours.
var errEarly = errors.New("kafka: the worker returned before its partition was revoked")

// serve runs one worker to its end. A panic is its error.
func (m *member) serve(ctx context.Context, cl *claim) (err error) {
	t := cl.start()
	defer t.end()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("kafka: worker panic: %v\n%s", r, debug.Stack())
		}
	}()
	if err = m.worker(ctx, t); err == nil && !cl.isRevoked() {
		err = errEarly
	}
	return err
}

// sameError is how long an error that was logged is not logged again.
const sameError = time.Minute

// logErrors takes what sarama reports in the background (fetches, commits,
// heartbeats), until the group is closed. All of it is retried, so each text is
// a warning, once in a while.
func (m *member) logErrors() {
	logged := map[string]time.Time{}
	for err := range m.group.Errors() {
		text, now := err.Error(), time.Now()
		if last, ok := logged[text]; ok && now.Sub(last) < sameError {
			continue
		}
		if len(logged) >= 256 { // texts with addresses and offsets in them
			clear(logged)
		}
		logged[text] = now
		m.consumer.logger.Warn("kafka: consumer error", "error", err)
	}
}
