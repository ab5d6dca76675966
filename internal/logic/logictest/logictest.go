// Package logictest sets up what logic's tests run against: presence on a
// miniredis and a log on a kfake, both over real loopback connections, and a
// way to read back what was appended.
//
// # Ownership
//
// Everything made here ends with the test that asked for it.
//
// # Non-goals
//
// No faults of the network: the tests take the servers away with what
// miniredis and kfake offer.
package logictest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"google.golang.org/protobuf/proto"

	recordv1 "github.com/perseid-im/perseid/api/record/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/presence/redisreg"
	"github.com/perseid-im/perseid/internal/stream/kafkastream"
)

// patience is how long anything here may take before the test fails: a busy
// machine may stop a process for seconds, at any point.
const patience = time.Minute

// unnoticed is longer than any test; leases last for it.
const unnoticed = 10 * time.Minute

// Env is the servers of one test and their adapters.
type Env struct {
	Redis    *miniredis.Miniredis
	Kafka    *kfake.Cluster
	Presence *redisreg.Registry
	Log      *kafkastream.Producer
	Metrics  *obs.Metrics
	topic    string
}

// New starts a Redis and a Kafka with a push topic of one partition.
func New(t testing.TB) *Env {
	t.Helper()
	const topic = "perseid-push"
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	must(t, err)
	t.Cleanup(kafka.Close)
	redis := miniredis.RunT(t)

	presenceConfig := redisreg.DefaultConfig()
	presenceConfig.Addr = redis.Addr()
	presenceConfig.DialTimeout, presenceConfig.ReadTimeout, presenceConfig.WriteTimeout = patience, patience, patience
	registry, err := redisreg.New(presenceConfig)
	must(t, err)
	t.Cleanup(func() { must(t, registry.Close()) })

	logConfig := kafkastream.DefaultConfig()
	logConfig.Brokers, logConfig.Topic, logConfig.Partitions = kafka.ListenAddrs(), topic, 1
	logConfig.DialTimeout, logConfig.RequestTimeout = patience, patience
	logConfig.OutageTimeout = time.Second // some tests take Kafka away, and it closes only after that
	producer, err := kafkastream.NewProducer(logConfig, slog.New(slog.DiscardHandler), kafkastream.ProducerHooks{})
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(t, producer.Connect(ctx))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = producer.Close(ctx) // fails where the test took Kafka away
	})
	return &Env{Redis: redis, Kafka: kafka, Presence: registry, Log: producer, Metrics: obs.NewMetrics(), topic: topic}
}

// Core starts a core on the servers; change may alter its configuration and
// dependencies first.
func (e *Env) Core(t testing.TB, change func(*logic.Config, *logic.Deps)) *logic.Core {
	t.Helper()
	cfg := logic.DefaultConfig()
	cfg.OnlineInterval, cfg.NodesInterval = 50*time.Millisecond, 50*time.Millisecond
	cfg.PresenceTimeout = 30 * time.Second // the highest
	cfg.AppendTimeout, cfg.TimelineTimeout = patience, patience
	cfg.LeaseTTL, cfg.RoomsTTL = unnoticed, unnoticed
	deps := logic.Deps{Presence: unhurried{e.Presence}, Log: e.Log, Broadcasts: unhurried{e.Presence}, Metrics: e.Metrics}
	if change != nil {
		change(&cfg, &deps)
	}
	core, err := logic.New(cfg, deps)
	must(t, err)
	must(t, core.Start(context.Background()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		must(t, core.Close(ctx))
	})
	return core
}

// unhurried does not fail for the deadline of a state, which is 5 s at most.
type unhurried struct{ *redisreg.Registry }

func (u unhurried) Locate(ctx context.Context, queries []presence.Query) (presence.Located, error) {
	return u.Registry.Locate(context.WithoutCancel(ctx), queries)
}

func (u unhurried) Announce(ctx context.Context, id message.ID, speed int32) error {
	return u.Registry.Announce(context.WithoutCancel(ctx), id, speed)
}

// Comet is a live comet with the given name.
func (e *Env) Comet(t testing.TB, info presence.NodeInfo) presence.Node {
	t.Helper()
	if info.GRPCAddr == "" {
		info.GRPCAddr = "10.0.0.1:3109"
	}
	_, err := e.Presence.Lease(context.Background(), info, unnoticed)
	must(t, err)
	return info.Node
}

// Rooms sets the room counts of a comet.
func (e *Env) Rooms(t testing.TB, node presence.Node, counts map[string]int32) {
	t.Helper()
	must(t, e.Presence.SetRooms(context.Background(), node, counts, unnoticed))
}

// Records reads the whole push topic.
func (e *Env) Records(t testing.TB) []*recordv1.PushMsg {
	t.Helper()
	client, err := sarama.NewClient(e.Kafka.ListenAddrs(), sarama.NewConfig())
	must(t, err)
	defer func() { must(t, client.Close()) }()
	end, err := client.GetOffset(e.topic, 0, sarama.OffsetNewest)
	must(t, err)
	var records []*recordv1.PushMsg
	if end == 0 {
		return nil
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	must(t, err)
	partition, err := consumer.ConsumePartition(e.topic, 0, 0)
	must(t, err)
	defer func() { must(t, partition.Close()) }()
	timeout := time.After(patience)
	for {
		select {
		case m := <-partition.Messages():
			record := &recordv1.PushMsg{}
			must(t, proto.Unmarshal(m.Value, record))
			records = append(records, record)
			if m.Offset == end-1 {
				return records
			}
		case <-timeout:
			t.Fatalf("%d of %d records read", len(records), end)
		}
	}
}

// Eventually waits for a condition.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
