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
	attempts      int // after the first
}

// RefreshMetadata implements sarama.Client. Whether the partition that it is for
// can be written is for Leader to say.
func (l *leaders) RefreshMetadata(topics ...string) error {
	_ = l.Client.RefreshMetadata(topics...)
	return nil
}

// Leader implements sarama.Client. It waits for as long as an outage may take.
func (l *leaders) Leader(topic string, partition int32) (*sarama.Broker, error) {
	return insist(l, func() (*sarama.Broker, error) { return l.Client.Leader(topic, partition) })
}

// Partitions implements sarama.Client. It waits, too: a broker that has just
// started may not know the topic yet.
func (l *leaders) Partitions(topic string) ([]int32, error) {
	return insist(l, func() ([]int32, error) { return l.Client.Partitions(topic) })
}

func insist[T any](l *leaders, ask func() (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		answer, err := ask()
		if err == nil || attempt == l.attempts || l.Closed() {
			return answer, err
		}
		<-time.After(l.Config().Metadata.Retry.Backoff)
	}
}
