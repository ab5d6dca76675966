package kafkastream

import (
	"slices"
	"testing"

	"github.com/IBM/sarama"

	"github.com/perseid-im/perseid/internal/leakcheck"
)

// commit commits an offset of a partition for a group without members.
func commit(t testing.TB, cfg Config, partition int32, offset int64) {
	t.Helper()
	client, err := sarama.NewClient(cfg.Brokers, consumerConfig(&cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	manager, err := sarama.NewOffsetManagerFromClient(cfg.Group, client)
	if err != nil {
		t.Fatal(err)
	}
	of, err := manager.ManagePartition(cfg.Topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	of.MarkOffset(offset, "")
	manager.Commit()
	of.AsyncClose()
	if err := manager.Close(); err != nil {
		t.Fatal(err)
	}
}

// Symptom: records of a topic that was made anew were never delivered. Cause:
// the group's offset was that of the topic before, beyond the end of the new
// one. The partition was read from its oldest record, but as marks only grow,
// nothing was committed until they had passed that offset; the next start went
// on from it, and skipped what had come in between.
func TestOffsetsBeyondTheEndAreReplaced(t *testing.T) {
	leakcheck.Check(t)
	cfg := testConfig(t, fakeKafka(t).ListenAddrs()...)
	cfg.Partitions = 1
	ensure(t, cfg)
	const before, first, second = 20, 5, 40
	p := connected(t, cfg)
	l := newLedger()
	r := run(t, cfg, l.diligent("m"), ConsumerHooks{}) // makes the group
	eventually(t, "a group", r.Joined)
	r.stop(t)
	commit(t, cfg, 0, before)
	fillPartitions(t, cfg, p, 0, first)
	r = run(t, cfg, l.diligent("m"), ConsumerHooks{})
	awaitCompletions(t, l, first)
	r.stop(t)
	at := committed(t, cfg, 0)
	fillPartitions(t, cfg, p, first, second)
	r = run(t, cfg, l.diligent("m"), ConsumerHooks{})
	eventually(t, "the newest record", func() bool {
		return slices.Contains(offsets(l.deliveries(), 0), first+second-1)
	})
	r.stop(t)
	if got := offsets(l.deliveries(), 0); len(got) != first+second {
		t.Errorf("%d of %d records were delivered: offsets %d", len(got), first+second, got)
	}
	if at != first {
		t.Errorf("committed %d after %d records", at, first)
	}
}
