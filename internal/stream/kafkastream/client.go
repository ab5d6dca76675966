package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/IBM/sarama"
)

// version is the lowest broker that is supported. 3.2 brings the generation in
// a member's subscription, which keeps cooperative rebalances from trusting a
// stale owner.
var version = sarama.V3_2_0_0

// retryEvery is the pause between attempts to get metadata.
const retryEvery = 250 * time.Millisecond

// baseConfig is what every client shares. Its metadata retries are few, so a
// call that runs into an outage comes back soon.
func baseConfig(c *Config) *sarama.Config {
	s := sarama.NewConfig()
	s.Version = version
	s.ClientID = c.ClientID
	s.Net.DialTimeout = c.DialTimeout
	s.Net.ReadTimeout = c.RequestTimeout + 5*time.Second // the broker's own limit ends first
	s.Net.WriteTimeout = c.RequestTimeout
	s.Admin.Timeout = c.RequestTimeout
	s.Metadata.Full = false // a cluster may have thousands of topics; two are ours
	s.Metadata.AllowAutoTopicCreation = false
	s.Metadata.RefreshFrequency = time.Minute
	s.Metadata.Retry.Max = 2
	s.Metadata.Retry.Backoff = retryEvery
	return s
}

// adminConfig is that of an administration client, which finds the controller
// by metadata of the whole cluster only.
func adminConfig(c *Config) *sarama.Config {
	s := baseConfig(c)
	s.Metadata.Full = true
	return s
}

// producerConfig rides over an outage of c.OutageTimeout.
//
// There are two ways in which a record is given up early. One that waits for a
// leader fails when the metadata retries are used up (see leaders), so they cover
// the outage. A batch that was sent fails after Producer.Retry.Max attempts, so
// their backoffs sum up to the outage. In a longer outage both add up: a batch
// that was sent already may be retried for several minutes and be written late.
func producerConfig(c *Config) *sarama.Config {
	s := baseConfig(c)
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Idempotent = true
	s.Net.MaxOpenRequests = 1 // demanded by idempotence
	s.Producer.Return.Successes = true
	s.Producer.Return.Errors = true
	s.Producer.Timeout = c.RequestTimeout
	s.Producer.Partitioner = sarama.NewManualPartitioner
	s.ChannelBufferSize = partitionQueue
	// A batch is what came in while the one before was under way; before that,
	// pace has gathered the callers.
	s.Producer.Flush.Frequency = 0
	s.Producer.MaxMessageBytes = c.MaxRecordBytes + recordRoom
	s.Metadata.Retry.Max = int(c.OutageTimeout/retryEvery) + 1
	s.Producer.Retry.Max = attempts(c.OutageTimeout)
	s.Producer.Retry.BackoffFunc = func(retries, _ int) time.Duration { return backoff(retries) }
	return s
}

// consumerConfig is that of a group member.
func consumerConfig(c *Config) *sarama.Config {
	s := baseConfig(c)
	// The coordinator holds back its answer to a join until the others joined.
	s.Net.ReadTimeout = c.RebalanceTimeout + 5*time.Second
	s.Metadata.Retry.Max = 6 // also the lost heartbeats that end a session
	s.Consumer.Return.Errors = true
	s.Consumer.Offsets.Initial = sarama.OffsetOldest // a new group skips nothing
	s.Consumer.Offsets.AutoCommit.Enable = true      // commits marks, and a mark is ours to give
	s.Consumer.Offsets.AutoCommit.Interval = c.CommitInterval
	// A resumed or new partition joins the next fetch; this bounds its wait.
	s.Consumer.MaxWaitTime = 100 * time.Millisecond
	// The claim empties its channel at once and pauses the partition when it
	// has enough, so the feeder that serves all partitions of a broker never
	// waits for a worker. The limit only guards against a stalled process.
	s.Consumer.MaxProcessingTime = 10 * time.Second
	s.Consumer.Group.Session.Timeout = c.SessionTimeout
	s.Consumer.Group.Heartbeat.Interval = c.HeartbeatInterval
	s.Consumer.Group.Rebalance.Timeout = c.RebalanceTimeout
	s.Consumer.Group.Rebalance.Retry.Backoff = 500 * time.Millisecond
	s.Consumer.Group.InstanceId = c.InstanceID
	strategy := sarama.NewBalanceStrategyCooperativeSticky()
	if c.RebalanceStrategy == "sticky" {
		strategy = sarama.NewBalanceStrategySticky()
	}
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	return s
}

// groupClient is the client of a group's member; requests to the coordinator of
// the group have a connection of their own. A broker answers the requests of a
// connection one after the other, and sarama has one connection for each broker.
// A commit waits there until the broker has gathered others to write with it
// (group.coordinator.append.linger.ms), and a fetch that came behind it waited
// too: every commit_interval, records were 5 to 8 ms late
// (benchmarks/results/stages.txt). Each of the two clients keeps metadata of its
// own up to date.
type groupClient struct {
	sarama.Client // fetches and metadata
	coordinator   sarama.Client
}

func newGroupClient(c *Config) (sarama.Client, error) {
	client, err := sarama.NewClient(c.Brokers, consumerConfig(c))
	if err != nil {
		return nil, err
	}
	coordinator, err := sarama.NewClient(c.Brokers, consumerConfig(c))
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &groupClient{client, coordinator}, nil
}

// Coordinator implements sarama.Client.
func (c *groupClient) Coordinator(group string) (*sarama.Broker, error) {
	return c.coordinator.Coordinator(group)
}

// RefreshCoordinator implements sarama.Client.
func (c *groupClient) RefreshCoordinator(group string) error {
	return c.coordinator.RefreshCoordinator(group)
}

// Close implements sarama.Client.
func (c *groupClient) Close() error { return errors.Join(c.coordinator.Close(), c.Client.Close()) }

// maxBackoff bounds the pause between attempts, so that a recovery is seen soon.
const maxBackoff = 2 * time.Second

// backoff doubles from 50 ms to maxBackoff; the zeroth attempt waits 10 ms.
func backoff(attempt int) time.Duration {
	if attempt <= 0 {
		return 10 * time.Millisecond
	}
	return min(maxBackoff, 50*time.Millisecond<<min(attempt-1, 10))
}

// attempts is how many of these backoffs fill the time.
func attempts(total time.Duration) int {
	n := 1
	for sum := time.Duration(0); sum < total; n++ {
		sum += backoff(n)
	}
	return n
}

// pause waits for the attempt's backoff with up to a half of jitter on top, or
// for ctx; it tells whether to go on.
func pause(ctx context.Context, attempt int) bool {
	d := backoff(attempt)
	timer := time.NewTimer(d + rand.N(d/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// untilDone repeats f with backoff until it succeeds or ctx ends. It logs the
// first failure and the recovery.
func untilDone(ctx context.Context, logger *slog.Logger, what string, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil {
			if attempt > 1 {
				logger.Info("kafka: "+what+" succeeded", "attempts", attempt)
			}
			return nil
		}
		if attempt == 1 {
			logger.Warn("kafka: "+what+" failed, trying again", "error", err)
		}
		if !pause(ctx, attempt) {
			return fmt.Errorf("kafka: %s: %w: last attempt: %w", what, context.Cause(ctx), err)
		}
	}
}

// topicID asks the cluster for the id of the topic's present incarnation.
func topicID(client sarama.Client, topic string) (string, error) {
	broker := client.LeastLoadedBroker()
	if broker == nil {
		return "", sarama.ErrOutOfBrokers
	}
	reply, err := broker.GetMetadata(sarama.NewMetadataRequest(version, []string{topic}))
	if err != nil {
		return "", fmt.Errorf("id of topic %s: %w", topic, err)
	}
	for _, t := range reply.Topics {
		if t.Name != topic {
			continue
		}
		if t.Err != sarama.ErrNoError {
			return "", fmt.Errorf("id of topic %s: %w", topic, t.Err)
		}
		if t.Uuid == (sarama.Uuid{}) {
			return "", fmt.Errorf("id of topic %s: the broker gives none; Kafka 3.2 or later is needed", topic)
		}
		return t.Uuid.String(), nil
	}
	return "", fmt.Errorf("id of topic %s: not in the reply", topic)
}
