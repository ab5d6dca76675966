package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// fillPartitions appends n messages for each partition, numbered in their order.
func fillPartitions(t testing.TB, cfg Config, p stream.Producer, first, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for partition := range cfg.Partitions {
		key := onPartition(partition, cfg.Partitions, 1)[0]
		wg.Go(func() {
			for i := range n {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := p.Append(ctx, message.Message{Body: []byte(body(first + i))}, []message.Target{key}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func awaitCompletions(t testing.TB, l *ledger, distinct int) {
	t.Helper()
	eventually(t, strconv.Itoa(distinct)+" completions", func() bool {
		_, have := l.completions()
		return have >= distinct
	})
}

// grows fails when a list of offsets does not strictly grow.
func grows(t testing.TB, what string, offsets []int64) {
	t.Helper()
	for i := 1; i < len(offsets); i++ {
		if offsets[i] <= offsets[i-1] {
			t.Errorf("%s: offset %d after %d", what, offsets[i], offsets[i-1])
			return
		}
	}
}

func TestCleanRestartRepeatsNothing(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.CommitInterval = time.Minute // only the stop commits
	ensure(t, cfg)
	testCleanRestartRepeatsNothing(t, cfg)
	if g := k.GroupInfo(cfg.Group); g == nil || len(g.Members) != 0 {
		t.Errorf("members after a clean stop: %+v", g)
	}
}

func testCleanRestartRepeatsNothing(t *testing.T, cfg Config) {
	cfg.FinishTimeout, cfg.RebalanceTimeout = 2*patience, 3*patience // a stop that waits for them fails
	p := connected(t, cfg)
	l := newLedger()
	const each = 50
	want := 0
	generation := new(atomic.Int32) // of the claims of the last round
	for round := range 3 {
		fillPartitions(t, cfg, p, round*each, each)
		want += each * int(cfg.Partitions)
		before := generation.Load()
		r := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
			if c.Generation() <= before {
				t.Errorf("round %d: a claim of generation %d after %d", round, c.Generation(), before)
			}
			generation.Store(c.Generation())
			return l.diligent("m")(ctx, c)
		}, ConsumerHooks{})
		awaitCompletions(t, l, want)
		r.stop(t)
	}
	if total, distinct := l.completions(); total != want || distinct != want {
		t.Errorf("%d completions of %d records, want %d of each", total, distinct, want)
	}
	for partition := range cfg.Partitions {
		grows(t, fmt.Sprintf("partition %d", partition), offsets(l.deliveries(), partition))
		if at := committed(t, cfg, partition); at != 3*each {
			t.Errorf("partition %d: committed %d, want %d", partition, at, 3*each)
		}
	}
}

func TestRebalanceKeepsOrderAndLosesNothing(t *testing.T) {
	for _, strategy := range []string{"cooperative", "sticky"} {
		t.Run(strategy, func(t *testing.T) {
			leakcheck.Check(t)
			cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
			cfg.RebalanceStrategy = strategy
			ensure(t, cfg)
			testRebalance(t, cfg)
		})
	}
}

// testRebalance runs members that come and go while messages flow. With clean
// hand-overs nothing is repeated, so every partition is one growing sequence
// over all members.
func testRebalance(t *testing.T, cfg Config) {
	p := connected(t, cfg)
	l := newLedger()
	stop := make(chan struct{})
	var sent atomic.Int64
	var wg sync.WaitGroup
	for partition := range cfg.Partitions {
		key := onPartition(partition, cfg.Partitions, 1)[0]
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				err := p.Append(ctx, message.Message{Body: []byte(body(i))}, []message.Target{key})
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				sent.Add(1)
			}
		})
	}
	busy := func(member string) {
		t.Helper()
		seen := len(l.deliveries())
		eventually(t, member+" works", func() bool {
			return slices.ContainsFunc(l.deliveries()[seen:], func(d delivery) bool { return d.member == member })
		})
	}
	a := run(t, cfg, l.diligent("a"), ConsumerHooks{})
	busy("a")
	b := run(t, cfg, l.diligent("b"), ConsumerHooks{})
	busy("b")
	busy("a")
	a.stop(t)
	busy("b")
	c := run(t, cfg, l.diligent("c"), ConsumerHooks{})
	busy("c")
	b.stop(t)
	busy("c")
	close(stop)
	wg.Wait()
	awaitCompletions(t, l, int(sent.Load()))
	c.stop(t)

	total, distinct := l.completions()
	if distinct != int(sent.Load()) || total != distinct {
		t.Errorf("%d records, %d completions, %d distinct", sent.Load(), total, distinct)
	}
	for partition := range cfg.Partitions {
		grows(t, fmt.Sprintf("partition %d", partition), offsets(l.deliveries(), partition))
	}
}

// A revoked worker finishes what is under way; that is committed before the
// next owner starts. What it completes after it returned is not.
func TestRevocationWaitsForTheWorker(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.Partitions = 1
	cfg.CommitInterval = time.Minute
	ensure(t, cfg)
	p := connected(t, cfg)
	fillPartitions(t, cfg, p, 0, 10)

	l := newLedger()
	has, held := make(chan struct{}), make(chan stream.Claim, 1)
	a := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
		for got := 0; got < 10; {
			records, err := c.Next(ctx, 10)
			if err != nil {
				return err
			}
			got += len(records)
		}
		close(has)
		if _, err := c.Next(ctx, 10); !errors.Is(err, stream.ErrRevoked) {
			t.Errorf("Next: %v", err)
		}
		for offset := range int64(6) { // finished after the revocation
			c.Complete(offset)
		}
		c.Complete(8) // behind a hole
		c.Complete(9)
		held <- c
		return nil
	}, ConsumerHooks{})
	<-has
	a.stop(t)
	c := <-held
	for offset := range int64(10) {
		c.Complete(offset) // too late
	}
	if _, err := c.Next(t.Context(), 1); !errors.Is(err, stream.ErrRevoked) {
		t.Errorf("Next of a worker that returned: %v", err)
	}
	if at := committed(t, cfg, 0); at != 6 {
		t.Errorf("committed %d, want 6", at)
	}
	b := run(t, cfg, l.diligent("b"), ConsumerHooks{})
	awaitCompletions(t, l, 4)
	b.stop(t)
	if got := offsets(l.deliveries(), 0); !slices.Equal(got, []int64{6, 7, 8, 9}) {
		t.Errorf("the next owner got %v", got)
	}
}

// Symptom: every 500 ms records were 5 to 8 ms late. Cause: a fetch waited on the
// connection behind a commit that the broker had not answered yet.
func TestACommitDoesNotHoldUpRecords(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Partitions = 1
	ensure(t, cfg)
	held, answered := make(chan struct{}, 1), make(chan struct{})
	answer := sync.OnceFunc(func() { close(answered) })
	defer answer()
	k.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		select {
		case held <- struct{}{}:
		default:
		}
		k.SleepControl(func() { <-answered })
		return nil, nil, false // and now as usual
	})
	p := connected(t, cfg)
	l := newLedger()
	r := run(t, cfg, l.diligent("m"), ConsumerHooks{})
	fillPartitions(t, cfg, p, 0, 5)
	<-held
	fillPartitions(t, cfg, p, 5, 5)
	awaitCompletions(t, l, 10)
	answer()
	eventually(t, "a commit", func() bool { return committed(t, cfg, 0) == 10 })
	r.stop(t)
}

// The worker's context ends with the budget, not with the revocation.
func TestBudgetEndsTheWorkersContext(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.Partitions = 1
	cfg.FinishTimeout = 300 * time.Millisecond
	ensure(t, cfg)
	began, ended := make(chan struct{}), make(chan time.Time, 1)
	r := run(t, cfg, func(ctx context.Context, _ stream.Claim) error {
		close(began)
		<-ctx.Done()
		ended <- time.Now()
		return context.Cause(ctx)
	}, ConsumerHooks{})
	<-began
	stopped := time.Now()
	r.stop(t)
	if took := (<-ended).Sub(stopped); took < cfg.FinishTimeout {
		t.Errorf("the context ended %v after the stop, the budget is %v", took, cfg.FinishTimeout)
	}
	if !r.journal.has("has not finished in time") {
		t.Error("not logged")
	}
}

func TestPoisonGoesToTheDeadLetters(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Partitions = 2
	ensure(t, cfg)
	h := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: cfg.DLQTopic, Err: kerr.NotEnoughReplicas, Count: -1})
	testPoison(t, cfg, func() {
		eventually(t, "the dead letter is tried", func() bool { return h.Hits() > 0 })
		h.Remove()
	})
}

// testPoison, with a dead-letter topic that is broken until repair: the letter
// is exact, the partition waits for it and skips nothing, and the other
// partition does not wait.
func testPoison(t *testing.T, cfg Config, repair func()) {
	p := connected(t, cfg)
	poison := &sarama.ProducerMessage{
		Topic: cfg.Topic, Partition: 0, Key: sarama.StringEncoder("some key"), Value: sarama.ByteEncoder("\xff\x00 poison"),
		Headers: []sarama.RecordHeader{{Key: []byte("h"), Value: []byte("v")}},
	}
	s, _ := p.connected()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.send(ctx, 1, func(int) (*sarama.ProducerMessage, error) { return poison, nil }); err != nil {
		t.Fatal(err)
	}
	fillPartitions(t, cfg, p, 0, 10)

	l := newLedger()
	var letters atomic.Int32
	var trying atomic.Bool
	r := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
		for {
			records, err := c.Next(ctx, 4)
			if err != nil {
				return err
			}
			for _, r := range records {
				if r.Err != nil {
					trying.Store(true)
					if err := c.DeadLetter(ctx, r); err != nil {
						return err
					}
				} else {
					l.take("m", []stream.Record{r})
				}
				l.complete(c.Partition(), r.Offset)
				c.Complete(r.Offset)
			}
		}
	}, ConsumerHooks{DeadLetter: func(int32) { letters.Add(1) }})
	awaitCompletions(t, l, 10)
	eventually(t, "the poison is tried", trying.Load)
	if got := offsets(l.deliveries(), 0); len(got) != 0 {
		t.Errorf("offsets %v went past the poison", got)
	}
	repair()
	awaitCompletions(t, l, 21)
	r.stop(t)
	if got := offsets(l.deliveries(), 0); len(got) != 10 {
		t.Errorf("after the poison: offsets %v", got)
	}

	all := stored(t, cfg, cfg.DLQTopic)
	if len(all[0]) != 1 || letters.Load() != 1 {
		t.Fatalf("%d dead letters, hook called %d times", len(all[0]), letters.Load())
	}
	letter := all[0][0]
	headers := map[string]string{}
	for _, h := range letter.Headers {
		headers[string(h.Key)] = string(h.Value)
	}
	why := headers[headerError]
	delete(headers, headerError)
	if string(letter.Key) != "some key" || string(letter.Value) != "\xff\x00 poison" || !strings.HasPrefix(why, "record: ") ||
		fmt.Sprint(headers) != fmt.Sprint(map[string]string{"h": "v", headerTopic: cfg.Topic, headerPartition: "0", headerOffset: "0"}) {
		t.Errorf("dead letter: key %q, value %q, error %q, headers %v", letter.Key, letter.Value, why, headers)
	}
}

// A dead letter that cannot be written does not hold up a revocation for the
// whole budget: the next owner will find the same record.
func TestDeadLetterEndsWithTheRevocation(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Partitions = 1
	cfg.FinishTimeout, cfg.RebalanceTimeout = 2*patience, 3*patience
	ensure(t, cfg)
	p := connected(t, cfg)
	s, _ := p.connected()
	if err := s.send(t.Context(), 1, func(int) (*sarama.ProducerMessage, error) {
		return &sarama.ProducerMessage{Topic: cfg.Topic, Value: sarama.StringEncoder("poison")}, nil
	}); err != nil {
		t.Fatal(err)
	}
	h := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: cfg.DLQTopic, Err: kerr.NotEnoughReplicas, Count: -1})
	outcome := make(chan error, 1)
	r := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
		records, err := c.Next(ctx, 1)
		if err != nil {
			return err
		}
		err = c.DeadLetter(ctx, records[0])
		outcome <- err
		return err
	}, ConsumerHooks{})
	eventually(t, "the dead letter is tried", func() bool { return h.Hits() > 0 })
	r.stop(t)
	if err := <-outcome; !errors.Is(err, stream.ErrRevoked) {
		t.Errorf("DeadLetter: %v", err)
	}
	if at := committed(t, cfg, 0); at > 0 {
		t.Errorf("committed %d", at)
	}
}

// A slow partition is bounded by what is in flight and fetched ahead; its
// neighbours, which are fetched from the same broker, go on.
func TestSlowWorkerStopsOnlyItself(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.MaxInFlightRecords = 40
	ensure(t, cfg)
	p := connected(t, cfg)
	l := newLedger()
	diligent := l.diligent("m")
	release := make(chan struct{})
	var most atomic.Int64
	var slow atomic.Pointer[tenure]
	r := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
		if c.Partition() != 0 {
			return diligent(ctx, c)
		}
		slow.Store(c.(*tenure))
		var open []int64
		for len(open) < cfg.MaxInFlightRecords {
			records, err := c.Next(ctx, 7)
			if err != nil {
				return err
			}
			for _, r := range records {
				open = append(open, r.Offset)
			}
			most.Store(int64(len(open)))
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		records, err := c.Next(short, 1)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next above the bound: %d records, %v", len(records), err)
		}
		<-release
		for _, o := range open {
			l.complete(0, o)
			c.Complete(o)
		}
		return diligent(ctx, c)
	}, ConsumerHooks{})
	const each, first = 500, 100
	others := int(cfg.Partitions - 1)
	fillPartitions(t, cfg, p, 0, first)
	eventually(t, "the bound", func() bool { return most.Load() == int64(cfg.MaxInFlightRecords) })
	c := slow.Load()
	ahead, paused := 0, false
	look := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		ahead, paused = len(c.queue), c.paused
	}
	eventually(t, "the slow partition is paused", func() bool { look(); return paused })
	// What was asked for before the pause may still come, with these.
	fillPartitions(t, cfg, p, first, 1)
	awaitCompletions(t, l, (first+1)*others)
	fillPartitions(t, cfg, p, first+1, each-first-1)
	awaitCompletions(t, l, each*others)
	if look(); !paused || ahead > first+1-cfg.MaxInFlightRecords {
		t.Errorf("%d of %d records are fetched ahead of a bound of %d, paused = %v", ahead, each, cfg.MaxInFlightRecords, paused)
	}
	close(release)
	awaitCompletions(t, l, each*int(cfg.Partitions))
	r.stop(t)
	for partition := range cfg.Partitions {
		grows(t, fmt.Sprintf("partition %d", partition), offsets(l.deliveries(), partition))
	}
}

func TestLogNamesTheIncarnationOfTheTopic(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Partitions = 1
	ensure(t, cfg)
	name := func() string {
		got := make(chan string, 1)
		r := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
			got <- c.Log()
			_, err := c.Next(ctx, 1)
			return err
		}, ConsumerHooks{})
		defer r.stop(t)
		select {
		case n := <-got:
			return n
		case <-time.After(patience):
			t.Fatal("no claim")
			return ""
		}
	}
	first := name()
	if id := k.TopicInfo(cfg.Topic).TopicID; first != cfg.Topic+"/"+sarama.Uuid(id).String() {
		t.Errorf("Log() = %q", first)
	}
	if again := name(); again != first {
		t.Errorf("Log() = %q, then %q", first, again)
	}
	admin, err := sarama.NewClusterAdmin(cfg.Brokers, adminConfig(&cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.DeleteTopic(cfg.Topic); err != nil {
		t.Fatal(err)
	}
	ensure(t, cfg)
	if second := name(); second == first || !strings.HasPrefix(second, cfg.Topic+"/") {
		t.Errorf("Log() of a new topic = %q", second)
	}
}
