package load

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Every frame of the bare loop arrives at every connection, on both
// transports, read at once or in rounds, in one process and in several.
func TestBareLoopReachesEveryConnection(t *testing.T) {
	for _, ws := range []bool{false, true} {
		t.Run(fmt.Sprintf("ws=%v", ws), func(t *testing.T) {
			const conns, rounds = 60, 25
			b, err := NewBare(BareConfig{Conns: conns, Writers: 2, WebSocket: ws})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			cfg := testConfig(b.Addr(), Class{Name: "room", Conns: conns, Timed: 10})
			cfg.WebSocket, cfg.Loops = ws, 2
			f, err := NewFleet(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			openAll(t, f)
			first := uint32(0)
			for range 2 { // a second step goes on with the numbers of the first
				begin := f.loops[0].clock.Now()
				f.Begin(begin)
				res, err := b.Run(BareRun{Rounds: rounds, PerSecond: 500, FirstSeq: first, BodyBytes: StampLen})
				if err != nil {
					t.Fatal(err)
				}
				if res.Writes != conns*rounds || res.Full+res.Broken > 0 {
					t.Fatalf("%+v", res)
				}
				first = res.LastSeq
				s := awaitStats(t, f, func(s *Stats) bool { return s.Classes[0].Received >= conns*rounds })
				c := s.Classes[0]
				if c.Received != conns*rounds || c.Latency.Count != 10*rounds || c.Duplicates+c.Inversions+c.Late+c.Unknown > 0 {
					t.Fatalf("%+v", c)
				}
				if res.RoundTime.Count != rounds || res.RoundTime.MaxNS <= 0 {
					t.Fatalf("rounds %+v", res.RoundTime)
				}
				f.Tally([]Expect{{By: ByAll, Counts: []uint32{first}}})
				if lost := f.Stats().Classes[0].Lost; lost > 0 {
					t.Fatalf("%d lost", lost)
				}
			}
		})
	}
}

func TestSwarmSharesConnections(t *testing.T) {
	const conns, rounds = 50, 10
	child, err := Start(testChild)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	ctx := bounded(t)
	var addr string
	if err := child.Call(ctx, "Listen", BareConfig{Conns: conns, Writers: 1}, &addr); err != nil {
		t.Fatal(err)
	}
	s, err := NewSwarm(ctx, testConfig(addr, Class{Name: "room", Conns: conns, Timed: 7}), 3, testChild)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Open(ctx, Ramp{InFlight: 20}); err != nil {
		t.Fatal(err)
	}
	stats := func() (Stats, error) { return s.Stats(ctx) }
	if _, err := Await(ctx, time.Millisecond, stats, func(s *Stats) bool { return s.Classes[0].Ready == conns }); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(ctx, NewClock().Now()); err != nil {
		t.Fatal(err)
	}
	var res BareResult
	if err := child.Call(ctx, "Write", BareRun{Rounds: rounds, BodyBytes: StampLen}, &res); err != nil {
		t.Fatal(err)
	}
	got, err := Await(ctx, time.Millisecond, stats, func(s *Stats) bool { return s.Classes[0].Received == conns*rounds })
	if err != nil {
		t.Fatal(err)
	}
	if c := got.Classes[0]; c.Conns != conns || c.Latency.Count != 7*rounds {
		t.Fatalf("%+v", c)
	}
	// One round less than what is expected is one message lost per connection.
	if err := s.Tally(ctx, []Expect{{By: ByAll, Counts: []uint32{rounds + 1}}}); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Stats(ctx); err != nil || got.Classes[0].Lost != conns {
		t.Fatalf("%v, lost %d", err, got.Classes[0].Lost)
	}
}

func TestBareLoopListensAtItsAddress(t *testing.T) {
	b, err := NewBare(BareConfig{Conns: 1, Writers: 1, Address: "127.0.1.1"})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if !strings.HasPrefix(b.Addr(), "127.0.1.1:") {
		t.Error(b.Addr())
	}
	for _, address := range []string{"192.0.2.1", "localhost", "0.0.0.0"} {
		if _, err := NewBare(BareConfig{Conns: 1, Writers: 1, Address: address}); err == nil || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
