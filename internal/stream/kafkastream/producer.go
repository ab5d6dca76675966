package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/singleflight"

	recordv1 "github.com/perseid-im/perseid/api/record/v1"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

var _ stream.Producer = (*Producer)(nil)

// ErrNotConnected is the answer of a producer before Connect returned nil, and
// after Close.
var ErrNotConnected = errors.New("kafka: not connected")

// ProducerHooks are called synchronously; nil functions are skipped.
type ProducerHooks struct {
	// Appended is called at the end of every Append.
	Appended func(records int, took time.Duration, err error)
}

// Producer appends messages to the push topic.
//
// The number of partitions is read when it connects and decides for its
// lifetime where a timeline goes. When the topic grows meanwhile, an error is
// logged and the new partitions stay unused: using them would move timelines
// to other partitions and break their order. To repartition, stop all
// producers, let the jobs finish, add the partitions, and start again.
type Producer struct {
	cfg    Config
	logger *slog.Logger
	hooks  ProducerHooks
	pings  singleflight.Group

	mu         sync.RWMutex
	sender     *sender // nil before Connect and after Close
	partitions int32
	stopWatch  context.CancelFunc
	watch      sync.WaitGroup
}

// NewProducer makes a producer; Connect makes it usable.
func NewProducer(cfg Config, logger *slog.Logger, hooks ProducerHooks) (*Producer, error) {
	if err := cfg.err(); err != nil {
		return nil, err
	}
	if err := producerConfig(&cfg).Validate(); err != nil {
		return nil, fmt.Errorf("kafka: producer: %w", err)
	}
	return &Producer{cfg: cfg, logger: logger, hooks: hooks}, nil
}

// Connect tries to reach the brokers and the topic until ctx ends. Call it
// once. An attempt under way delays the return by dial_timeout or
// request_timeout at most.
func (p *Producer) Connect(ctx context.Context) error {
	return untilDone(ctx, p.logger, "connecting the producer", func() error {
		// What it starts lives until Close.
		return p.connect(context.WithoutCancel(ctx))
	})
}

func (p *Producer) connect(ctx context.Context) error {
	// The producer's own client retries for as long as an outage may take; so
	// a client that answers soon looks first.
	count, err := p.look()
	if err != nil {
		return err
	}
	s, err := newSender(p.cfg.Brokers, producerConfig(&p.cfg), p.cfg.MaxBufferedBytes, p.cfg.Linger)
	if err != nil {
		return err
	}
	if err := s.client.RefreshMetadata(p.cfg.Topic); err != nil {
		ctx, cancel := context.WithTimeout(ctx, p.cfg.RequestTimeout)
		defer cancel()
		return errors.Join(err, s.close(ctx))
	}
	ctx, stop := context.WithCancel(ctx)
	p.mu.Lock()
	p.sender, p.partitions, p.stopWatch = s, count, stop
	p.mu.Unlock()
	p.watch.Go(func() { p.watchPartitions(ctx, s.client, count) })
	p.logger.Info("kafka: producer connected", "topic", p.cfg.Topic, "partitions", count)
	return nil
}

// look reads the number of partitions.
func (p *Producer) look() (count int32, err error) {
	client, err := sarama.NewClient(p.cfg.Brokers, baseConfig(&p.cfg))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := client.RefreshMetadata(p.cfg.Topic); err != nil {
		return 0, fmt.Errorf("topic %s: %w", p.cfg.Topic, err)
	}
	ids, err := client.Partitions(p.cfg.Topic)
	if err != nil {
		return 0, fmt.Errorf("topic %s: %w", p.cfg.Topic, err)
	}
	return int32(len(ids)), nil
}

// watchPartitions compares the metadata, which sarama refreshes, with what the
// producer started with.
func (p *Producer) watchPartitions(ctx context.Context, client sarama.Client, count int32) {
	ticker := time.NewTicker(client.Config().Metadata.RefreshFrequency)
	defer ticker.Stop()
	seen := count
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		seen = p.checkPartitions(client, count, seen)
	}
}

// checkPartitions logs when the number of partitions is another than before,
// and returns it.
func (p *Producer) checkPartitions(client sarama.Client, count, before int32) int32 {
	ids, err := client.Partitions(p.cfg.Topic)
	if err != nil || int32(len(ids)) == before {
		return before
	}
	if now := int32(len(ids)); now != count {
		p.logger.Error("kafka: the topic's number of partitions has changed; this process keeps to the old number until it is restarted",
			"topic", p.cfg.Topic, "was", count, "is", now)
	}
	return int32(len(ids))
}

// Append makes the message durable for all targets; see stream.Producer. A
// body longer than Config.MaxBodyBytes is stream.ErrTooLarge.
func (p *Producer) Append(ctx context.Context, m message.Message, targets []message.Target) error {
	began := time.Now()
	records, err := p.append(ctx, &m, targets)
	if err != nil {
		err = fmt.Errorf("append %s: %w", m.ID, err)
	}
	if p.hooks.Appended != nil {
		p.hooks.Appended(records, time.Since(began), err)
	}
	return err
}

func (p *Producer) append(ctx context.Context, m *message.Message, targets []message.Target) (int, error) {
	s, partitions := p.connected()
	if s == nil {
		return 0, ErrNotConnected
	}
	shares, err := split(len(m.Body), targets, partitions, limits{p.cfg.MaxRecordBytes, p.cfg.MaxRecordTargets})
	if err != nil {
		return 0, err
	}
	if len(shares) == 1 && shares[0].kind == recordv1.PushMsg_ROOM {
		if err := s.linger(ctx, shares[0].partition); err != nil {
			return 0, err
		}
	}
	return len(shares), s.send(ctx, len(shares), func(i int) (*sarama.ProducerMessage, error) {
		value, err := encode(m, &shares[i])
		if err != nil {
			return nil, err
		}
		return &sarama.ProducerMessage{
			Topic:     p.cfg.Topic,
			Partition: shares[i].partition,
			Key:       sarama.StringEncoder(shares[i].key),
			Value:     sarama.ByteEncoder(value),
		}, nil
	})
}

func (p *Producer) connected() (*sender, int32) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.sender, p.partitions
}

// Ping tells whether the brokers answer and some partition has a leader. One
// without costs its own pushes; a process that were not ready because of it would
// take those to all others away, and so would all processes at once.
func (p *Producer) Ping(ctx context.Context) error {
	s, _ := p.connected()
	if s == nil {
		return ErrNotConnected
	}
	// The question may take as long as an outage; those who ask meanwhile
	// share it.
	answer := p.pings.DoChan("", func() (any, error) {
		err := s.client.RefreshMetadata(p.cfg.Topic)
		if err != nil && !errors.Is(err, sarama.ErrLeaderNotAvailable) {
			return nil, err
		}
		led, err := s.client.WritablePartitions(p.cfg.Topic)
		if err == nil && len(led) == 0 {
			err = fmt.Errorf("no partition of %s has a leader", p.cfg.Topic)
		}
		return nil, err
	})
	select {
	case a := <-answer:
		if a.Err != nil {
			return fmt.Errorf("kafka: ping: %w", a.Err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kafka: ping: %w", context.Cause(ctx))
	}
}

// Close refuses new messages and waits until those under way are answered or
// ctx ends. It may be called again.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	s, stop := p.sender, p.stopWatch
	p.sender = nil
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	stop()
	p.watch.Wait()
	return s.close(ctx)
}
