package kafkastream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

// patience is how long a condition may take to become true.
const patience = time.Minute

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// journal collects what is logged.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) has(text string) bool { return j.count(text) > 0 }

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.buf.String(), text)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// newJournal shows what was logged when the test fails.
func newJournal(t testing.TB) *journal {
	j := &journal{}
	t.Cleanup(func() {
		if t.Failed() {
			j.mu.Lock()
			defer j.mu.Unlock()
			t.Logf("log:\n%s", j.buf.String())
		}
	})
	return j
}

func fakeKafka(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1),
		kfake.GroupMinSessionTimeout(100 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// freePort is below the ports that the kernel gives to connections and to
// listeners on port 0: nobody takes it while no broker has it.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// testConfig is quick to notice, and takes no pause of a process for an end.
func testConfig(t testing.TB, brokers ...string) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Brokers = brokers
	cfg.Partitions = 4
	cfg.DialTimeout = 10 * time.Second
	cfg.RequestTimeout = 20 * time.Second
	cfg.CommitInterval = 20 * time.Millisecond
	cfg.SessionTimeout = 20 * time.Second
	cfg.HeartbeatInterval = 100 * time.Millisecond
	cfg.RebalanceTimeout = 40 * time.Second
	cfg.FinishTimeout = 20 * time.Second
	if p := cfg.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
	return cfg
}

func ensure(t testing.TB, cfg Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := EnsureTopics(ctx, cfg, newJournal(t).logger()); err != nil {
		t.Fatal(err)
	}
}

func connected(t testing.TB, cfg Config) *Producer {
	t.Helper()
	p, err := NewProducer(cfg, newJournal(t).logger(), ProducerHooks{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeProducer(t, p) })
	return p
}

func closeProducer(t testing.TB, p *Producer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

func appendTo(t testing.TB, p stream.Producer, body string, targets ...message.Target) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Append(ctx, message.Message{Op: 9, Body: []byte(body)}, targets); err != nil {
		t.Fatal(err)
	}
}

// stored is everything in the topic, by partition, as the brokers have it.
func stored(t testing.TB, cfg Config, topic string) map[int32][]*sarama.ConsumerMessage {
	t.Helper()
	client, err := sarama.NewClient(cfg.Brokers, baseConfig(&cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	reader, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	partitions, err := client.Partitions(topic)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int32][]*sarama.ConsumerMessage{}
	for _, p := range partitions {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			t.Fatal(err)
		}
		start, err := client.GetOffset(topic, p, sarama.OffsetOldest)
		if err != nil {
			t.Fatal(err)
		}
		if start == end {
			continue
		}
		from, err := reader.ConsumePartition(topic, p, start)
		if err != nil {
			t.Fatal(err)
		}
		timeout := time.After(patience)
		for last := start - 1; last < end-1; {
			select {
			case msg := <-from.Messages():
				all[p] = append(all[p], msg)
				last = msg.Offset
			case <-timeout:
				t.Fatalf("partition %d: read to %d of %d", p, last, end)
			}
		}
		if err := from.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// committed is the group's offset of the partition, -1 when there is none.
func committed(t testing.TB, cfg Config, partition int32) int64 {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(cfg.Brokers, adminConfig(&cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	got, err := admin.ListConsumerGroupOffsets(cfg.Group, map[string][]int32{cfg.Topic: {partition}})
	if err != nil {
		t.Fatal(err)
	}
	if b := got.GetBlock(cfg.Topic, partition); b != nil {
		return b.Offset
	}
	return -1
}

// delivery is a record as a worker got it.
type delivery struct {
	member    string
	partition int32
	offset    int64
	body      string
}

// ledger is what workers got and completed, over all members.
type ledger struct {
	mu        sync.Mutex
	got       []delivery
	completed map[int32]map[int64]int
}

func newLedger() *ledger { return &ledger{completed: map[int32]map[int64]int{}} }

func (l *ledger) take(member string, records []stream.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range records {
		l.got = append(l.got, delivery{member, r.Partition, r.Offset, string(r.Message.Body)})
	}
}

// complete is called before the claim's Complete.
func (l *ledger) complete(partition int32, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.completed[partition] == nil {
		l.completed[partition] = map[int64]int{}
	}
	l.completed[partition][offset]++
}

func (l *ledger) completions() (total, distinct int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, offsets := range l.completed {
		for _, n := range offsets {
			total += n
		}
		distinct += len(offsets)
	}
	return total, distinct
}

func (l *ledger) deliveries() []delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]delivery(nil), l.got...)
}

// diligent completes everything it gets, in order.
func (l *ledger) diligent(member string) stream.Worker {
	return func(ctx context.Context, c stream.Claim) error {
		for {
			records, err := c.Next(ctx, 64)
			if err != nil {
				return err
			}
			l.take(member, records)
			for _, r := range records {
				l.complete(c.Partition(), r.Offset)
				c.Complete(r.Offset)
			}
		}
	}
}

// running is a consumer in its goroutine.
type running struct {
	*Consumer
	journal *journal
	cancel  context.CancelFunc
	ended   chan error
}

func run(t testing.TB, cfg Config, w stream.Worker, hooks ConsumerHooks) *running {
	t.Helper()
	j := newJournal(t)
	c, err := NewConsumer(cfg, j.logger(), hooks)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Consumer: c, journal: j, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- c.Run(ctx, w) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop waits for the clean end.
func (r *running) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.ended:
		r.ended <- nil
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run does not return")
	}
}

// onPartition makes n keys that live on the partition.
func onPartition(partition, partitions int32, n int) []message.Target {
	var targets []message.Target
	for i := 0; len(targets) < n; i++ {
		if k := message.ToKey("k" + strconv.Itoa(i)); k.Timeline().Partition(partitions) == partition {
			targets = append(targets, k)
		}
	}
	return targets
}

func offsets(ds []delivery, partition int32) []int64 {
	var o []int64
	for _, d := range ds {
		if d.partition == partition {
			o = append(o, d.offset)
		}
	}
	return o
}

func body(i int) string { return fmt.Sprintf("m-%06d", i) }
