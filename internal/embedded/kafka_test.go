package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/perseid-im/perseid/internal/leakcheck"
)

func TestRecordsAndOffsetsSurviveClose(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "not", "there", "yet"))
	k := startTestKafka(t, cfg)
	if strings.HasSuffix(k.Addr(), ":0") {
		t.Fatalf("address %s", k.Addr())
	}
	produce(t, k.Addr(), 0, 50)
	produce(t, k.Addr(), 3, 7)
	commit(t, k.Addr(), 0, 31)
	closeKafka(t, k)
	if _, err := net.DialTimeout("tcp", k.Addr(), time.Second); err == nil {
		t.Error("it still accepts after Close")
	}

	for _, sync := range []bool{false, true} {
		cfg.SyncWrites = sync
		k = startTestKafka(t, cfg)
		wantRecords(t, k.Addr(), 0, 50)
		wantRecords(t, k.Addr(), 3, 7)
		wantRecords(t, k.Addr(), 1, 0)
		if at := committed(t, k.Addr(), 0); at != 31 {
			t.Errorf("the group is at %d, want 31", at)
		}
		closeKafka(t, k)
	}
	k = startTestKafka(t, cfg)
	produce(t, k.Addr(), 0, 5)
	wantRecords(t, k.Addr(), 0, 55)
}

// commit joins a consumer group and commits an offset, as job does.
func commit(t *testing.T, addr string, partition int32, offset int64) {
	t.Helper()
	group, err := sarama.NewConsumerGroup([]string{addr}, "job", clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Consume(t.Context(), []string{topic}, committer{partition, offset}); err != nil {
		t.Fatal(err)
	}
	if err := group.Close(); err != nil {
		t.Fatal(err)
	}
}

// committer commits one offset and leaves.
type committer struct {
	partition int32
	offset    int64
}

func (committer) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (committer) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (c committer) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	if claim.Partition() != c.partition {
		<-s.Context().Done()
		return nil
	}
	s.MarkOffset(topic, c.partition, c.offset, "")
	s.Commit()
	return nil // ends the session
}

func committed(t *testing.T, addr string, partition int32) int64 {
	t.Helper()
	admin, err := sarama.NewClusterAdmin([]string{addr}, clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	offsets, err := admin.ListConsumerGroupOffsets("job", map[string][]int32{topic: {partition}})
	if err != nil {
		t.Fatal(err)
	}
	return offsets.GetBlock(topic, partition).Offset
}

func TestTopics(t *testing.T) {
	cfg := testConfig(t.TempDir())
	k := startTestKafka(t, cfg)
	c := client(t, k.Addr())
	topics, err := c.Topics()
	slices.Sort(topics)
	if err != nil || !slices.Equal(topics, []string{topic, topic + "-dead"}) {
		t.Errorf("topics = %q %v", topics, err)
	}
	if partitions, err := c.Partitions(topic); err != nil || len(partitions) != 4 {
		t.Errorf("partitions = %v %v", partitions, err)
	}
	// A misspelled topic must not come into being.
	if partitions, err := c.Partitions("pusch"); !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		t.Errorf("partitions of an unknown topic: %v %v", partitions, err)
	}
	closeKafka(t, k)

	var log strings.Builder
	cfg.Topics = append(cfg.Topics[:1:1], Topic{"new", 2})
	cfg.Topics[0].Partitions = 8
	k, err = StartKafka(cfg, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer closeKafka(t, k)
	c = client(t, k.Addr())
	for name, want := range map[string]int{topic: 4, topic + "-dead": 1, "new": 2} {
		if partitions, err := c.Partitions(name); err != nil || len(partitions) != want {
			t.Errorf("partitions of %s = %v %v, want %d", name, partitions, err, want)
		}
	}
	if !strings.Contains(log.String(), "topic=push partitions=4 configured=8") {
		t.Errorf("no warning that the partitions stay: %q", log.String())
	}
}

// Symptom: after a restart an idle partition starts at offset 0 again, and
// committed offsets are beyond its end. Cause: kfake's retention removes the
// last record, and a partition without a file is loaded without its numbers.
func TestRetentionByAge(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Retention, cfg.RetentionCheck = time.Hour, 5*time.Millisecond
	k := startTestKafka(t, cfg)
	produce(t, k.Addr(), 0, 20)
	produce(t, k.Addr(), 1, 1)
	closeKafka(t, k)

	// kfake's ticker is off in a cluster that was loaded: ours must run.
	cfg.Retention = time.Millisecond
	k = startTestKafka(t, cfg)
	c := client(t, k.Addr())
	eventually(t, "old records are removed", func() bool { return oldest(t, c, 0) == 19 })
	if at := oldest(t, c, 1); at != 0 {
		t.Errorf("the oldest record of partition 1 is %d, want its last one, 0", at)
	}
	closeKafka(t, k)

	cfg.Retention = time.Hour
	k = startTestKafka(t, cfg)
	c = client(t, k.Addr())
	if at := oldest(t, c, 0); at != 19 {
		t.Errorf("after a restart the oldest record is %d, want 19", at)
	}
	produce(t, k.Addr(), 0, 5)
	if at, err := c.GetOffset(topic, 0, sarama.OffsetNewest); err != nil || at != 25 {
		t.Errorf("the partition ends at %d, want 25: %v", at, err)
	}
	if err := k.removeBefore(cfg.Topics, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if at := oldest(t, c, 0); at != 19 {
		t.Errorf("a young record was removed: the oldest is %d", at)
	}
}

func TestRetentionBySize(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.RetentionBytes, cfg.RetentionCheck = 64<<20, 5*time.Millisecond
	k := startTestKafka(t, cfg)
	c := client(t, k.Addr())
	producer, err := sarama.NewSyncProducerFromClient(c)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		big := &sarama.ProducerMessage{Topic: topic, Partition: 0, Value: sarama.ByteEncoder(make([]byte, 900<<10))}
		if _, _, err := producer.SendMessage(big); err != nil {
			t.Fatal(err)
		}
	}
	_ = producer.Close()
	closeKafka(t, k)

	cfg.RetentionBytes = minRetentionBytes // applies to the topics that are there
	k = startTestKafka(t, cfg)
	c = client(t, k.Addr())
	eventually(t, "records beyond the size are removed", func() bool { return oldest(t, c, 0) > 0 })
	if at := oldest(t, c, 0); at != 6 {
		t.Errorf("the oldest record is %d, want 6: four are below 4 MiB", at)
	}
}

func TestDataDirIsLocked(t *testing.T) {
	cfg := testConfig(t.TempDir())
	first := startTestKafka(t, cfg)
	_, err := StartKafka(cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), cfg.DataDir) ||
		!strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("second open: %v", err)
	}
	closeKafka(t, first)

	// A start that fails for another reason leaves no lock behind.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	broken := cfg
	broken.KafkaAddr = taken.Addr().String()
	if _, err := StartKafka(broken, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), broken.KafkaAddr) {
		t.Errorf("start on a taken port: %v", err)
	}
	broken = cfg
	broken.Topics = []Topic{{"bad", 0}}
	if _, err := StartKafka(broken, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("start with a topic without partitions: %v", err)
	}
	for _, name := range []string{"not/a/name", "", ".", "..", strings.Repeat("x", 250), "push\n"} {
		broken.Topics = []Topic{{name, 1}}
		if _, err := StartKafka(broken, slog.New(slog.DiscardHandler)); !errors.Is(err, errTopic) {
			t.Errorf("topic %q: %v", name, err)
		}
	}
	closeKafka(t, startTestKafka(t, cfg))
}

func TestDataDirIsAFile(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "file"))
	if err := os.WriteFile(cfg.DataDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartKafka(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), cfg.DataDir) {
		t.Errorf("start: %v", err)
	}
}

// holderDir makes the test binary a process that holds a data directory.
const holderDir = "PERSEID_TEST_EMBEDDED_HOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holderDir); dir != "" {
		k, err := StartKafka(testConfig(dir), slog.New(slog.DiscardHandler))
		if err != nil {
			fmt.Fprintln(os.Stdout, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, k.Addr())
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the test lets go
		os.Exit(0)
	}
	leakcheck.Main(m)
}

// Records that were acknowledged are there after kill -9, and so is the way
// into the directory.
func TestOtherProcess(t *testing.T) {
	cfg := testConfig(t.TempDir())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.CommandContext(t.Context(), exe)
	holder.Env = append(os.Environ(), holderDir+"="+cfg.DataDir)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr := strings.TrimSpace(line)
	if err != nil || !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Fatalf("holder says %q: %v", line, err)
	}
	produce(t, addr, 2, 40)
	commit(t, addr, 2, 13)

	_, err = StartKafka(cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(holder.Process.Pid)) {
		t.Fatalf("open beside the holder: %v", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()

	k := startTestKafka(t, cfg)
	wantRecords(t, k.Addr(), 2, 40)
	if at := committed(t, k.Addr(), 2); at != 13 {
		t.Errorf("the group is at %d, want 13", at)
	}
}

func TestCloseWithConsumers(t *testing.T) {
	leakcheck.Check(t)
	k := startTestKafka(t, testConfig(t.TempDir()))
	group, err := sarama.NewConsumerGroup([]string{k.Addr()}, "job", clientConfig())
	if err != nil {
		t.Fatal(err)
	}
	joined := make(joinHandler, 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_ = group.Consume(ctx, []string{topic}, joined) // fails from Close on
		}
	}()
	<-joined
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Close(canceled); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("close with an ended context: %v", err)
	}
	if err := k.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := k.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
	stop()
	<-ended
	_ = group.Close()
}

// joinHandler is told of each session.
type joinHandler chan struct{}

func (j joinHandler) Setup(sarama.ConsumerGroupSession) error {
	select {
	case j <- struct{}{}:
	default:
	}
	return nil
}
func (joinHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (joinHandler) ConsumeClaim(s sarama.ConsumerGroupSession, _ sarama.ConsumerGroupClaim) error {
	<-s.Context().Done()
	return nil
}
