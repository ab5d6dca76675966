package kafkastream

import (
	"time"

	"github.com/IBM/sarama"
)

// leaders is the client of a producer. sarama's own asks again for as long as
// any partition of the topic lacks a leader, and what waits for it meanwhile is
// all that goes to one broker, and all partitions that look for their new
// leader. Here each partition waits for its own.
type leaders struct {
	sarama.Client     // does not ask again
	attempts      int // to find a leader
}

// RefreshMetadata implements sarama.Client. Whether the partition that it is for
// can be written is for Leader to say.
func (l *leaders) RefreshMetadata(topics ...string) error {
	_ = l.Client.RefreshMetadata(topics...)
	return nil
}

// Leader implements sarama.Client. It waits for as long as an outage may take.
func (l *leaders) Leader(topic string, partition int32) (*sarama.Broker, error) {
	for attempt := 0; ; attempt++ {
		broker, err := l.Client.Leader(topic, partition)
		if err == nil || attempt == l.attempts || l.Closed() {
			return broker, err
		}
		<-time.After(l.Config().Metadata.Retry.Backoff)
	}
}
