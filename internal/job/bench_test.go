package job_test

import (
	"fmt"
	"testing"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

// BenchmarkRecord moves records for one key each through Route and a lane, over
// real gRPC to the stubs of the tests, in one process: "busy" has many under
// way, "idle" waits for each.
func BenchmarkRecord(b *testing.B) {
	for _, idle := range []bool{false, true} {
		b.Run(map[bool]string{false: "busy", true: "idle"}[idle], func(b *testing.B) {
			w := newWorld(b, "a", "b")
			for i := range 100 {
				w.connect([]string{"a", "b"}[i%2], fmt.Sprintf("key-%d", i), 0)
			}
			j, p := w.job(job.DefaultConfig()), newStubPartition(b, 0)
			j.work(p)
			body := make([]byte, 200)
			push := func(i int) {
				p.append(message.Message{Op: 1, Body: body}, message.ToKey(fmt.Sprintf("key-%d", i%100)))
			}
			done := func() {
				for p.behind() != nil {
					p.mu.Lock()
					changed := p.changed
					p.mu.Unlock()
					if p.behind() != nil {
						<-changed
					}
				}
			}
			push(0)
			done()
			b.ResetTimer()
			for i := range b.N {
				push(i)
				if idle {
					done()
				}
			}
			done()
		})
	}
}
