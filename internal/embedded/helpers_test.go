package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

const topic = "push"

func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.DataDir = dir
	cfg.Topics = []Topic{{topic, 4}, {topic + "-dead", 1}}
	return cfg
}

func startTestKafka(t *testing.T, cfg Config) *Kafka {
	t.Helper()
	k, err := StartKafka(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeKafka(t, k) })
	return k
}

func closeKafka(t *testing.T, k *Kafka) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute) // also in a cleanup
	defer cancel()
	if err := k.Close(ctx); err != nil {
		t.Error(err)
	}
}

func clientConfig() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Idempotent = true
	cfg.Net.MaxOpenRequests = 1
	cfg.Producer.Return.Successes = true
	cfg.Producer.Partitioner = sarama.NewManualPartitioner
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Group.Session.Timeout = time.Minute // a pause of the process is no end
	return cfg
}

// client connects for the length of the test, or until Close.
func client(t *testing.T, addr string) sarama.Client {
	t.Helper()
	c, err := sarama.NewClient([]string{addr}, clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// produce appends n records to a partition of topic: value "<partition>-<offset>".
func produce(t *testing.T, addr string, partition int32, n int) {
	t.Helper()
	c := client(t, addr)
	defer c.Close()
	producer, err := sarama.NewSyncProducerFromClient(c)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	next, err := c.GetOffset(topic, partition, sarama.OffsetNewest)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(n) {
		record := &sarama.ProducerMessage{Topic: topic, Partition: partition, Value: sarama.StringEncoder(value(partition, next+i))}
		if _, offset, err := producer.SendMessage(record); err != nil || offset != next+i {
			t.Fatalf("record %d is at %d: %v", next+i, offset, err)
		}
	}
}

func value(partition int32, offset int64) string { return fmt.Sprintf("%d-%d", partition, offset) }

// wantRecords checks that a partition has exactly the records up to n.
func wantRecords(t *testing.T, addr string, partition int32, n int64) {
	t.Helper()
	c := client(t, addr)
	defer c.Close()
	if newest, err := c.GetOffset(topic, partition, sarama.OffsetNewest); err != nil || newest != n {
		t.Fatalf("partition %d ends at %d, want %d: %v", partition, newest, n, err)
	}
	consumer, err := sarama.NewConsumerFromClient(c)
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	records, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	for offset := range n {
		select {
		case record := <-records.Messages():
			if record.Offset != offset || string(record.Value) != value(partition, offset) {
				t.Fatalf("record %d is %q at %d", offset, record.Value, record.Offset)
			}
		case <-time.After(time.Minute):
			t.Fatalf("record %d of partition %d does not come", offset, partition)
		}
	}
}

func oldest(t *testing.T, c sarama.Client, partition int32) int64 {
	t.Helper()
	offset, err := c.GetOffset(topic, partition, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	return offset
}

// eventually waits until done.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); !done(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
