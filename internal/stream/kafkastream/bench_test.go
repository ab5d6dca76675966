package kafkastream

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/testdeps"
)

// BenchmarkAppend is 64 callers, each waiting for its acknowledgement, with one
// user as the target. The allocations on kfake include those of the broker.
func BenchmarkAppend(b *testing.B) {
	b.Run("kfake", func(b *testing.B) {
		// On disk: in memory kfake keeps everything on this heap.
		benchmarkAppend(b, testConfig(b, fakeKafka(b, kfake.DataDir(b.TempDir())).ListenAddrs()...))
	})
	b.Run("kafka", func(b *testing.B) { benchmarkAppend(b, realConfig(b, testdeps.Kafka(b))) })
}

func benchmarkAppend(b *testing.B, cfg Config) {
	cfg.Partitions = 16
	ensure(b, cfg)
	for _, callers := range []struct {
		name string
		n    int
	}{{"callers=1", 1}, {"callers=64", 64}} {
		b.Run(callers.name, func(b *testing.B) {
			p := connected(b, cfg)
			body := make([]byte, 100)
			b.ReportAllocs()
			b.SetParallelism(max(1, callers.n/2)) // of 2 cores
			if callers.n == 1 {
				for i := int64(0); b.Loop(); i++ {
					if err := p.Append(b.Context(), message.Message{Body: body}, []message.Target{message.ToUser(i%1000 + 1)}); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for i := int64(0); pb.Next(); i++ {
						if err := p.Append(context.Background(), message.Message{Body: body}, []message.Target{message.ToUser(i%1000 + 1)}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkConsume is one worker on one partition that completes what it gets.
func BenchmarkConsume(b *testing.B) {
	b.Run("kfake", func(b *testing.B) {
		benchmarkConsume(b, testConfig(b, fakeKafka(b, kfake.DataDir(b.TempDir())).ListenAddrs()...))
	})
	b.Run("kafka", func(b *testing.B) { benchmarkConsume(b, realConfig(b, testdeps.Kafka(b))) })
}

func benchmarkConsume(b *testing.B, cfg Config) {
	cfg.Partitions = 1
	cfg.MaxInFlightRecords, cfg.MaxInFlightBytes = DefaultConfig().MaxInFlightRecords, DefaultConfig().MaxInFlightBytes
	ensure(b, cfg)
	p := connected(b, cfg)
	for i := range (b.N + 999) / 1000 {
		fillMany(b, p, min(1000, b.N-i*1000))
	}
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan struct{})
	r := run(b, cfg, func(ctx context.Context, c stream.Claim) error {
		for got := 0; ; {
			records, err := c.Next(ctx, 512)
			if err != nil {
				return err
			}
			for _, r := range records {
				c.Complete(r.Offset)
			}
			if got += len(records); got == b.N {
				close(done)
			}
		}
	}, ConsumerHooks{})
	<-done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	r.stop(b)
}

// fillMany appends n messages to one room each, n records in one call.
func fillMany(b *testing.B, p *Producer, n int) {
	targets := make([]message.Target, n)
	for i := range targets {
		targets[i] = message.ToRoom("live://1")
	}
	if err := p.Append(b.Context(), message.Message{Body: make([]byte, 100)}, targets); err != nil {
		b.Fatal(err)
	}
}
