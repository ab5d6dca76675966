package redistore

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// BenchmarkAppend is the price of the incarnation check (benchmarks/results/
// incarnation.txt): one record for each of 64 inboxes, four callers at a time,
// in scripts of 1, 8 and 64 timelines, that ask INFO or only the marker.
func BenchmarkAppend(b *testing.B) {
	for _, how := range []string{byInfo, byKey} {
		for _, together := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d", how, together), func(b *testing.B) { benchmarkAppend(b, how, together) })
		}
	}
}

func benchmarkAppend(b *testing.B, how string, together int) {
	const callers, inboxes = 4, 64
	w := realRedis(b)
	w.how.Store(&how)
	w.perScript = together
	inc, err := w.Incarnation(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var offset atomic.Int64
	body := make([]byte, 200)
	call := func(caller int) error {
		m := &message.Message{Kind: message.Chat, Body: body}
		at := timeline.Offset{Generation: 1, Offset: offset.Add(1)}
		copy(m.ID[:], strconv.FormatInt(at.Offset, 10))
		batch := make([]timeline.WindowAppend, inboxes)
		for i := range batch {
			batch[i] = timeline.WindowAppend{
				Timeline: message.Inbox(int64(caller*inboxes + i + 1)), Mode: timeline.Off,
				Keep:    timeline.Keep{Entries: 256, Bytes: 1 << 20, HardEntries: 20_000, HardBytes: 32 << 20},
				Records: []timeline.Pending{{At: at, Message: m}},
			}
		}
		got, err := w.Append(b.Context(), inc, batch)
		if err != nil || got[0].Status == timeline.Applied {
			return err
		}
		for i := range batch {
			batch[i].Seed = &timeline.Seed{Epoch: 2, AskedMS: got[i].NowMS}
		}
		_, err = w.Append(b.Context(), inc, batch)
		return err
	}
	for caller := range callers {
		if err := call(caller); err != nil {
			b.Fatal(err)
		}
	}
	calls, cpu, began := evals(b, w.conn), cpuSeconds(b, w.conn), time.Now()
	b.ResetTimer()
	var all sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for caller := range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(caller); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	took := time.Since(began).Seconds()
	calls, cpu = evals(b, w.conn)-calls, cpuSeconds(b, w.conn)-cpu
	records := float64(b.N * inboxes)
	b.ReportMetric(records/took, "records/s")
	b.ReportMetric(calls/took, "evals/s")
	b.ReportMetric(cpu*1e6/records, "redis-cpu-µs/record")
	b.ReportMetric(cpu*1e6/calls, "redis-cpu-µs/eval")
}

func infoNumber(b *testing.B, conn redis.Conn, section, name string) float64 {
	b.Helper()
	text, err := redis.String(conn.Do("INFO", section))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, ok := strings.Cut(text, name)
	if !ok {
		return 0
	}
	end := strings.IndexAny(rest, ",\r\n")
	n, err := strconv.ParseFloat(rest[:end], 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func evals(b *testing.B, conn redis.Conn) float64 {
	return infoNumber(b, conn, "commandstats", "cmdstat_evalsha:calls=")
}

func cpuSeconds(b *testing.B, conn redis.Conn) float64 {
	return infoNumber(b, conn, "cpu", "used_cpu_user:") + infoNumber(b, conn, "cpu", "used_cpu_sys:")
}
