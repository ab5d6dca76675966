package comet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// Symptom: one client that changed to a room named by bytes which are no text
// ended every Rooms stream of this comet, for as long as it stayed. Cause: the
// room name was taken as it came, and protobuf does not encode strings that
// are not UTF-8 (neither in RoomsUpdate nor in Refresh, which is the lease).
func TestRoomNamesAreText(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 1, token)
	f.send(c, 1, wire.OpChangeRoom, 2, "live://\xff\xfe")
	if got := c.bodies(t, wire.OpChangeRoomReply); !slices.Equal(got, []string{"live://\xff\xfe"}) {
		t.Errorf("the body is echoed, also on failure (goim): %q", got)
	}
	if got := f.g.rooms.counts(); len(got) != 1 || got["live://1000"] != 1 {
		t.Errorf("rooms %q", got)
	}
}

// Symptom: a WebSocket client that sent pings and read nothing made the comet
// hold a pong for each of them, without end. Cause: only replies and pushes
// looked at what waits for the client, control frames did not.
func TestPongsAreBounded(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.OutboxBytes, c.RoundBytes = 4096, 1024 })
	c := f.open(f.buckets[0], WebSocket)
	c.mu.Lock()
	c.stuck = true
	c.mu.Unlock()
	f.on(c.bucket, func() {
		for range 1000 {
			c.bucket.Control(c.session, ws.OpPong, make([]byte, ws.MaxControlPayload))
			c.bucket.Flush()
		}
	})
	if c.ended != "reset" || c.Buffered() > 2*4096+ws.MaxControlPayload {
		t.Errorf("%q with %d bytes waiting", c.ended, c.Buffered())
	}
	if n := f.g.stats.ended.Value(int(SlowConsumer)); n != 1 {
		t.Errorf("%d counted as slow", n)
	}
}

// Symptom: a version 2 client that broke RFC 6455 got the bye packet behind
// the close frame, where no data may be. Cause: the close frame of the RFC's
// code was written first, and the close of the session added the bye.
func TestCloseFrameIsLast(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.open(f.buckets[0], WebSocket)
	f.on(c.bucket, func() { c.bucket.Upgraded(c.session, nil, false) })
	f.send(c, 2, wire.OpAuth, 1, token)
	waitFor(t, "the auth reply", func() bool { return len(frames(t, c)) == 1 })
	f.on(c.bucket, func() { c.bucket.FailWebSocket(c.session, ws.CodeProtocolError, "reserved bit set") })
	got := frames(t, c)
	if len(got) != 3 || got[1].Kind != ws.KindMessage || !strings.Contains(string(got[1].Payload), "bad_frame") ||
		got[2].Kind != ws.KindClose || got[2].Code != ws.CodeProtocolError {
		t.Errorf("got %+v", got)
	}
}

// frames are the WebSocket frames that were written.
func frames(t *testing.T, c *testConn) (out []ws.Event) {
	t.Helper()
	c.mu.Lock()
	buf := slices.Clone(c.written.Bytes())
	c.mu.Unlock()
	var r ws.Reader
	r.InitClient(1 << 20)
	for len(buf) > 0 {
		ev, n, err := r.Next(buf)
		if err != nil || n == 0 {
			t.Fatalf("not whole frames: %x (%v)", buf, err)
		}
		out = append(out, ev)
		buf = buf[n:]
	}
	return out
}

// Symptom: the stop of the gRPC server hung while a loop was stuck, because
// its streams were inside Dispatch. Cause: Dispatch waited for a full mailbox
// until the comet's end, whatever became of the caller. A dispatch that is
// given up has reached some loops: sent again, it reaches the others, and
// nobody twice.
func TestDispatchThatIsGivenUpIsNotDoubled(t *testing.T) {
	f := newFixture(t, 2, func(c *Config) { c.BacklogBytes, c.OutboxBytes = 64<<10, 4<<20 })
	a := f.connect(f.buckets[0], 1, `{"key":"a","room_id":"live://1"}`)
	b := f.connect(f.buckets[1], 1, `{"key":"b","room_id":"live://1"}`)
	held, stuck := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	f.buckets[1].post(func(*Bucket) { close(stuck); <-held })
	<-stuck
	var batches [][]Push
	for i := range 4 {
		batches = append(batches, []Push{{Offset: int64(i), Op: 1, Body: fmt.Appendf(make([]byte, 0, 48<<10), "%048000d", i), Room: "live://1"}})
	}
	// The first fills the mailbox of the stuck loop, the next waits for it, and is
	// given up when the other loop has it.
	const sent = 1
	if _, err := f.g.Dispatch(t.Context(), f.lane, batches[0]); err != nil {
		t.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	ended := make(chan error, 1)
	go func() {
		_, err := f.g.Dispatch(ctx, f.lane, batches[sent])
		ended <- err
	}()
	waitFor(t, "the loop that is not stuck", func() bool { return len(a.bodies(t, 1)) == sent+1 })
	giveUp()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the dispatch that was given up goes on")
	}
	release()
	var results []PushResult
	for _, batch := range batches { // all of them again, as a job does
		d, err := f.g.Dispatch(t.Context(), f.lane, batch)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, f.result(d)...)
	}
	for i, r := range results {
		switch {
		case i < sent && (!r.Repeat || r.Delivered != 0),
			i == sent && (r.Repeat || r.Delivered != 1),
			i > sent && (r.Repeat || r.Delivered != 2):
			t.Errorf("push %d of %d: %+v", i, sent, r)
		}
	}
	for name, c := range map[string]*testConn{"a": a, "b": b} {
		got := c.bodies(t, 1)
		for i := range got {
			if got[i] != string(batches[i][0].Body) {
				t.Errorf("%s: message %d is wrong", name, i)
			}
		}
		if len(got) != len(batches) {
			t.Errorf("%s got %d messages of %d", name, len(got), len(batches))
		}
	}
}

// Symptom: while a push to all at a low speed was under way, a push to all
// without one, and then everything else in its lane, found no answer and was
// dropped as unreachable after the dispatch timeout. Cause: it waits for its
// turn behind the paced one, and its lane waited with it.
func TestPushToAllBehindAPacedOne(t *testing.T) {
	f := newFixture(t, 1, nil)
	var conns []*testConn
	for i := range 30 {
		conns = append(conns, f.connect(f.buckets[0], 1, fmt.Sprintf(`{"key":"%d","accepts":[1]}`, i)))
	}
	f.push(Push{Op: 1, Body: []byte("paced"), All: true, Speed: 10})
	f.push(Push{Op: 1, Body: []byte("behind"), All: true}) // answered, though its turn comes later
	f.push(Push{Op: 1, Body: []byte("own"), Sessions: []uint64{conns[29].session.ID()}})
	if got := conns[29].bodies(t, 1); fmt.Sprint(got) != "[own]" {
		t.Errorf("before its turn: %v", got)
	}
	for range 40 {
		f.advance(100 * time.Millisecond)
	}
	for i, c := range conns[:29] {
		if got := c.bodies(t, 1); fmt.Sprint(got) != "[paced behind]" {
			t.Errorf("session %d got %v", i, got)
		}
	}
	if r := f.push(Push{Op: 1, Body: []byte("after"), All: true}); r.Delivered != 30 {
		t.Errorf("when it is over: %+v", r)
	}
}

// Symptom: after a few large pushes to all at a low speed the loop took no
// pushes at all, for as long as those lasted. Cause: they counted as backlog,
// and a loop with a full backlog leaves pushes in its mailbox. Now they have a
// bound of their own, and what is above it is dropped and counted.
func TestPacedPushesAreBounded(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.BacklogBytes = 64 << 10 })
	var conns []*testConn
	for i := range 3 {
		conns = append(conns, f.connect(f.buckets[0], 1, fmt.Sprintf(`{"key":"%d","accepts":[1]}`, i)))
	}
	for i, want := range []uint32{0, 3, 3} {
		if r := f.push(Push{Op: 1, Body: make([]byte, 40<<10), All: true, Speed: 10}); r.Slow != want || r.Delivered != 0 {
			t.Errorf("paced push %d: %+v, want %d as slow", i, r, want)
		}
	}
	if r := f.push(Push{Op: 1, Body: []byte("own"), Sessions: []uint64{conns[2].session.ID()}}); r.Delivered != 1 {
		t.Errorf("a session of its own: %+v", r)
	}
	f.on(f.buckets[0], func() {
		if b := f.buckets[0]; b.backlog != 0 || b.allsReady() || len(b.again) > 0 {
			t.Errorf("backlog %d, ready %v, another turn is asked for: %v", b.backlog, b.allsReady(), len(b.again) > 0)
		}
	})
	for range 20 {
		f.advance(100 * time.Millisecond)
	}
	for i, c := range conns {
		if got := len(c.bodies(t, 1)); got != 1+i/2 {
			t.Errorf("session %d got %d pushes", i, got)
		}
	}
	if b := f.buckets[0]; b.paced != 0 {
		t.Errorf("%d bytes are left", b.paced)
	}
}

// Symptom: after many rooms had come while a job was slow, its Rooms stream
// broke on a message above the size limit, again and again. Cause: a snapshot
// was cut into parts, changes were not. A part of a change must not carry the
// version of the whole: its acknowledgement would confirm joins too early.
func TestManyChangesComeInParts(t *testing.T) {
	x := newRoomIndex(time.Minute, func() {})
	w := x.Watch("job")
	defer w.Close()
	if u, err := w.Next(t.Context()); err != nil || !u.SnapshotEnd || u.Version != 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	const rooms = 2*maxUpdateRooms + 10
	for i := range rooms {
		x.enter(fmt.Sprintf("live://%d", i))
	}
	seen := map[string]bool{}
	for part, want := range []int{maxUpdateRooms, maxUpdateRooms, 10} {
		u, err := w.Next(t.Context())
		if err != nil || len(u.Added) != want {
			t.Fatalf("part %d has %d rooms, %v", part, len(u.Added), err)
		}
		for _, key := range u.Added {
			seen[key] = true
		}
		x.enter(fmt.Sprintf("live://later-%d", part)) // does not belong to what is being told
		w.Ack(u.Version)
		if got, want := x.confirmed(rooms), part == 2; got != want {
			t.Errorf("after part %d the joins are confirmed: %v", part, got)
		}
	}
	if len(seen) != rooms {
		t.Errorf("%d rooms told of %d", len(seen), rooms)
	}
	u, err := w.Next(t.Context())
	if err != nil || len(u.Added) != 3 || u.Version != rooms+3 {
		t.Errorf("%+v, %v", u, err)
	}
}

// Symptom: a session that was closed while it waited for its first room got
// the pushes that were to follow the auth reply, but no auth reply. Cause: the
// close wrote the outbox as it was.
func TestCloseBeforeTheAuthReplySaysOnlyBye(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.joinsWait()
	w := f.g.Rooms().Watch("job") // acknowledges nothing
	defer w.Close()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 2, wire.OpAuth, 1, token)
	waitFor(t, "the room", func() bool { return f.g.rooms.count() == 1 })
	f.on(c.bucket, func() {})
	if r := f.push(Push{Op: 1000, Body: []byte("early"), Sessions: []uint64{c.session.ID()}}); r.Delivered != 1 {
		t.Fatalf("%+v", r)
	}
	f.g.Kick([]uint64{c.session.ID()}, Kicked)
	f.on(c.bucket, func() {})
	if got := c.packets(t); len(got) != 1 || got[0].Op != wire.OpBye {
		t.Errorf("got %+v", got)
	}
}

// Symptom: a comet that was told to drain while logic hung went on as if
// nothing had happened. Cause: the call that hides the node had no deadline.
func TestDrainDoesNotWaitForLogic(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.LogicTimeout = 100 * time.Millisecond })
	c := f.connect(f.buckets[0], 2, token)
	f.logic.mu.Lock()
	f.logic.hang = true
	f.logic.mu.Unlock()
	f.g.StartDrain(0)
	waitFor(t, "the session to be told", func() bool { return len(c.bodies(t, wire.OpBye)) == 1 })
	f.logic.mu.Lock()
	f.logic.hang = false
	f.logic.mu.Unlock()
}

// Symptom: a session ended as "replaced" by itself. Cause: logic answers a
// Connect that was sent twice with the session that holds the key, which is
// the same one.
func TestSessionDoesNotReplaceItself(t *testing.T) {
	f := newFixture(t, 1, nil)
	block := make(chan struct{})
	f.logic.mu.Lock()
	f.logic.block = block
	f.logic.mu.Unlock()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 1, wire.OpAuth, 1, token)
	f.logic.mu.Lock()
	f.logic.keys["k1"] = c.session.ID()
	f.logic.mu.Unlock()
	close(block)
	waitFor(t, "the auth reply", func() bool { return len(c.bodies(t, wire.OpAuthReply)) == 1 })
	f.on(c.bucket, func() {})
	if c.ended != "" {
		t.Error("it was closed")
	}
}

// Symptom: a room push right after a join reached nobody and was not counted,
// while a job's Rooms stream was being opened again. Cause: a join did not wait
// for a job whose stream had ended, though the job went on by what it knew.
func TestJoinWaitsForAJobThatComesBack(t *testing.T) {
	x := newRoomIndex(time.Minute, func() { t.Error("a join was told before it was confirmed") })
	w := x.Watch("job")
	w.Close()
	version := x.enter("live://1").version
	if x.confirmed(version) {
		t.Fatal("confirmed although the job may not have noticed that its stream ended")
	}
	again := x.Watch("job")
	if !x.confirmed(version) { // it is in the snapshot
		t.Error("not confirmed although the job has a new view")
	}
	// The new stream may come before the end of the old one is noticed.
	version = x.enter("live://2").version
	third := x.Watch("job")
	defer third.Close()
	again.Close()
	if !x.confirmed(version) {
		t.Error("not confirmed although the job has a newer view")
	}
}

// Symptom: the stop of a comet took seconds longer whenever a renewal of the
// lease had just begun. Cause: the renewal asks the loops for sessions, and the
// edge had stopped them before; it waited for its deadline, Close for it.
func TestCloseDoesNotWaitForDeadLoops(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) {
		c.LeaseInterval, c.OnlineInterval, c.LogicTimeout = 100*time.Millisecond, time.Second, time.Minute
	})
	f.connect(f.buckets[0], 1, token)
	dead, buried := make(chan struct{}), make(chan struct{})
	defer close(buried)
	f.buckets[0].post(func(*Bucket) { close(dead); <-buried })
	<-dead
	waitFor(t, "a renewal that asks the loop", func() bool { items, _ := f.buckets[0].control.Len(); return items > 0 })
	start := time.Now()
	// With the fault it ends with the deadline of the renewal, a minute after that began.
	if err := f.g.Close(t.Context()); err != nil || time.Since(start) > 40*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}
