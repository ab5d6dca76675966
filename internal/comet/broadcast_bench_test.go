package comet

import (
	"fmt"
	"testing"
)

// sink is a connection that takes everything and keeps nothing.
type sink struct{ writes int }

func (c *sink) Write([]byte)  { c.writes++ }
func (c *sink) Buffered() int { return 0 }
func (c *sink) Close()        {}
func (c *sink) Reset()        {}
func (c *sink) Resume()       {}

// audience puts n authenticated sessions that cost nothing to write to in a room.
func (f *fixture) audience(b *Bucket, room string, n int) *sink {
	conn := &sink{}
	f.on(b, func() {
		for range n {
			s := b.Open(conn, Stream, netip127())
			s.state, s.ver = live, 1
			b.join(s, room)
		}
	})
	return conn
}

// What a broadcast costs without the sockets: the time is per broadcast, the
// allocations are those of the push, whatever the number of members.
func BenchmarkBroadcast(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			f := newFixture(b, 1, func(c *Config) { c.TurnWrites = 100_000 })
			f.g.maxSessions = int64(n) + 1
			conn := f.audience(f.buckets[0], roomOne, n)
			body := make([]byte, 12)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				f.push(Push{Op: 1000, Room: roomOne, Body: body})
			}
			b.StopTimer()
			if conn.writes != b.N*n {
				b.Fatalf("%d writes, want %d", conn.writes, b.N*n)
			}
		})
	}
}

// A broadcast allocates for the push, not for its recipients.
func TestBroadcastAllocatesNothingPerMember(t *testing.T) {
	perPush := func(members int) float64 {
		f := newFixture(t, 1, func(c *Config) { c.TurnWrites = 100_000 })
		f.g.maxSessions = int64(members) + 1
		f.audience(f.buckets[0], roomOne, members)
		body := make([]byte, 12)
		return testing.AllocsPerRun(50, func() { f.push(Push{Op: 1000, Room: roomOne, Body: body}) })
	}
	few, many := perPush(10), perPush(5000)
	if many > few+20 { // the loop may be woken a few times more
		t.Errorf("%v allocations with 5,000 members, %v with 10", many, few)
	}
}
