package comet

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// holdRoom makes the walk of the room wait, so that what is pushed next meets.
// The answer lets it go.
func (f *fixture) holdRoom(b *Bucket, key string) (release func()) {
	f.on(b, func() { b.rooms[key].rested = time.Now().Add(time.Hour) })
	return func() {
		f.on(b, func() {
			b.rooms[key].rested = time.Time{}
			b.hasten(b.rooms[key], time.Now())
			b.wake()
		})
	}
}

func (f *fixture) dispatch(pushes ...Push) *Delivery {
	f.t.Helper()
	for i := range pushes {
		f.offset++
		pushes[i].Offset = f.offset
	}
	d, err := f.g.Dispatch(f.t.Context(), f.lane, pushes)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

const roomOne = "live://1"

func inRoomOne(key string) string { return fmt.Sprintf(`{"key":%q,"room_id":%q}`, key, roomOne) }

func TestConflationKeepsTheLatestThatWaits(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, inRoomOne("a"))
	f.connect(f.buckets[0], 1, inRoomOne("b"))
	release := f.holdRoom(f.buckets[0], roomOne)
	score := func(body string) Push {
		return Push{Op: 1000, Room: roomOne, Body: []byte(body), Conflate: "score"}
	}
	d := f.dispatch(score("1:0"), Push{Op: 1000, Room: roomOne, Body: []byte("goal")}, score("2:0"),
		Push{Op: 1000, Room: roomOne, Body: []byte("clock"), Conflate: "clock"}, score("2:1"))
	release()
	results := f.result(d)
	if got, want := c.bodies(t, 1000), []string{"goal", "clock", "2:1"}; !slices.Equal(got, want) {
		t.Errorf("delivered %q, want %q", got, want)
	}
	for i, want := range []Counts{{Conflated: 2}, {Delivered: 2}, {Conflated: 2}, {Delivered: 2}, {Delivered: 2}} {
		if results[i].Counts != want {
			t.Errorf("push %d: %+v, want %+v", i, results[i].Counts, want)
		}
	}
	if n := f.g.stats.outcomes.Value(int(Conflated)); n != 4 {
		t.Errorf("%d counted as conflated, want 4", n)
	}
	// Nothing waits: the next of the key is a message of its own.
	f.result(f.dispatch(score("3:1")))
	if got := c.bodies(t, 1000); got[len(got)-1] != "3:1" || f.buckets[0].backlog != 0 {
		t.Errorf("delivered %q, backlog %d", got, f.buckets[0].backlog)
	}
}

func TestLikesDoNotPushOutAGift(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.RoundBytes, c.OutboxBytes = 1024, 4096 })
	c := f.connect(f.buckets[0], 1, inRoomOne("a"))
	release := f.holdRoom(f.buckets[0], roomOne)
	var pushes []Push
	for range 100 {
		pushes = append(pushes, Push{Op: 1, Room: roomOne, Body: make([]byte, 84), Class: Low})
	}
	pushes = append(pushes, Push{Op: 2, Room: roomOne, Body: make([]byte, 84)}, // opens the second round
		Push{Op: 3, Room: roomOne, Body: make([]byte, 84), Class: High})
	d := f.dispatch(pushes...)
	release()
	var likes, dropped uint32
	for _, r := range f.result(d)[:100] {
		likes += r.Delivered
		dropped += r.Slow
	}
	if likes == 0 || likes > 12 || likes+dropped != 100 {
		t.Errorf("%d likes delivered and %d dropped of 100; one round takes 10", likes, dropped)
	}
	var ops []wire.Op
	for _, p := range c.packets(t) {
		if p.Op == 2 || p.Op == 3 {
			ops = append(ops, p.Op)
		}
	}
	if want := []wire.Op{3, 2}; !slices.Equal(ops, want) {
		t.Errorf("the others came as %v, want %v: high overtakes what does not fit", ops, want)
	}
}

// A session that is behind gets a round without what may be left out.
func TestLowPushesYieldToASlowSession(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.RoundBytes, c.OutboxBytes, c.Overflow = 2048, 8192, "drop" })
	slow := f.connect(f.buckets[0], 1, inRoomOne("slow"))
	well := f.connect(f.buckets[0], 1, inRoomOne("well"))
	slow.mu.Lock()
	slow.waits = 3000 // above a quarter of the outbox
	slow.mu.Unlock()
	release := f.holdRoom(f.buckets[0], roomOne)
	d := f.dispatch(Push{Op: 5, Room: roomOne, Body: []byte("gift")}, Push{Op: 6, Room: roomOne, Body: []byte("like"), Class: Low},
		Push{Op: 5, Room: roomOne, Body: []byte("gift 2")})
	release()
	results := f.result(d)
	if got := slow.bodies(t, 5); !slices.Equal(got, []string{"gift", "gift 2"}) || len(slow.bodies(t, 6)) != 0 {
		t.Errorf("the slow one got %q and %d likes", got, len(slow.bodies(t, 6)))
	}
	if got := well.bodies(t, 6); len(got) != 1 {
		t.Errorf("its neighbour got %d likes", len(got))
	}
	for i, want := range []Counts{{Delivered: 2}, {Delivered: 1, Slow: 1}, {Delivered: 2}} {
		if results[i].Counts != want {
			t.Errorf("push %d: %+v, want %+v", i, results[i].Counts, want)
		}
	}
}

func TestMergeWindowGathersMessagesOfItsType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, func(c *Config) { c.MergeWindows = []string{"live=10s"} })
		windowed := f.connect(f.buckets[0], 1, inRoomOne("a"))
		other := f.connect(f.buckets[0], 1, `{"key":"b","room_id":"chat://1"}`)
		waits := f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte("first")})
		f.result(f.dispatch(Push{Op: 1, Room: "chat://1", Body: []byte("at once")}))
		if got := other.bodies(t, 1); len(got) != 1 {
			t.Fatalf("a room without a window got %q", got)
		}
		if got := windowed.bodies(t, 1); len(got) != 0 {
			t.Fatalf("%q came within the window", got)
		}
		writes := 0
		windowed.mu.Lock()
		windowed.onWrite = func() { writes++ }
		windowed.mu.Unlock()
		began := time.Now()
		f.result(f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte("urgent"), Class: High}))
		f.result(waits)
		if waited := time.Since(began); waited > 0 {
			t.Errorf("the urgent one waited for %s", waited)
		}
		if got := windowed.bodies(t, 1); !slices.Equal(got, []string{"first", "urgent"}) || writes != 1 {
			t.Errorf("%q in %d writes, want both in one", got, writes)
		}
	})
}

// The end of a window, and of a rest, comes by itself.
func TestARoomThatRestsGoesOnByItself(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.MergeWindows = []string{"live=5ms"} })
	c := f.connect(f.buckets[0], 1, inRoomOne("a"))
	for i := range 5 {
		f.on(f.buckets[0], func() { f.buckets[0].rooms[roomOne].rested = time.Now().Add(3 * time.Millisecond) })
		f.result(f.dispatch(Push{Op: 1, Room: roomOne, Body: []byte{byte(i)}}))
	}
	if got := c.bodies(t, 1); len(got) != 5 {
		t.Errorf("%d of 5 came", len(got))
	}
}

// A rest is the pipeline's share of a machine that the room keeps busy; with few
// pushes in a write it would only make rounds longer.
func TestOnlyAWalkThatMergesManyRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, nil)
		b := f.buckets[0]
		c := f.connect(b, 1, inRoomOne("a"))
		c.onWrite = func() { time.Sleep(2 * walkTime) }
		for _, tc := range []struct {
			merged int
			rest   time.Duration
		}{{1, 0}, {minMerged - 1, 0}, {minMerged, 2 * walkTime / restShare}} {
			release := f.holdRoom(b, roomOne)
			pushes := make([]Push, tc.merged)
			for i := range pushes {
				pushes[i] = Push{Op: 1, Room: roomOne, Body: []byte{1}}
			}
			d := f.dispatch(pushes...)
			release()
			f.result(d)
			ended := time.Now()
			f.on(b, func() {
				if got := max(0, b.rooms[roomOne].rested.Sub(ended)); got != tc.rest {
					t.Errorf("%d in a write: a rest of %s, want %s", tc.merged, got, tc.rest)
				}
			})
		}
	})
}

func TestMergeWindowsAreChecked(t *testing.T) {
	for _, bad := range []string{"", "live", "live=", "live=0s", "live=1us", "live=11s", "=1s", "live=x"} {
		if _, err := mergeWindows([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := mergeWindows([]string{"a=1s", "a=2s"}); err == nil {
		t.Error("a type was taken twice")
	}
	got, err := mergeWindows([]string{"live=50ms", "chat=1s"})
	if err != nil || got["live"] != 50*time.Millisecond || got["chat"] != time.Second {
		t.Errorf("%v, %v", got, err)
	}
}

// What meets in one turn leaves in one write, also from two rooms and a push
// to the session itself.
func TestRoomsAndUnicastOfATurnAreOneWrite(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 2, `{"key":"a","room_id":"live://1","accepts":[1000]}`)
	f.send(c, 2, wire.OpJoin, 2, `{"rooms":["live://2"]}`)
	waitFor(t, "the join", func() bool { return len(c.bodies(t, wire.OpJoinReply)) == 1 })
	writes := 0
	c.mu.Lock()
	c.onWrite = func() { writes++ }
	c.mu.Unlock()
	f.result(f.dispatch(Push{Op: 1000, Sessions: []uint64{c.session.id}, Body: []byte("for one")},
		Push{Op: 1000, Room: roomOne, Body: []byte("one")}, Push{Op: 1000, Room: "live://2", Body: []byte("two")}))
	if got := c.bodies(t, 1000); !slices.Equal(got, []string{"for one", "one", "two"}) || writes != 1 {
		t.Errorf("%q in %d writes, want all three in one", got, writes)
	}
}

// guest is a member that keeps what it gets; now and then a write changes the
// room under the walk.
type guest struct {
	sink
	t        *testing.T
	session  *Session
	since    int          // the first push after it came
	waited   map[int]bool // pushes that waited then
	got      []int        // numbers of pushes, in order
	buffered int
	left     bool
	onWrite  func()
}

func (g *guest) Buffered() int { return g.buffered }
func (g *guest) Write(data []byte) {
	for len(data) > 0 {
		p, n, err := wire.Decoder{MaxBody: -1}.Next(data)
		if err != nil || n == 0 {
			g.t.Errorf("not whole packets: %x (%v)", data, err)
			return
		}
		g.got = append(g.got, int(binary.BigEndian.Uint32(p.Body)))
		data = data[n:]
	}
	if f := g.onWrite; f != nil {
		g.onWrite = nil
		f()
	}
}

// Members come, go and are slow while pushes of all classes make their rounds:
// who is there gets each push once and in order, but for those that a later
// one of the key replaced and the low ones a slow member goes without, and the
// counts of each push are what the members saw.
func TestRoundsReachEveryMemberOnce(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.RoundBytes, c.OutboxBytes, c.Overflow = 1024, 8192, "drop" })
	f.g.maxSessions = 1 << 20
	b := f.buckets[0]
	f.on(b, func() {
		for seed := range uint64(200) {
			if roundsOfGuests(t, b, seed); t.Failed() { // no FailNow: this is the loop's goroutine
				break
			}
		}
		if b.backlog != 0 || len(b.rooms) != 0 {
			t.Errorf("backlog %d, %d rooms", b.backlog, len(b.rooms))
		}
	})
}

func roundsOfGuests(t *testing.T, b *Bucket, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var guests []*guest
	var pushed []*Delivery
	enter := func() {
		g := &guest{t: t, since: len(pushed), waited: map[int]bool{}}
		if r := b.rooms[roomOne]; r != nil {
			for i := range r.waiting {
				g.waited[int(binary.BigEndian.Uint32(r.waiting[i].push().Body))] = true
			}
		}
		g.session = b.Open(g, Stream, netip127())
		g.session.state, g.session.ver = live, 1
		b.join(g.session, roomOne)
		if rnd.IntN(4) == 0 {
			g.buffered = b.gateway.cfg.OutboxBytes/4 + 1 + rnd.IntN(2)*b.gateway.cfg.OutboxBytes
		}
		guests = append(guests, g)
	}
	leave := func() {
		if g := guests[rnd.IntN(len(guests))]; !g.left {
			g.left = true
			b.Closed(g.session)
		}
	}
	change := func() {
		if rnd.IntN(2) == 0 {
			enter()
		} else {
			leave()
		}
	}
	for range 1 + rnd.IntN(12) {
		enter()
	}
	room := b.rooms[roomOne]
	for range 60 {
		switch r := b.rooms[roomOne]; {
		case r != room: // all have left, a new room begins: the old one ends first
			for room.busy() {
				b.walk(room, 3, time.Now())
			}
			if room = r; r == nil {
				enter()
				room = b.rooms[roomOne]
			}
		case rnd.IntN(3) == 0:
			change()
		case rnd.IntN(2) == 0:
			p := Push{Op: 1, Room: roomOne, Body: make([]byte, 84), Class: Class(rnd.IntN(3)), Conflate: []string{"", "", "x", "y"}[rnd.IntN(4)]}
			binary.BigEndian.PutUint32(p.Body, uint32(len(pushed)))
			d := &Delivery{Pushes: []Push{p}, Results: make([]PushResult, 1), done: make(chan struct{})}
			pushed = append(pushed, d)
			d.hold()
			b.pushRoom(r, d, 0)
			d.release()
		default:
			if g := guests[rnd.IntN(len(guests))]; rnd.IntN(2) == 0 {
				g.onWrite = change
			}
			b.walk(r, 1+rnd.IntN(5), time.Now())
			b.flush()
		}
		if r := b.rooms[roomOne]; r != nil {
			for i, m := range r.members {
				if int(m.s.rooms[m.slot].pos) != i {
					t.Errorf("seed %d: member at %d believes to be at %d", seed, i, m.s.rooms[m.slot].pos)
				}
			}
		}
	}
	for room.busy() {
		b.walk(room, 7, time.Now())
		b.flush()
	}
	b.fresh = roomQueue{}
	checkGuests(t, seed, guests, pushed)
	for _, g := range guests {
		if !g.left {
			b.Closed(g.session)
		}
	}
}

func checkGuests(t *testing.T, seed uint64, guests []*guest, pushed []*Delivery) {
	received := make([]uint32, len(pushed))
	for _, g := range guests {
		seen := make([]int, len(pushed))
		last := map[Class]int{}
		for _, n := range g.got {
			p := &pushed[n].Pushes[0]
			if n < g.since && !g.waited[n] || seen[n] > 0 || n < last[p.Class] {
				t.Errorf("seed %d: one that is there since %d got %v", seed, g.since, g.got)
				return
			}
			seen[n]++
			received[n]++
			last[p.Class] = n
		}
		for n := g.since; n < len(pushed) && !g.left && g.buffered == 0; n++ {
			// A slow neighbour is no excuse, only a key, and a low push that was dropped for all.
			r, low := &pushed[n].Results[0], pushed[n].Pushes[0].Class == Low
			if seen[n] == 0 && r.Conflated == 0 && !(low && r.Delivered == 0) {
				t.Errorf("seed %d: push %d (%+v) is not among %v", seed, n, r.Counts, g.got)
			}
		}
	}
	for n, d := range pushed {
		select {
		case <-d.Done():
		default:
			t.Errorf("seed %d: push %d has no answer", seed, n)
		}
		if r := d.Results[0]; r.Delivered != received[n] {
			t.Errorf("seed %d: push %d is counted %+v, %d got it", seed, n, r.Counts, received[n])
		}
	}
}

// A push that comes while another is on its way does not wait for the end of
// that round: members that lack both get both in one write.
func TestAPushJoinsAWalkThatIsUnderWay(t *testing.T) {
	f := newFixture(t, 1, nil)
	b := f.buckets[0]
	f.on(b, func() {
		var guests []*guest
		for range 10 {
			g := &guest{t: t}
			g.session = b.Open(g, Stream, netip127())
			g.session.state, g.session.ver = live, 1
			b.join(g.session, roomOne)
			guests = append(guests, g)
		}
		r := b.rooms[roomOne]
		push := func(n byte) *Delivery {
			d := &Delivery{Pushes: []Push{{Op: 1, Room: roomOne, Body: []byte{0, 0, 0, n}}}, Results: make([]PushResult, 1), done: make(chan struct{})}
			d.hold()
			b.pushRoom(r, d, 0)
			d.release()
			return d
		}
		first := push(0)
		b.walk(r, 4, time.Now())
		second := push(1)
		if n := b.walk(r, 100, time.Now()); n != 10 {
			t.Errorf("%d more writes, want 10: six with both, four with the second", n)
		}
		for i, g := range guests {
			if !slices.Equal(g.got, []int{0, 1}) {
				t.Errorf("member %d got %v", i, g.got)
			}
		}
		for _, d := range []*Delivery{first, second} {
			if d.Results[0].Delivered != 10 {
				t.Errorf("%+v", d.Results[0].Counts)
			}
		}
		b.fresh = roomQueue{}
		for _, g := range guests {
			b.Closed(g.session)
		}
	})
}

// A key that is pushed faster than the walk goes round: the members ahead get
// only the newest, those who have had one get it and the newest.
func TestConflationUnderWay(t *testing.T) {
	f := newFixture(t, 1, nil)
	b := f.buckets[0]
	conn := f.audience(b, roomOne, 10)
	f.on(b, func() {
		r := b.rooms[roomOne]
		var all []*Delivery
		for n := range byte(5) {
			d := &Delivery{Pushes: []Push{{Op: 1, Room: roomOne, Conflate: "k", Body: []byte{0, 0, 0, n}}}, Results: make([]PushResult, 1), done: make(chan struct{})}
			d.hold()
			b.pushRoom(r, d, 0)
			d.release()
			b.walk(r, 2, time.Now())
			all = append(all, d)
		}
		for r.busy() {
			b.walk(r, 2, time.Now())
		}
		b.fresh = roomQueue{}
		for i, d := range all {
			want := Counts{Delivered: 2, Conflated: 8}
			if i == 4 {
				want = Counts{Delivered: 10}
			}
			if d.Results[0].Counts != want {
				t.Errorf("push %d: %+v, want %+v", i, d.Results[0].Counts, want)
			}
		}
		if conn.writes != 18 {
			t.Errorf("%d writes, want 18: two each for the first four, ten for the last", conn.writes)
		}
	})
}
