package testdeps

import (
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

func kafkaConfig() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Return.Successes = true
	cfg.Producer.Retry.Max = 50
	return cfg
}

func produce(t *testing.T, addr, topic, value string) {
	t.Helper()
	p, err := sarama.NewSyncProducer([]string{addr}, kafkaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: topic, Partition: 0, Value: sarama.StringEncoder(value)}); err != nil {
		t.Fatal(err)
	}
}

func consume(t *testing.T, addr, topic string) string {
	t.Helper()
	c, err := sarama.NewConsumer([]string{addr}, kafkaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := c.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	select {
	case m := <-p.Messages():
		return string(m.Value)
	case <-time.After(readyWithin):
		t.Fatal("no record")
		return ""
	}
}

func TestKafkaProducesConsumesAndLists(t *testing.T) {
	t.Parallel()
	addr := Kafka(t)
	if again := Kafka(t); again != addr {
		t.Fatalf("two brokers in one test binary: %s and %s", addr, again)
	}
	topic := NewTopic(t, addr, 1)
	produce(t, addr, topic, "hello")
	if got := consume(t, addr, topic); got != "hello" {
		t.Fatalf("consumed %q", got)
	}
	admin, err := sarama.NewClusterAdmin([]string{addr}, kafkaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	topics, err := admin.ListTopics()
	if err != nil {
		t.Fatal(err)
	}
	if got := topics[topic]; got.NumPartitions != 1 || got.ReplicationFactor != 1 {
		t.Fatalf("listed as %+v", got)
	}
}

func TestNewTopicIsUniqueAndHasItsPartitions(t *testing.T) {
	t.Parallel()
	addr := Kafka(t)
	a, b := NewTopic(t, addr, 3), NewTopic(t, addr, 3)
	if a == b {
		t.Fatalf("twice the name %s", a)
	}
	if n, err := ledPartitions(addr, a); err != nil || n != 3 {
		t.Fatalf("%d led partitions, %v", n, err)
	}
	if err := createTopic(addr, a, 1); err == nil {
		t.Fatal("a topic was created twice")
	}
	if _, err := ledPartitions(addr, Topic(t)); err == nil {
		t.Fatal("the broker creates topics by itself")
	}
}

// The limits of the broker's configuration: a group of a 1 s session forms.
func TestKafkaAllowsShortSessions(t *testing.T) {
	t.Parallel()
	addr := Kafka(t)
	topic := NewTopic(t, addr, 1)
	produce(t, addr, topic, "for the group")
	cfg := kafkaConfig()
	cfg.Consumer.Group.Session.Timeout = time.Second
	cfg.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	group, err := sarama.NewConsumerGroup([]string{addr}, Topic(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	h := firstRecord(make(chan string, 1))
	// Again, since a member that is held up for a second is out of the group.
	for deadline := time.Now().Add(readyWithin); len(h) == 0; {
		if err := group.Consume(t.Context(), []string{topic}, h); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
		if time.Now().After(deadline) && len(h) == 0 {
			t.Fatal("no record")
		}
	}
	if got := <-h; got != "for the group" {
		t.Fatalf("consumed %q", got)
	}
}

// firstRecord is a group handler that ends its claim after one record.
type firstRecord chan string

func (firstRecord) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (firstRecord) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (f firstRecord) ConsumeClaim(_ sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	m, ok := <-c.Messages()
	if !ok {
		return fmt.Errorf("the claim ended without a record")
	}
	f <- string(m.Value)
	return nil
}

func TestAKilledBrokerComesBackWithItsRecords(t *testing.T) {
	t.Parallel()
	s := KafkaServer(t)
	topic := NewTopic(t, s.Addr, 1)
	produce(t, s.Addr, topic, "kept")
	s.Kill()
	if _, err := brokers(s.Addr); err == nil {
		t.Fatal("the killed broker answers")
	}
	s.Restart()
	if got := consume(t, s.Addr, topic); got != "kept" {
		t.Fatalf("consumed %q", got)
	}
}
