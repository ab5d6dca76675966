package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

func TestAppendReachesEveryTarget(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	ensure(t, cfg)
	testAppendReachesEveryTarget(t, cfg)
}

func testAppendReachesEveryTarget(t *testing.T, cfg Config) {
	p := connected(t, cfg)
	var targets []message.Target
	for i := range 50 {
		targets = append(targets, message.ToKey("key-"+strconv.Itoa(i)), message.ToUser(int64(i+1)))
	}
	targets = append(targets, message.ToRoom("live://1"), message.ToRoom("live://2"), message.ToAll(7))
	id := message.ID{1, 2, 3}
	want := message.Message{ID: id, Op: 1000, Flags: message.Urgent | 1<<30, AcceptedMS: 1_700_000_000_000, Body: []byte("hello")}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Append(ctx, want, targets); err != nil {
		t.Fatal(err)
	}

	var got []message.Target
	records := 0
	for partition, msgs := range stored(t, cfg, cfg.Topic) {
		pushes := 0
		for _, msg := range msgs {
			records++
			m, ts, err := decode(msg.Value, cfg.MaxBodyBytes())
			if err != nil {
				t.Fatal(err)
			}
			if m.ID != want.ID || m.Op != want.Op || m.Flags != want.Flags || m.AcceptedMS != want.AcceptedMS || string(m.Body) != "hello" {
				t.Errorf("record holds %+v", m)
			}
			if !slices.ContainsFunc(ts, func(t message.Target) bool { return string(t.Timeline()) == string(msg.Key) }) {
				t.Errorf("Kafka key is %q, targets are %v", msg.Key, ts)
			}
			if ts[0].Kind == message.Key || ts[0].Kind == message.User {
				pushes++
			}
			for _, target := range ts {
				if at := target.Timeline().Partition(cfg.Partitions); at != partition {
					t.Errorf("%v is on partition %d, not %d", target, partition, at)
				}
				got = append(got, target)
			}
		}
		if pushes > 1 {
			t.Errorf("partition %d: keys and mids need %d records", partition, pushes)
		}
	}
	sortTargets(targets)
	sortTargets(got)
	if !slices.Equal(got, targets) {
		t.Errorf("targets in the log:\n%v\nwant\n%v", got, targets)
	}
	if most := int(cfg.Partitions) + 3; records > most {
		t.Errorf("%d records, at most %d are needed", records, most)
	}
}

func sortTargets(ts []message.Target) {
	slices.SortFunc(ts, func(a, b message.Target) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

func TestAppendNeedsAConnection(t *testing.T) {
	p, err := NewProducer(testConfig(t, "127.0.0.1:1"), newJournal(t).logger(), ProducerHooks{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Append(t.Context(), message.Message{}, []message.Target{message.ToAll(0)}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("Append before Connect: %v", err)
	}
	if err := p.Ping(t.Context()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("Ping before Connect: %v", err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("Close before Connect: %v", err)
	}
}

func TestConnectWaitsForTheBroker(t *testing.T) {
	leakcheck.Check(t)
	port := freePort(t)
	cfg := testConfig(t, "127.0.0.1:"+strconv.Itoa(port))
	j := newJournal(t)
	p, err := NewProducer(cfg, j.logger(), ProducerHooks{})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Connect(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connect without a broker: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Connect(t.Context()) }()
	eventually(t, "a warning", func() bool { return j.count("connecting the producer failed") >= 2 })
	fakeKafka(t, kfake.Ports(port), kfake.SeedTopics(3, cfg.Topic))
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("Connect does not return")
	}
	if err := p.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
	closeProducer(t, p)
	closeProducer(t, p)
	if err := p.Append(t.Context(), message.Message{}, []message.Target{message.ToAll(0)}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("Append after Close: %v", err)
	}
}

func TestAppendTooLarge(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.MaxRecordBytes = 4096
	ensure(t, cfg)
	p := connected(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	body := make([]byte, cfg.MaxBodyBytes()+1)
	err := p.Append(ctx, message.Message{Body: body}, []message.Target{message.ToUser(1)})
	if !errors.Is(err, stream.ErrTooLarge) || !strings.Contains(err.Error(), "3584") {
		t.Errorf("one byte too much: %v", err)
	}
	longest := message.ToRoom("t://" + strings.Repeat("r", message.MaxRoomBytes-4))
	all := message.Message{ID: message.ID{1}, Op: -1, Flags: 1<<32 - 1, AcceptedMS: -1, Body: body[1:]}
	if err := p.Append(ctx, all, []message.Target{longest, message.ToKey(strings.Repeat("k", message.MaxKeyBytes))}); err != nil {
		t.Errorf("the longest body with the longest names: %v", err)
	}
}

func TestAppendEndsWithItsContext(t *testing.T) {
	leakcheck.Check(t)
	dir, port := t.TempDir(), freePort(t)
	start := func() *kfake.Cluster {
		return fakeKafka(t, kfake.Ports(port), kfake.DataDir(dir))
	}
	k := start()
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.OutageTimeout = 2 * patience
	cfg.MaxRecordBytes, cfg.MaxBufferedBytes = 4096, 8192
	ensure(t, cfg)
	p := connected(t, cfg)
	appendTo(t, p, "warm", message.ToUser(1))
	k.Close()

	fits := func(bytes int64) bool {
		ok := p.sender.buffered.TryAcquire(bytes)
		if ok {
			p.sender.buffered.Release(bytes)
		}
		return ok
	}
	send := func(ctx context.Context, i int) error {
		return p.Append(ctx, message.Message{Body: make([]byte, 3000)}, onPartition(int32(i%4), cfg.Partitions, 1))
	}
	// 8192 bytes hold two such records, whatever becomes of their callers.
	for i := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- send(ctx, i) }()
		eventually(t, "it is in the buffer", func() bool { return !fits(8192 - int64(i)*4096) })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "is full") {
			t.Fatalf("Append without a broker: %v", err)
		}
	}
	for i := 2; i < 6; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		err := send(ctx, i)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "is full") { // in all, or that of the partition
			t.Fatalf("Append to a full buffer: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := p.Ping(ctx); err == nil {
		t.Error("Ping without a broker succeeds")
	}
	k = start() // takes what waits, so that Close need not wait for the outage
	closeProducer(t, p)
	k.Close()
}

// Messages of one caller are in order and once in the log, although the broker
// goes away and comes back in the middle of them.
func TestAppendSurvivesABrokerRestart(t *testing.T) {
	leakcheck.Check(t)
	dir, port := t.TempDir(), freePort(t)
	start := func() *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	k := start()
	cfg := testConfig(t, k.ListenAddrs()...)
	ensure(t, cfg)
	appendDuring(t, cfg, 3, func() {
		k.Close()
		away, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
		<-away.Done()
		cancel()
		k = start()
	})
	k.Close()
}

func TestAppendSurvivesLeaderChanges(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t, kfake.NumBrokers(3))
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Replication = 3
	ensure(t, cfg)
	appendDuring(t, cfg, 3, func() { k.ShufflePartitionLeaders() })
}

// The broker has written the batch and says that it failed: the retry must not
// write it again. And a leader that is missing for longer than sarama's default
// retries last is no error either.
func TestRetriesLastAndDoubleNothing(t *testing.T) {
	for name, kind := range map[string]*kerr.Error{
		"written but too few replicas": kerr.NotEnoughReplicasAfterAppend,
		"written but timed out":        kerr.RequestTimedOut,
		"no leader":                    kerr.NotLeaderForPartition,
	} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Check(t)
			k := fakeKafka(t)
			cfg := testConfig(t, k.ListenAddrs()...)
			ensure(t, cfg)
			appendDuring(t, cfg, 1, func() {
				h := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: cfg.Topic, Err: kind, Count: -1})
				eventually(t, "more failures than sarama retries by default", func() bool { return h.Hits() > 4*5 })
				h.Remove()
			})
		})
	}
}

// Symptom: while one partition had no leader, pushes to all partitions failed, and
// every logic was not ready.
// Cause: its records took the whole buffer; sarama waited for space in the queue
// of that partition before it looked at the records of others; and it asked for
// metadata, with nothing else on the way to the broker, until every partition had
// a leader.
func TestPartitionWithoutALeaderStopsOnlyItself(t *testing.T) {
	for name, load := range map[string]struct{ appends, bytes int }{
		"many records": {2 * partitionQueue, 1},
		"large ones":   {20, 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Check(t)
			k := fakeKafka(t)
			cfg := testConfig(t, k.ListenAddrs()...)
			cfg.MaxBufferedBytes = 2_000_000
			cfg.OutageTimeout = 4 * patience
			ensure(t, cfg)
			p := connected(t, cfg)
			stuck, others := onPartition(0, cfg.Partitions, 1), onPartition(1, cfg.Partitions, 1)
			appendTo(t, p, "warm", stuck[0], others[0])
			for key, kind := range map[kmsg.Key]*kerr.Error{kmsg.Metadata: kerr.LeaderNotAvailable, kmsg.Produce: kerr.NotLeaderForPartition} {
				defer k.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Topic: cfg.Topic, Partitions: []int32{0}, Err: kind, Count: -1}).Remove()
			}
			var waiting sync.WaitGroup
			for range load.appends {
				waiting.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if err := p.Append(ctx, message.Message{Body: make([]byte, load.bytes)}, stuck); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("the stuck partition: %v", err)
					}
				})
			}
			waiting.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), patience) // a quarter of the outage
			defer cancel()
			if err := p.Ping(ctx); err != nil {
				t.Errorf("not ready for the other partitions: %v", err)
			}
			for range 3 {
				if err := p.Append(ctx, message.Message{Body: make([]byte, load.bytes)}, others); err != nil {
					t.Fatalf("another partition: %v", err)
				}
			}
		})
	}
}

// A broker that has just started may not know the topic for a moment. What comes
// then waits, as it does for a leader.
func TestABrokerThatDoesNotKnowTheTopicYet(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	ensure(t, cfg)
	p := connected(t, cfg)
	appendTo(t, p, "warm", message.ToUser(1))
	defer k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: cfg.Topic, Err: kerr.UnknownTopicOrPartition, Count: 3}).Remove()
	if err := p.sender.client.RefreshMetadata(cfg.Topic); err == nil {
		t.Fatal("the topic is known")
	}
	appendTo(t, p, "while it is unknown", message.ToUser(1))
}

func TestAcknowledgedBytesAreGivenBack(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.MaxRecordBytes, cfg.MaxBufferedBytes = 4096, 4096
	ensure(t, cfg)
	p := connected(t, cfg)
	for range 10 {
		appendTo(t, p, strings.Repeat("x", 3000), message.ToUser(1), message.ToRoom("a://b"), message.ToAll(0))
	}
}

// Symptom: with max_buffered_bytes as small as it may be, the longest body to a
// room with a long name was never taken. Cause: a record is somewhat larger than
// max_record_bytes then, and waited for more space than there is.
func TestTheLargestRecordFitsTheSmallestBuffer(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.MaxRecordBytes, cfg.MaxBufferedBytes = 4096, 4096
	ensure(t, cfg)
	p := connected(t, cfg)
	appendTo(t, p, strings.Repeat("x", cfg.MaxBodyBytes()), message.ToRoom("t://"+strings.Repeat("r", message.MaxRoomBytes-4)))
}

// appendDuring appends from several callers while disturb runs some times, and
// checks that the log has everything once and in each caller's order. It
// returns the number of messages.
func appendDuring(t *testing.T, cfg Config, times int, disturb func()) int {
	t.Helper()
	const callers = 8
	p := connected(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+times)*patience)
	defer cancel()
	var sent [callers]int
	stop := make(chan struct{})
	var wg sync.WaitGroup
	progress := make(chan struct{}, 1)
	for c := range callers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				m := message.Message{Body: []byte(fmt.Sprintf("%d %d", c, i))}
				if err := p.Append(ctx, m, []message.Target{message.ToUser(int64(c + 1))}); err != nil {
					t.Errorf("caller %d, message %d: %v", c, i, err)
					return
				}
				sent[c] = i + 1
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range times {
		for range 50 {
			select {
			case <-progress:
			case <-ctx.Done():
				t.Fatal("no progress")
			}
		}
		disturb()
	}
	for range 50 {
		<-progress
	}
	close(stop)
	wg.Wait()

	var got [callers]int
	for partition, msgs := range stored(t, cfg, cfg.Topic) {
		for _, msg := range msgs {
			m, _, err := decode(msg.Value, cfg.MaxBodyBytes())
			if err != nil {
				t.Fatal(err)
			}
			var c, i int
			if _, err := fmt.Sscanf(string(m.Body), "%d %d", &c, &i); err != nil {
				t.Fatal(err)
			}
			if i != got[c] {
				t.Fatalf("caller %d: message %d stands at place %d of partition %d", c, i, got[c], partition)
			}
			got[c]++
		}
	}
	if got != sent {
		t.Errorf("in the log: %v, acknowledged: %v", got, sent)
	}
	total := 0
	for _, n := range sent {
		total += n
	}
	return total
}

func TestNewPartitionsStayUnused(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	ensure(t, cfg)
	p := connected(t, cfg)
	j := newJournal(t)
	p.logger = j.logger()

	admin, err := sarama.NewClusterAdmin(cfg.Brokers, adminConfig(&cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreatePartitions(cfg.Topic, cfg.Partitions*2, nil, false); err != nil {
		t.Fatal(err)
	}
	s, count := p.connected()
	if err := s.client.RefreshMetadata(cfg.Topic); err != nil {
		t.Fatal(err)
	}
	seen := count
	for range 3 {
		seen = p.checkPartitions(s.client, count, seen)
	}
	if n := j.count("number of partitions has changed"); n != 1 {
		t.Errorf("the change was logged %d times", n)
	}
	for i := range 200 {
		appendTo(t, p, "x", message.ToUser(int64(i+1)))
	}
	for partition := range stored(t, cfg, cfg.Topic) {
		if partition >= cfg.Partitions {
			t.Errorf("partition %d is used", partition)
		}
	}
}

func TestEnsureTopics(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t, kfake.NumBrokers(3))
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Replication = 3
	ensure(t, cfg)
	if n := len(k.PartitionInfos(cfg.Topic)); n != int(cfg.Partitions) {
		t.Errorf("push topic has %d partitions", n)
	}
	info := k.TopicInfo(cfg.Topic)
	if info == nil || info.NumReplicas != 3 || info.Configs["min.insync.replicas"] == nil || *info.Configs["min.insync.replicas"] != "2" {
		t.Errorf("push topic: %+v", info)
	}
	if n := len(k.PartitionInfos(cfg.DLQTopic)); n != dlqPartitions {
		t.Errorf("dead-letter topic has %d partitions", n)
	}
	j := newJournal(t)
	cfg.Partitions++
	if err := EnsureTopics(t.Context(), cfg, j.logger()); err != nil {
		t.Fatal(err)
	}
	if !j.has("another number of partitions") || len(k.PartitionInfos(cfg.Topic)) != int(cfg.Partitions)-1 {
		t.Error("an existing topic was changed, or its difference not told")
	}
}

func TestPingWithoutAnyLeader(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	ensure(t, cfg)
	p := connected(t, cfg)
	fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: cfg.Topic, Err: kerr.LeaderNotAvailable, Count: -1})
	if err := p.Ping(t.Context()); err == nil {
		t.Error("ready without a partition to write to")
	}
	fault.Remove()
	if err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
