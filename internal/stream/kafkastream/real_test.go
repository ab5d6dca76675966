package kafkastream

import (
	"context"
	"errors"
	"testing"

	"github.com/IBM/sarama"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/testdeps"
)

// realConfig is for the shared real broker: names of its own.
func realConfig(t testing.TB, addr string) Config {
	t.Helper()
	cfg := testConfig(t, addr)
	cfg.Topic = testdeps.Topic(t)
	cfg.DLQTopic = cfg.Topic + "-dlq"
	cfg.Group = cfg.Topic + "-group"
	return cfg
}

func TestRealKafkaAppend(t *testing.T) {
	leakcheck.Check(t)
	cfg := realConfig(t, testdeps.Kafka(t))
	ensure(t, cfg)
	testAppendReachesEveryTarget(t, cfg)
}

func TestRealKafkaTakesTheLargestRecord(t *testing.T) {
	leakcheck.Check(t)
	cfg := realConfig(t, testdeps.Kafka(t))
	cfg.MaxRecordBytes, cfg.MaxInFlightBytes = 4_000_000, 8_000_000
	ensure(t, cfg)
	p := connected(t, cfg)
	m := message.Message{Op: 9, Body: make([]byte, cfg.MaxBodyBytes())}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 3 {
		if err := p.Append(ctx, m, []message.Target{message.ToUser(1)}); err != nil {
			t.Fatal(err)
		}
	}
	m.Body = append(m.Body, 0)
	if err := p.Append(ctx, m, []message.Target{message.ToUser(1)}); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("one byte too much: %v", err)
	}
	l := newLedger()
	r := run(t, cfg, l.diligent("m"), ConsumerHooks{})
	awaitCompletions(t, l, 3)
	r.stop(t)
	for _, d := range l.deliveries() {
		if len(d.body) != cfg.MaxBodyBytes() {
			t.Errorf("a body of %d bytes came back", len(d.body))
		}
	}
}

func TestRealKafkaRestartRepeatsNothing(t *testing.T) {
	leakcheck.Check(t)
	cfg := realConfig(t, testdeps.Kafka(t))
	ensure(t, cfg)
	testCleanRestartRepeatsNothing(t, cfg)
}

func TestRealKafkaRebalance(t *testing.T) {
	for _, strategy := range []string{"cooperative", "sticky"} {
		t.Run(strategy, func(t *testing.T) {
			leakcheck.Check(t)
			cfg := realConfig(t, testdeps.Kafka(t))
			cfg.RebalanceStrategy = strategy
			ensure(t, cfg)
			testRebalance(t, cfg)
		})
	}
}

// The dead-letter topic is missing first and created later.
func TestRealKafkaDeadLetter(t *testing.T) {
	leakcheck.Check(t)
	cfg := realConfig(t, testdeps.Kafka(t))
	cfg.Partitions = 2
	ensure(t, cfg)
	admin, err := sarama.NewClusterAdmin(cfg.Brokers, adminConfig(&cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.DeleteTopic(cfg.DLQTopic); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the dead-letter topic is gone", func() bool {
		found, err := admin.DescribeTopics([]string{cfg.DLQTopic})
		return err == nil && len(found) == 1 && found[0].Err == sarama.ErrUnknownTopicOrPartition
	})
	testPoison(t, cfg, func() { ensure(t, cfg) })
}

// The only broker is killed and comes back while messages flow: each is in the
// log once, in its caller's order, and each reaches a worker.
func TestRealKafkaIsKilled(t *testing.T) {
	leakcheck.Check(t)
	s := testdeps.KafkaServer(t)
	cfg := realConfig(t, s.Addr)
	ensure(t, cfg)
	l := newLedger()
	r := run(t, cfg, l.diligent("m"), ConsumerHooks{})
	sent := appendDuring(t, cfg, 2, func() {
		s.Kill()
		s.Restart()
	})
	awaitCompletions(t, l, sent)
	r.stop(t)
	if _, distinct := l.completions(); distinct != sent {
		t.Errorf("%d records were completed, %d were sent", distinct, sent)
	}
	for partition := range cfg.Partitions {
		next := int64(0)
		for _, offset := range offsets(l.deliveries(), partition) {
			if offset > next {
				t.Errorf("partition %d: offset %d was delivered before %d", partition, offset, next)
				break
			}
			next = max(next, offset+1)
		}
	}
}
