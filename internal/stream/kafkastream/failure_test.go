package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/stream"
)

// A worker that dies in the middle of a batch: the next one gets everything
// from the mark on, and the other partitions do not notice.
func TestFailedWorkerIsStartedAgainFromTheMark(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	ensure(t, cfg)
	p := connected(t, cfg)
	l := newLedger()
	var lives atomic.Int32
	diligent := l.diligent("m")
	r := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
		if c.Partition() != 1 || lives.Add(1) > 3 {
			return diligent(ctx, c)
		}
		for {
			records, err := c.Next(ctx, 5)
			if err != nil {
				return err
			}
			l.take("failing", records)
			for i, r := range records {
				if r.Offset == 17 {
					if lives.Load() == 2 {
						panic("worker panics")
					}
					return errors.New("worker fails")
				}
				if i != 1 || r.Offset < 15 { // leaves a hole just before it dies
					l.complete(1, r.Offset)
					c.Complete(r.Offset)
				}
			}
		}
	}, ConsumerHooks{})
	fillPartitions(t, cfg, p, 0, 100)
	awaitCompletions(t, l, 100*int(cfg.Partitions))
	r.stop(t)

	for partition := range cfg.Partitions {
		got := offsets(l.deliveries(), partition)
		if partition == 1 {
			if lives.Load() != 4 {
				t.Errorf("%d workers, want 4", lives.Load())
			}
			var last []int64 // of the worker that survived
			for _, d := range l.deliveries() {
				if d.partition == 1 && d.member == "m" {
					last = append(last, d.offset)
				}
			}
			grows(t, "the last worker", last)
			if len(last) == 0 || last[0] > 17 || last[len(last)-1] != 99 {
				t.Errorf("the last worker got %v", last)
			}
			continue
		}
		if len(got) != 100 {
			t.Errorf("partition %d: %d deliveries of 100", partition, len(got))
		}
		grows(t, fmt.Sprintf("partition %d", partition), got)
	}
	for partition := range cfg.Partitions {
		if at := committed(t, cfg, partition); at != 100 {
			t.Errorf("partition %d: committed %d", partition, at)
		}
	}
	if n := r.journal.count("joined the consumer group"); n != 1 {
		t.Errorf("joined the group %d times: a failed worker cost the neighbours their session", n)
	}
	if !r.journal.has("worker panics") {
		t.Error("the panic is not logged")
	}
}

// A job that is killed has committed nothing since its last interval: the next
// one gets everything that was not committed, without a gap.
func TestKilledMemberLosesAndSkipsNothing(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Partitions = 2
	cfg.CommitInterval = time.Minute
	cfg.FinishTimeout = 200 * time.Millisecond
	ensure(t, cfg)
	p := connected(t, cfg)
	fillPartitions(t, cfg, p, 0, 200)
	l := newLedger()
	// From the broker's view a killed member's commits and leave never come.
	silence := k.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: cfg.Group, Err: kerr.UnknownMemberID, Count: -1,
	})
	a := run(t, cfg, func(ctx context.Context, c stream.Claim) error {
		records, err := c.Next(ctx, 150)
		if err != nil {
			return err
		}
		l.take("killed", records)
		for _, r := range records[:len(records)/2] {
			c.Complete(r.Offset)
		}
		<-ctx.Done()
		return nil
	}, ConsumerHooks{})
	eventually(t, "the first member works on both partitions", func() bool {
		return len(offsets(l.deliveries(), 0)) > 0 && len(offsets(l.deliveries(), 1)) > 0
	})
	// Its last commit is refused, which is the point, and Run may say so.
	a.cancel()
	t.Logf("Run: %v", <-a.ended)
	a.ended <- nil
	silence.Remove()
	b := run(t, cfg, l.diligent("b"), ConsumerHooks{})
	awaitCompletions(t, l, 400)
	b.stop(t)
	for partition := range cfg.Partitions {
		var got []int64
		for _, d := range l.deliveries() {
			if d.member == "b" && d.partition == partition {
				got = append(got, d.offset)
			}
		}
		grows(t, fmt.Sprintf("partition %d", partition), got)
		if len(got) != 200 {
			t.Errorf("partition %d: %d of 200 after the kill", partition, len(got))
		}
	}
}

// Commits that fail are tried again with the next interval; the worker goes on.
func TestCommitFailureIsRetried(t *testing.T) {
	leakcheck.Check(t)
	k := fakeKafka(t)
	cfg := testConfig(t, k.ListenAddrs()...)
	cfg.Partitions = 1
	ensure(t, cfg)
	p := connected(t, cfg)
	failing := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: cfg.Group, Err: kerr.CoordinatorLoadInProgress, Count: -1})
	l := newLedger()
	r := run(t, cfg, l.diligent("m"), ConsumerHooks{})
	fillPartitions(t, cfg, p, 0, 20)
	awaitCompletions(t, l, 20)
	eventually(t, "some commits failed", func() bool { return failing.Hits() >= 3 })
	if at := committed(t, cfg, 0); at > 0 {
		t.Errorf("committed %d while commits fail", at)
	}
	failing.Remove()
	eventually(t, "a commit", func() bool { return committed(t, cfg, 0) == 20 })
	r.stop(t)
	if total, _ := l.completions(); total != 20 {
		t.Errorf("%d completions of 20 records", total)
	}
}

// The consumer waits for a broker that is not there yet, and survives one that
// goes away and comes back.
func TestConsumerSurvivesABrokerRestart(t *testing.T) {
	leakcheck.Check(t)
	dir, port := t.TempDir(), freePort(t)
	start := func() *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir), kfake.GroupMinSessionTimeout(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cfg := testConfig(t, "127.0.0.1:"+strconv.Itoa(port))
	cfg.Partitions = 2
	l := newLedger()
	r := run(t, cfg, l.diligent("m"), ConsumerHooks{})
	eventually(t, "a warning", func() bool { return r.journal.has("not in the consumer group") })
	if r.Joined() {
		t.Error("joined without a broker")
	}
	k := start()
	ensure(t, cfg)
	p := connected(t, cfg)
	fillPartitions(t, cfg, p, 0, 20)
	awaitCompletions(t, l, 40)
	eventually(t, "a commit", func() bool { return committed(t, cfg, 0) == 20 && committed(t, cfg, 1) == 20 })
	k.Close()
	eventually(t, "the session ends", func() bool { return !r.Joined() })
	k = start()
	defer func() { k.Close() }()
	fillPartitions(t, cfg, p, 20, 20)
	awaitCompletions(t, l, 80)
	r.stop(t)
	if total, _ := l.completions(); total != 80 {
		t.Errorf("%d completions of 80 records", total)
	}
	closeProducer(t, p)
}
