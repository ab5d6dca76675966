package comet

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

const token = `{"mid":1,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000]}`

func TestGoimSession(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, token)
	f.send(c, 1, wire.OpHeartbeat, 5, "")
	f.send(c, 1, wire.OpSub, 6, "1001,1002")
	f.send(c, 1, wire.OpUnsub, 7, "1002")
	f.send(c, 1, wire.OpSub, 8, "nonsense")
	f.send(c, 1, 4, 9, "upstream")
	f.send(c, 1, wire.OpHeartbeatReply, 10, "")
	f.send(c, 1, wire.OpRaw, 11, "")
	f.send(c, 1, wire.OpChangeRoom, 12, "live://2")
	got := c.packets(t)
	want := []wire.Packet{
		{Header: wire.Header{Ver: 1, Op: wire.OpAuthReply, Seq: 1}},
		{Header: wire.Header{Ver: 1, Op: wire.OpHeartbeatReply, Seq: 5}, Body: []byte{0, 0, 0, 1}},
		{Header: wire.Header{Ver: 1, Op: wire.OpSubReply, Seq: 6}, Body: []byte("1001,1002")},
		{Header: wire.Header{Ver: 1, Op: wire.OpUnsubReply, Seq: 7}, Body: []byte("1002")},
		{Header: wire.Header{Ver: 1, Op: wire.OpSubReply, Seq: 8}, Body: []byte("nonsense")},
		{Header: wire.Header{Ver: 1, Op: 4, Seq: 9}},
		{Header: wire.Header{Ver: 1, Op: wire.OpHeartbeatReply, Seq: 10}, Body: []byte{0, 0, 0, 1}},
		{Header: wire.Header{Ver: 1, Op: wire.OpChangeRoomReply, Seq: 12}, Body: []byte("live://2")},
	}
	if len(got) != len(want) {
		t.Fatalf("%d packets: %+v", len(got), got)
	}
	for i := range want {
		if got[i].Header != want[i].Header || string(got[i].Body) != string(want[i].Body) {
			t.Errorf("packet %d: %+v %q, want %+v %q", i, got[i].Header, got[i].Body, want[i].Header, want[i].Body)
		}
	}
	f.on(c.bucket, func() {
		if !slices.Equal(c.session.accepts, []int32{1000, 1001}) {
			t.Errorf("accepts %v", c.session.accepts)
		}
	})
}

// Key, mid and all pushes pass the accepts filter; room pushes do not
// (goim-compat 1.7).
func TestTargetsAndFilter(t *testing.T) {
	f := newFixture(t, 2, nil)
	a := f.connect(f.buckets[0], 1, `{"mid":1,"key":"a","room_id":"live://1","accepts":[1000]}`)
	b := f.connect(f.buckets[1], 2, `{"mid":2,"key":"b","room_id":"live://1","accepts":[1001]}`)
	ids := []uint64{a.session.ID(), b.session.ID(), sessionID(0, 99, 0), sessionID(9, 1, 0)}
	r := f.push(Push{Op: 1000, Body: []byte("uni"), Sessions: ids})
	if !slices.Equal(r.Sessions, []Outcome{Delivered, Filtered, NotHere, NotHere}) || r.Delivered != 1 || r.Filtered != 1 || r.NotHere != 2 {
		t.Errorf("unicast %+v", r)
	}
	if r := f.push(Push{Op: 1000, Body: []byte("room"), Room: "live://1"}); r.Delivered != 2 {
		t.Errorf("room %+v", r)
	}
	if r := f.push(Push{Op: 1000, Body: []byte("none"), Room: "live://nobody"}); r.Delivered != 0 {
		t.Errorf("empty room %+v", r)
	}
	if r := f.push(Push{Op: 1000, Body: []byte("all"), All: true}); r.Delivered != 1 || r.Filtered != 1 {
		t.Errorf("all %+v", r)
	}
	if got := a.bodies(t, 1000); !slices.Equal(got, []string{"uni", "room", "all"}) {
		t.Errorf("a got %q", got)
	}
	if got := b.bodies(t, 1000); !slices.Equal(got, []string{"room"}) {
		t.Errorf("b got %q", got)
	}
}

func TestRepeatsAreNotApplied(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, token)
	ids := []uint64{c.session.ID()}
	batch := func(from, to int64) []Push {
		var out []Push
		for o := from; o <= to; o++ {
			out = append(out, Push{Partition: 3, Offset: o, Op: 1000, Body: fmt.Appendf(nil, "%d", o), Sessions: ids})
		}
		return out
	}
	for _, b := range [][]Push{batch(10, 12), batch(10, 14), batch(1, 5)} {
		d, err := f.g.Dispatch(f.t.Context(), f.lane, b)
		if err != nil {
			t.Fatal(err)
		}
		f.result(d)
	}
	other := f.lane
	other.Log = "push/2" // a recreated topic begins at 0 again
	d, err := f.g.Dispatch(f.t.Context(), other, batch(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if r := f.result(d)[0]; r.Repeat || r.Delivered != 1 {
		t.Errorf("another log: %+v", r)
	}
	if got := c.bodies(t, 1000); !slices.Equal(got, []string{"10", "11", "12", "13", "14", "1"}) {
		t.Errorf("got %q", got)
	}
}

func TestSameKeyReplacesAcrossLoops(t *testing.T) {
	f := newFixture(t, 2, nil)
	old := f.connect(f.buckets[0], 2, token)
	f.connect(f.buckets[1], 2, token)
	waitFor(t, "the old one to end", func() bool { return f.g.Sessions() == 1 })
	bye := old.bodies(t, wire.OpBye)
	var body byeBody
	if len(bye) != 1 || json.Unmarshal([]byte(bye[0]), &body) != nil || body.Code != 3504 || body.Reason != "replaced" || body.Reconnect {
		t.Errorf("bye %q", bye)
	}
}

func TestRefusedAuth(t *testing.T) {
	f := newFixture(t, 1, nil)
	v1 := f.open(f.buckets[0], Stream)
	f.send(v1, 1, wire.OpAuth, 1, "no json")
	v2 := f.open(f.buckets[0], Stream)
	f.send(v2, 2, wire.OpAuth, 1, "no json")
	early := f.open(f.buckets[0], Stream)
	f.send(early, 2, wire.OpHeartbeat, 1, "")
	waitFor(t, "all to be closed", func() bool { return f.g.Sessions() == 0 })
	if got := v1.packets(t); len(got) != 0 {
		t.Errorf("goim closes without a word, version 1 got %+v", got)
	}
	if got := v2.bodies(t, wire.OpAuthReply); len(got) != 1 || !strings.Contains(got[0], `"code":3500`) {
		t.Errorf("version 2 auth reply %q", got)
	}
	if got := early.bodies(t, wire.OpBye); len(got) != 1 || !strings.Contains(got[0], "not_authenticated") {
		t.Errorf("op before auth: bye %q", got)
	}
}

func TestLogicAway(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.logic.mu.Lock()
	f.logic.fail = errors.New("away")
	f.logic.mu.Unlock()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 2, wire.OpAuth, 1, token)
	waitFor(t, "the session to end", func() bool { return f.g.Sessions() == 0 })
	if got := c.bodies(t, wire.OpAuthReply); len(got) != 1 || !strings.Contains(got[0], `"reconnect":true`) {
		t.Errorf("auth reply %q", got)
	}
	f.logic.mu.Lock()
	f.logic.fail = nil
	f.logic.mu.Unlock()
}

// A push that finds the session between logic's answer and the auth reply
// follows the reply (goim L16 drops it).
func TestPushDuringAuthIsHeld(t *testing.T) {
	f := newFixture(t, 1, nil)
	block := make(chan struct{})
	f.logic.mu.Lock()
	f.logic.block = block
	f.logic.mu.Unlock()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 1, wire.OpAuth, 1, token)
	ids := []uint64{c.session.ID()}
	if r := f.push(Push{Op: 1000, Body: []byte("early"), Sessions: ids}); r.Delivered != 1 {
		t.Fatalf("%+v", r)
	}
	f.push(Push{Op: 9999, Body: []byte("not accepted"), Sessions: ids})
	close(block)
	waitFor(t, "the push", func() bool { return len(c.packets(t)) >= 2 })
	got := c.packets(t)
	if len(got) != 2 || got[0].Op != wire.OpAuthReply || string(got[1].Body) != "early" {
		t.Errorf("got %+v", got)
	}
}

func TestDisconnectDuringAuthTakesTheLocationBack(t *testing.T) {
	f := newFixture(t, 1, nil)
	block := make(chan struct{})
	f.logic.mu.Lock()
	f.logic.block = block
	f.logic.mu.Unlock()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 1, wire.OpAuth, 1, token)
	f.on(c.bucket, func() { c.bucket.Closed(c.session) })
	close(block)
	waitFor(t, "the disconnect", func() bool {
		f.logic.mu.Lock()
		defer f.logic.mu.Unlock()
		return len(f.logic.disconnected) == 1 && f.logic.disconnected[0] == SessionRef{Session: c.session.ID(), Mid: 1, Key: "k1"}
	})
}

func TestDeadlines(t *testing.T) {
	f := newFixture(t, 1, nil)
	silent := f.open(f.buckets[0], Stream)
	v1 := f.connect(f.buckets[0], 1, `{"key":"v1"}`)
	v2 := f.connect(f.buckets[0], 2, `{"key":"v2"}`)
	f.advance(6 * time.Second)
	if f.g.Sessions() != 2 || silent.ended != "close" {
		t.Fatalf("%d sessions, the silent one %q after the handshake deadline", f.g.Sessions(), silent.ended)
	}
	f.advance(50 * time.Second)
	f.send(v1, 1, wire.OpSub, 2, "1") // only op 2 keeps a version 1 session
	f.send(v2, 2, wire.OpSub, 2, "1") // anything keeps a version 2 session
	f.advance(10 * time.Second)
	if v1.ended != "close" || v2.ended != "" {
		t.Fatalf("version 1 %q, version 2 %q", v1.ended, v2.ended)
	}
	f.send(v2, 2, wire.OpHeartbeat, 3, "")
	f.advance(59 * time.Second)
	if v2.ended != "" {
		t.Fatal("closed although it sent a heartbeat in time")
	}
	f.advance(2 * time.Second)
	if v2.ended != "close" || f.g.Sessions() != 0 {
		t.Errorf("version 2 %q", v2.ended)
	}
}

func TestSlowConsumer(t *testing.T) {
	for overflow, wantEnd := range map[string]string{"close": "reset", "drop": ""} {
		t.Run(overflow, func(t *testing.T) {
			f := newFixture(t, 1, func(c *Config) { c.Overflow, c.OutboxBytes, c.RoundBytes = overflow, 4096, 1024 })
			stuck := f.connect(f.buckets[0], 1, `{"key":"stuck","room_id":"live://1","accepts":[1]}`)
			well := f.connect(f.buckets[0], 1, `{"key":"well","room_id":"live://1","accepts":[1]}`)
			stuck.mu.Lock()
			stuck.stuck = true
			stuck.mu.Unlock()
			body := make([]byte, 1000)
			slow := 0
			for range 8 {
				r := f.push(Push{Op: 1, Body: body, Room: "live://1"})
				slow += int(r.Slow)
			}
			if slow == 0 || f.g.stats.outcomes.Value(int(Slow)) != uint64(slow) {
				t.Errorf("%d slow outcomes, %d counted", slow, f.g.stats.outcomes.Value(int(Slow)))
			}
			if stuck.ended != wantEnd {
				t.Errorf("the stuck one: %q, want %q", stuck.ended, wantEnd)
			}
			if n := stuck.Buffered(); n > 4096+1016 {
				t.Errorf("%d bytes wait for the stuck one", n)
			}
			if got := len(well.bodies(t, 1)); got != 8 {
				t.Errorf("its neighbour got %d of 8", got)
			}
		})
	}
}

// Messages that meet in one turn leave in one write per member, in order.
func TestMergingFollowsTheLoad(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, token)
	writes := 0
	c.mu.Lock()
	c.onWrite = func() { writes++ }
	c.mu.Unlock()
	var batch []Push
	for i := range 50 {
		batch = append(batch, Push{Offset: int64(i + 1), Op: 1000, Body: []byte{byte(i)}, Room: "live://1000"})
	}
	d, err := f.g.Dispatch(f.t.Context(), f.lane, batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range f.result(d) {
		if r.Delivered != 1 {
			t.Fatalf("push %d: %+v", i, r)
		}
	}
	got := c.bodies(t, 1000)
	for i := range 50 {
		if len(got) != 50 || got[i] != string([]byte{byte(i)}) {
			t.Fatalf("got %d messages, order %q", len(got), got)
		}
	}
	f.on(c.bucket, func() {})
	if writes != 1 {
		t.Errorf("%d writes for 50 messages that came together", writes)
	}
}

// A push to all at a speed is answered at once, so that its lane does not wait
// for it, and goes on at its pace.
func TestAllAtASpeed(t *testing.T) {
	f := newFixture(t, 1, nil)
	var conns []*testConn
	for i := range 40 {
		conns = append(conns, f.connect(f.buckets[0], 1, fmt.Sprintf(`{"key":"%d","accepts":[1]}`, i)))
	}
	f.push(Push{Op: 1, Body: []byte("x"), All: true, Speed: 100})
	for tick := 1; ; tick++ { // 10 at once, then 10 a tick
		f.on(f.buckets[0], func() {})
		got := 0
		for _, c := range conns {
			got += len(c.bodies(t, 1))
		}
		if got != 10*tick {
			t.Fatalf("after %d ticks: %d, want %d", tick-1, got, 10*tick)
		}
		if got == len(conns) {
			break
		}
		f.advance(100 * time.Millisecond)
	}
}

func TestManyRooms(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.MaxRooms = 4 })
	f.logic.greeting = func(r *ConnectResult) { r.Rooms = []string{"live://8", "live://9"} }
	c := f.connect(f.buckets[0], 2, `{"key":"k","room_id":"live://0"}`)
	f.send(c, 2, wire.OpJoin, 2, `{"rooms":["live://1","bad","live://2","live://0"]}`)
	// The answer waits until the jobs know of the room.
	waitFor(t, "the answer", func() bool { return len(c.bodies(t, wire.OpJoinReply)) == 1 })
	f.send(c, 2, wire.OpLeave, 3, `{"rooms":["live://0"]}`)
	f.send(c, 2, wire.OpJoin, 4, `{}`)
	waitFor(t, "the other answer", func() bool { return len(c.bodies(t, wire.OpJoinReply)) == 2 })
	var r roomsReply
	joined := c.bodies(t, wire.OpJoinReply)
	if json.Unmarshal([]byte(joined[0]), &r) != nil {
		t.Fatalf("join replies %q", joined)
	}
	for i, want := range []roomResult{{Room: "live://1", OK: true}, {Room: "bad", Code: 400}, {Room: "live://2", Code: 429}, {Room: "live://0", OK: true}} {
		if r.Rooms[i].Reason = ""; r.Rooms[i] != want {
			t.Errorf("room %d: %+v, want %+v", i, r.Rooms[i], want)
		}
	}
	if !strings.Contains(joined[1], `"code":400`) {
		t.Errorf("empty join: %q", joined[1])
	}
	if r := f.push(Push{Op: 7, Body: []byte("x"), Room: "live://0"}); r.Delivered != 0 {
		t.Errorf("a left room delivers: %+v", r)
	}
	if r := f.push(Push{Op: 7, Body: []byte("x"), Room: "live://1"}); r.Delivered != 1 {
		t.Errorf("a joined room: %+v", r)
	}
}

// A client hears that it is in a room only after every job knows that this
// comet has the room; otherwise a push right after the reply finds no way.
func TestJoinWaitsForTheJobs(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.joinsWait()
	f.connect(f.buckets[0], 1, `{"key":"first","room_id":"live://old"}`)
	w := f.g.Rooms().Watch("job")
	defer w.Close()
	u, err := w.Next(t.Context())
	if err != nil || !u.Snapshot || !u.SnapshotEnd || !slices.Equal(u.Added, []string{"live://old"}) {
		t.Fatalf("snapshot %+v, %v", u, err)
	}
	c := f.open(f.buckets[0], Stream)
	f.send(c, 1, wire.OpAuth, 1, `{"key":"second","room_id":"live://new"}`)
	u, err = w.Next(t.Context())
	if err != nil || u.Snapshot || !slices.Equal(u.Added, []string{"live://new"}) {
		t.Fatalf("change %+v, %v", u, err)
	}
	f.push(Push{Op: 1, Body: []byte("meanwhile"), Room: "live://new"})
	if got := c.packets(t); len(got) != 0 {
		t.Fatalf("told before the job confirmed: %+v", got)
	}
	w.Ack(u.Version)
	waitFor(t, "the reply", func() bool { return len(c.packets(t)) == 2 })
	if got := c.packets(t); got[0].Op != wire.OpAuthReply || string(got[1].Body) != "meanwhile" {
		t.Errorf("got %+v", got)
	}
	if f.g.stats.unconfirmed.Value() != 0 {
		t.Error("counted as unconfirmed")
	}
}

func TestJoinDoesNotWaitForADeadJob(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.JoinTimeout = 10 * time.Millisecond })
	w := f.g.Rooms().Watch("job")
	defer w.Close()
	f.connect(f.buckets[0], 1, token)
	if n := f.g.stats.unconfirmed.Value(); n != 1 {
		t.Errorf("%d joins counted as unconfirmed", n)
	}
}

func TestHeartbeatTellsTheClusterCount(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, token)
	f.g.rooms.setCluster(map[string]int32{"live://1000": 4711, "live://elsewhere": 5})
	f.send(c, 1, wire.OpHeartbeat, 2, "")
	f.send(c, 1, wire.OpChangeRoom, 3, "")
	f.send(c, 1, wire.OpHeartbeat, 4, "") // the last value stays
	for _, body := range c.bodies(t, wire.OpHeartbeatReply) {
		if binary.BigEndian.Uint32([]byte(body)) != 4711 {
			t.Errorf("online %x", body)
		}
	}
}

func TestPanicCostsOneSession(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.panics = 1
	victim := f.connect(f.buckets[0], 1, `{"key":"victim"}`)
	other := f.connect(f.buckets[0], 1, `{"key":"other"}`)
	f.on(victim.bucket, func() { victim.bucket.Protect(victim.session, func() { panic("handler") }) })
	if victim.ended != "close" || other.ended != "" || f.g.stats.panics.Value() != 1 {
		t.Errorf("victim %q, other %q, %d panics", victim.ended, other.ended, f.g.stats.panics.Value())
	}
}

func TestFullNodeRefuses(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.MaxSessions = 2 })
	f.open(f.buckets[0], Stream)
	f.open(f.buckets[0], Stream)
	f.on(f.buckets[0], func() {
		if f.buckets[0].Open(&testConn{}, Stream, netip127()) != nil {
			t.Error("admitted above the bound")
		}
	})
	if f.g.stats.turnedAway.Value(1) != 1 {
		t.Error("not counted")
	}
}

func TestDrain(t *testing.T) {
	f := newFixture(t, 2, nil)
	var conns []*testConn
	for i := range 20 {
		conns = append(conns, f.connect(f.buckets[i%2], 2, fmt.Sprintf(`{"key":"%d"}`, i)))
	}
	if err := f.g.Drain(t.Context(), 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if bye := c.bodies(t, wire.OpBye); len(bye) != 1 || !strings.Contains(bye[0], `"code":3001`) || !strings.Contains(bye[0], "retry_ms") {
			t.Fatalf("bye %q", bye)
		}
	}
	f.logic.mu.Lock()
	defer f.logic.mu.Unlock()
	if !f.logic.refreshes[len(f.logic.refreshes)-1].Info.Offline {
		t.Error("the node was not hidden from new clients")
	}
}

// endedConn notes when its session is ended.
type endedConn struct {
	testConn
	at time.Time
}

func (c *endedConn) Close() {
	c.at = time.Now()
	c.testConn.Close()
}

// Symptom: a drain took up to twice its window, and was cut off by the stop.
// Cause: what was to be closed in a step was divided by the loops and rounded
// down. A loop with more sessions than others took longer still.
func TestDrainEndsWithinItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, step = 800 * time.Millisecond, 50 * time.Millisecond
		f := newFixture(t, 16, nil)
		var conns []*endedConn
		for i, b := range f.buckets {
			sessions := 31
			if i == 0 {
				sessions = 5 * 31
			}
			f.on(b, func() {
				for range sessions {
					c := &endedConn{testConn: testConn{bucket: b}}
					c.session = b.Open(c, Stream, netip127())
					conns = append(conns, c)
				}
			})
		}
		began := time.Now()
		if err := f.g.Drain(t.Context(), window); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > window {
			t.Errorf("it took %s", took)
		}
		closed := map[int]int{}
		for _, c := range conns {
			closed[int(c.at.Sub(began)/step)]++
		}
		for at, n := range closed {
			// 15 loops with 2 of their 31, one with 10 of its 155.
			if n > 15*2+10 {
				t.Errorf("step %d closed %d", at, n)
			}
		}
	})
}

func TestReasonsHaveUniqueCodesAndNames(t *testing.T) {
	codes, names := map[uint16]bool{}, map[string]bool{}
	for r := range reasonCount {
		if codes[r.Code()] || names[r.String()] {
			t.Errorf("%d %s is used twice", r.Code(), r)
		}
		codes[r.Code()], names[r.String()] = true, true
		if ReasonOf(r.Code()) != r {
			t.Errorf("code %d maps to %s", r.Code(), ReasonOf(r.Code()))
		}
	}
	if ReasonOf(3777) != BadToken || ReasonOf(1) != Internal {
		t.Error("unknown codes")
	}
}

func TestSessionIDs(t *testing.T) {
	for _, tc := range [][3]uint32{{0, 1, 0}, {255, genMask, maxSlots}, {7, 12345, 678}} {
		id := sessionID(uint8(tc[0]), tc[1], tc[2])
		if l, g, s := splitID(id); id == 0 || uint32(l) != tc[0] || g != tc[1] || s != tc[2] {
			t.Errorf("%v -> %x -> %d %d %d", tc, id, l, g, s)
		}
	}
}
