package job_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream/kafkastream"
)

// consuming is a job that is a member of the consumer group.
type consuming struct {
	*testJob
	cancel context.CancelFunc
	done   chan error
}

func (w *world) consume(cfg kafkastream.Config) *consuming {
	consumer, err := kafkastream.NewConsumer(cfg, slog.New(slog.DiscardHandler), kafkastream.ConsumerHooks{})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &consuming{testJob: w.job(testConfig()), cancel: cancel, done: make(chan error, 1)}
	go func() { c.done <- consumer.Run(ctx, c.Work) }()
	w.t.Cleanup(c.stop)
	return c
}

// stop ends the membership; a second call does nothing.
func (c *consuming) stop() {
	c.cancel()
	select {
	case err, first := <-c.done:
		if err != nil {
			c.t.Error(err)
		}
		if first {
			close(c.done)
		}
	case <-time.After(patience):
		c.t.Error("the consumer does not return")
	}
}

// Real records through the consumer group, while jobs come and go and comets
// break: everything arrives once and in order, and is committed.
func TestJobsComeAndGoOnKafka(t *testing.T) {
	t.Cleanup(func() {
		checkFor(t, "goroutines of sarama left", func() error {
			buf := make([]byte, 4<<20)
			if stacks := string(buf[:runtime.Stack(buf, true)]); strings.Contains(stacks, "IBM/sarama") {
				return errors.New(stacks)
			}
			return nil
		})
	})
	w := newWorld(t, "a", "b")
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := kafkastream.DefaultConfig()
	cfg.Brokers = cluster.ListenAddrs()
	cfg.Partitions = partitions
	cfg.CommitInterval = 20 * time.Millisecond
	cfg.SessionTimeout, cfg.HeartbeatInterval = 20*time.Second, 100*time.Millisecond
	cfg.RebalanceTimeout, cfg.FinishTimeout = 40*time.Second, 20*time.Second
	cfg.DialTimeout, cfg.RequestTimeout, cfg.OutageTimeout = patience, patience, 2*patience
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	if err := kafkastream.EnsureTopics(ctx, cfg, log); err != nil {
		t.Fatal(err)
	}
	producer, err := kafkastream.NewProducer(cfg, log, kafkastream.ProducerHooks{})
	if err != nil {
		t.Fatal(err)
	}
	if err := producer.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := producer.Close(ctx); err != nil {
			t.Error(err)
		}
	})

	tr := newTraffic(w, "a", "b")
	first := w.consume(cfg)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w.misbehave(rand.New(rand.NewPCG(10, 11)), stop)
	}()
	targets := []message.Target{message.ToAll(0)}
	for _, key := range tr.keys {
		targets = append(targets, message.ToKey(key))
	}
	for _, mid := range slices.Compact(slices.Sorted(slices.Values(tr.mids))) {
		targets = append(targets, message.ToUser(mid))
	}
	for _, room := range []string{"live://0", "live://1", "live://2"} {
		targets = append(targets, message.ToRoom(room))
	}
	var producers sync.WaitGroup
	enough := make(chan struct{})
	for _, target := range targets {
		producers.Go(func() {
			tl, n := target.Timeline(), 0
			pace := time.NewTicker(10 * time.Millisecond) // pushes all along the rebalances
			defer pace.Stop()
			for ; ; n++ {
				select {
				case <-pace.C:
				case <-enough:
					tr.mu.Lock()
					tr.sent[tl] = n
					tr.mu.Unlock()
					return
				}
				if err := producer.Append(ctx, text(tl, n), []message.Target{target}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	worked := func(c *consuming) {
		t.Helper()
		checkFor(t, "work for another job", func() error {
			if c.dispatched.Value(int(job.Delivered)) < 500 {
				return errors.New("not enough yet")
			}
			return nil
		})
	}
	worked(first)
	second := w.consume(cfg)
	worked(second)
	first.stop()
	worked(w.consume(cfg))
	close(enough)
	producers.Wait()
	close(stop)
	<-stopped
	checkFor(t, "everything delivered", func() error {
		for id, listens := range tr.sessions {
			want := map[message.Timeline]int{}
			for tl := range listens {
				want[tl] = tr.sent[tl]
			}
			if err := checkSession(w.comets[tr.comet[id]].bodies(id), want); err != nil {
				return err
			}
		}
		return nil
	})
	tr.check()
}
