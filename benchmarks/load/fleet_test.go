package load

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"
)

func parseAuth(t *testing.T, body []byte) (mid int64, room string) {
	var auth struct {
		Mid     int64   `json:"mid"`
		Room    string  `json:"room_id"`
		Accepts []int32 `json:"accepts"`
	}
	if err := json.Unmarshal(body, &auth); err != nil {
		t.Errorf("auth %q: %v", body, err)
	}
	if !slices.Equal(auth.Accepts, []int32{OpRoom, OpUser, OpAll}) {
		t.Errorf("accepts %v", auth.Accepts)
	}
	return auth.Mid, auth.Room
}

func eachTransport(t *testing.T, run func(t *testing.T, webSocket bool)) {
	t.Run("tcp", func(t *testing.T) { run(t, false) })
	t.Run("ws", func(t *testing.T) { run(t, true) })
}

// What is planted is found, and nothing else: loss in the middle and at the
// end, duplicates near and far, inversions, each on a connection of its own
// and on both ways to read.
func TestPlantedFaultsAreFound(t *testing.T) {
	eachTransport(t, func(t *testing.T, webSocket bool) {
		for _, timed := range []int{-1, 0} {
			t.Run(fmt.Sprintf("timed=%d", timed), func(t *testing.T) { plantFaults(t, webSocket, timed) })
		}
	})
}

func plantFaults(t *testing.T, webSocket bool, timed int) {
	s := newServer(t, webSocket)
	cfg := testConfig(s.addr(), Class{Name: "a", Conns: 6, Timed: timed})
	cfg.WebSocket, cfg.Streams = webSocket, 2
	f, err := NewFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	openAll(t, f)
	begin := f.loops[0].clock.Now()
	f.Begin(begin)
	const published = 300
	var all []Stamp
	for i := range uint32(published) {
		all = append(all, Stamp{DueNS: begin + 1, Stream: 1, Seq: i})
	}
	cut := func(from, to int) []Stamp { return append(slices.Clone(all[:from]), all[to:]...) }
	sends := [][]Stamp{
		all,
		cut(10, 17),                             // 7 lost
		all[:290],                               // the last 10 lost
		append(slices.Clone(all), all[:200]...), // 200 twice, long after
		append(append(append(slices.Clone(all[:5]), all[6]), all[5]), all[7:]...), // 1 inversion
		append(cut(100, 102), all[101], all[101], all[100]),                       // both come, last first, one of them twice
	}
	total := uint64(0)
	for i, list := range sends {
		total += uint64(len(list))
		for part := range slices.Chunk(list, 70) { // in several merged writes
			s.push(int64(1+i), part...)
		}
	}
	st := awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].Received == total })
	c := st.Classes[0]
	if c.Duplicates != 201 || c.Inversions != 3 || c.Ambiguous+c.Late+c.Unknown > 0 {
		t.Errorf("%d duplicates, %d inversions: %+v", c.Duplicates, c.Inversions, c)
	}
	if timed < 0 && c.Latency.Count != total || timed == 0 && c.Latency.Count != 0 {
		t.Errorf("%d latencies", c.Latency.Count)
	}
	f.Tally([]Expect{{Stream: 1, By: ByAll, Counts: []uint32{published}}})
	if c = f.Stats().Classes[0]; c.Lost != 17 || c.LostCut != 0 {
		t.Errorf("%d lost, %d on closed connections", c.Lost, c.LostCut)
	}
	// What comes now belongs to no step, and the next one starts clean.
	s.push(2, all[12])
	awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].Late == 1 })
	begin = f.loops[0].clock.Now()
	f.Begin(begin)
	s.push(3, all[299], Stamp{DueNS: begin + 1, Stream: 1, Seq: published})
	st = awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].Received == 2 })
	if c = st.Classes[0]; c.Late != 1 || c.Duplicates+c.Inversions > 0 {
		t.Errorf("%+v", c)
	}
	f.Tally([]Expect{{Stream: 1, By: ByConn, Counts: []uint32{published, published, published + 1, published, published, published + 2}}})
	if c = f.Stats().Classes[0]; c.Lost != 2 {
		t.Errorf("%d lost", c.Lost)
	}
}

// A connection that comes late is judged from its first message on; one that
// the server ends takes its missing messages with it.
func TestConnectionsThatComeAndGo(t *testing.T) {
	s := newServer(t, false)
	f, err := NewFleet(testConfig(s.addr(), Class{Name: "stays", Conns: 1, Timed: -1}, Class{Name: "churns", Conns: 2, Timed: -1}))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	openAll(t, f)
	begin := f.loops[0].clock.Now()
	f.Begin(begin)
	at := func(seq uint32) Stamp { return Stamp{DueNS: begin + 1, Seq: seq} }
	s.push(1, at(0), at(1), at(2))
	f.Churn(1, 200)
	awaitStats(t, f, func(st *Stats) bool { return st.Classes[1].Churned >= 6 })
	f.Churn(1, 0)
	awaitStats(t, f, func(st *Stats) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return st.Pending == 0 && s.opened == 3+st.Classes[1].Churned
	})
	s.push(2, at(7), at(8))
	awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].Received+st.Classes[1].Received == 5 })
	s.mu.Lock()
	_ = s.conns[1].Close()
	s.mu.Unlock()
	awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].ClosedByServer == 1 })
	f.Tally([]Expect{{By: ByAll, Counts: []uint32{9}}, {Class: 1, By: ByAll, Counts: []uint32{10}}})
	st := f.Stats()
	if c := st.Classes[0]; c.Lost != 0 || c.LostCut != 6 || c.Ready != 0 {
		t.Errorf("stays: %+v", c)
	}
	if c := st.Classes[1]; c.Lost != 1 || c.Silent != 1 || c.Ready != 2 {
		t.Errorf("churns: %+v", c)
	}
	// Opened again between two steps, it knows what comes next.
	openAll(t, f)
	begin = f.loops[0].clock.Now()
	f.Begin(begin)
	s.push(1, Stamp{DueNS: begin + 1, Seq: 10})
	awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].Received == 1 })
	f.Tally([]Expect{{By: ByAll, Counts: []uint32{11}}})
	if lost := f.Stats().Classes[0].Lost; lost != 1 {
		t.Errorf("%d lost", lost)
	}
}

func TestRoomsAndUsersOfClasses(t *testing.T) {
	s := newServer(t, false)
	cfg := testConfig(s.addr(), Class{Name: "a", Conns: 5, Rooms: 2, RoomPrefix: "x"}, Class{Name: "b", Conns: 2})
	cfg.FirstMid = 100
	f, err := NewFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	openAll(t, f)
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[int64]string{100: "bench://x0", 101: "bench://x1", 102: "bench://x0", 103: "bench://x1", 104: "bench://x0", 105: "", 106: ""}
	for mid, room := range want {
		if got, ok := s.rooms[mid]; !ok || got != room {
			t.Errorf("user %d is in %q (%v), want %q", mid, got, ok, room)
		}
	}
}

func TestHeartbeatsGoRound(t *testing.T) {
	eachTransport(t, func(t *testing.T, webSocket bool) {
		s := newServer(t, webSocket)
		cfg := testConfig(s.addr(), Class{Name: "a", Conns: 20, Timed: 10})
		cfg.WebSocket, cfg.Heartbeat = webSocket, 100*time.Millisecond
		f, err := NewFleet(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		openAll(t, f)
		st := awaitStats(t, f, func(st *Stats) bool { return st.HeartbeatEchoes >= 60 })
		if st.Heartbeats < 60 || st.Classes[0].Ready != 20 {
			t.Errorf("%+v", st)
		}
	})
}

// Slow readers take their budget and stopped ones nothing, until they are
// released; then everything is there.
func TestSlowReaders(t *testing.T) {
	s := newServer(t, false)
	f, err := NewFleet(testConfig(s.addr(), Class{Name: "fast", Conns: 1, Timed: -1},
		Class{Name: "slow", Conns: 1, BytesPerSecond: 56}, Class{Name: "stopped", Conns: 1, BytesPerSecond: -1}))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	openAll(t, f)
	begin := f.loops[0].clock.Now()
	f.Begin(begin)
	const n = 200 // 5,600 bytes: 100 s for the slow one
	for i := range uint32(n) {
		for mid := range int64(3) {
			s.push(1+mid, Stamp{DueNS: begin + 1, Seq: i})
		}
	}
	st := awaitStats(t, f, func(st *Stats) bool { return st.Classes[0].Received == n && st.Classes[1].Received >= 2 })
	if st.Classes[1].Received > n/2 || st.Classes[2].Received > 0 {
		t.Errorf("slow read %d, stopped %d", st.Classes[1].Received, st.Classes[2].Received)
	}
	f.Release(1)
	f.Release(2)
	st = awaitStats(t, f, func(st *Stats) bool { return st.Classes[1].Received == n && st.Classes[2].Received == n })
	for _, c := range st.Classes {
		if c.Duplicates+c.Inversions+c.Unknown > 0 {
			t.Errorf("%+v", c)
		}
	}
}

func TestFailuresAreCounted(t *testing.T) {
	// No system gives this port to a listener that asks for any.
	cfg := testConfig("127.0.0.1:1", Class{Name: "a", Conns: 3})
	f, err := NewFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Open(Ramp{InFlight: 2}); err != nil {
		t.Fatal(err)
	}
	st := awaitStats(t, f, func(st *Stats) bool { return st.Pending == 0 })
	n := 0
	for _, k := range st.Failures {
		n += k
	}
	if n != 3 || st.Classes[0].Ready != 0 {
		t.Errorf("%+v", st)
	}
}

func TestTimedConnectionsAreSpread(t *testing.T) {
	for _, c := range []Class{{Conns: 10_000, Timed: 200}, {Conns: 7, Timed: 3}, {Conns: 5, Timed: -1}, {Conns: 5, Timed: 9}, {Conns: 5}} {
		want := c.Timed
		if want < 0 || want > c.Conns {
			want = c.Conns
		}
		n, last, gap := 0, -1, 0
		for i := range c.Conns {
			if c.isTimed(i) {
				n++
				gap = max(gap, i-last)
				last = i
			}
		}
		if n != want || want > 0 && gap > c.Conns/want+1 {
			t.Errorf("%+v: %d timed, widest gap %d", c, n, gap)
		}
	}
}
