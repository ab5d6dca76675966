package kafkastream

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"github.com/IBM/sarama"
)

// Headers of a dead letter, besides those of the record itself.
const (
	headerTopic     = "perseid-source-topic"
	headerPartition = "perseid-source-partition"
	headerOffset    = "perseid-source-offset"
	headerError     = "perseid-error"
)

// maxErrorBytes of the reason go into the header.
const maxErrorBytes = 1024

// deadLetters writes unreadable records to the dead-letter topic. It connects
// when the first one comes.
type deadLetters struct {
	cfg    Config
	logger *slog.Logger

	mu     sync.Mutex
	sender *sender
	closed bool
}

// put writes one record, with key, value and headers as they came. It returns
// when the letter is durable or ctx ended.
func (d *deadLetters) put(ctx context.Context, msg *sarama.ConsumerMessage, why error) error {
	return untilDone(ctx, d.logger, "writing a dead letter", func() error {
		s, err := d.connected()
		if err != nil {
			return err
		}
		return s.send(ctx, 1, func(int) (*sarama.ProducerMessage, error) { return d.letter(msg, why), nil })
	})
}

func (d *deadLetters) letter(msg *sarama.ConsumerMessage, why error) *sarama.ProducerMessage {
	reason := ""
	if why != nil {
		reason = why.Error()
		reason = reason[:min(len(reason), maxErrorBytes)]
	}
	out := &sarama.ProducerMessage{Topic: d.cfg.DLQTopic, Value: sarama.ByteEncoder(msg.Value), Timestamp: msg.Timestamp}
	if msg.Key != nil {
		out.Key = sarama.ByteEncoder(msg.Key)
	}
	for _, h := range msg.Headers {
		if h != nil {
			out.Headers = append(out.Headers, *h)
		}
	}
	for _, h := range [][2]string{
		{headerTopic, msg.Topic},
		{headerPartition, strconv.Itoa(int(msg.Partition))},
		{headerOffset, strconv.FormatInt(msg.Offset, 10)},
		{headerError, reason},
	} {
		out.Headers = append(out.Headers, sarama.RecordHeader{Key: []byte(h[0]), Value: []byte(h[1])})
	}
	return out
}

func (d *deadLetters) connected() (*sender, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	if d.sender == nil {
		s, err := newSender(d.cfg.Brokers, deadLetterConfig(&d.cfg), deadLetterBytes, 0)
		if err != nil {
			return nil, fmt.Errorf("dead letters: %w", err)
		}
		d.sender = s
	}
	return d.sender, nil
}

// close is called when no worker is left.
func (d *deadLetters) close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.sender == nil {
		return nil
	}
	return d.sender.close(ctx)
}

// deadLetterBytes bounds the letters under way. It is above what a broker's
// fetch returns as one record.
const deadLetterBytes = 256 << 20

// deadLetterConfig gives up soon: put does the retries.
func deadLetterConfig(c *Config) *sarama.Config {
	s := producerConfig(c)
	s.Metadata.Retry.Max = 2
	s.Producer.Retry.Max = 5
	s.Producer.Partitioner = sarama.NewHashPartitioner
	s.Producer.MaxMessageBytes = int(sarama.MaxRequestSize) - 64<<10
	return s
}
