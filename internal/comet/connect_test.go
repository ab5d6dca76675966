package comet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// dyingLogic breaks off the first Connect.
type dyingLogic struct {
	*testLogic
	calls int // of the one worker
}

func (l *dyingLogic) Connect(ctx context.Context, node Node, items []ConnectItem) ([]ConnectResult, error) {
	if l.calls++; l.calls == 1 {
		return nil, errors.New("connection reset")
	}
	return l.testLogic.Connect(ctx, node, items)
}

// Symptom: when one logic of two was killed, the clients whose auth it had at
// that moment were turned away, though the other one was well. Cause: a failed
// Connect was not repeated; it names the sessions, so a repeat does no harm.
func TestConnectIsRepeatedOnce(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.ConnectWorkers = 1 })
	f.g.logic = &dyingLogic{testLogic: f.logic} // before the first session: the workers sleep
	f.connect(f.buckets[0], 1, token)
	if n := f.g.stats.logicErrors.Value(0); n != 0 {
		t.Errorf("%d calls are counted as failed", n)
	}
}

// Symptom: pushes that came during auth counted as delivered, whatever became
// of them. Cause: they were counted when they were held. (The job hears
// "delivered" at once: its lane does not wait for an auth.)
func TestHeldPushesAreCountedWhenTheyEnd(t *testing.T) {
	for name, want := range map[string][4]uint64{ // by Outcome
		"auth":  {NotHere: 0, Delivered: 1, Filtered: 1},
		"close": {NotHere: 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 1, nil)
			block := make(chan struct{})
			f.logic.mu.Lock()
			f.logic.block = block
			f.logic.mu.Unlock()
			c := f.open(f.buckets[0], Stream)
			f.send(c, 1, wire.OpAuth, 1, token)
			ids := []uint64{c.session.ID()}
			f.push(Push{Op: 1000, Body: []byte("early"), Sessions: ids})
			f.push(Push{Op: 9999, Body: []byte("not accepted"), Sessions: ids})
			if name == "close" {
				f.on(c.bucket, func() { c.bucket.Closed(c.session) })
			}
			close(block)
			waitFor(t, "the end of the auth", func() bool {
				f.logic.mu.Lock()
				defer f.logic.mu.Unlock()
				return len(f.logic.disconnected) == 1 || len(c.bodies(t, wire.OpAuthReply)) == 1
			})
			var got [4]uint64
			f.on(c.bucket, func() {
				for o := range got {
					got[o] = f.g.stats.outcomes.Value(o)
				}
			})
			if got != want {
				t.Errorf("counted %v, want %v", got, want)
			}
		})
	}
}

// Symptom: while a job was frozen, each join of a new room cost all loops
// time in proportion to the joins that had waited for that job, and their
// memory stayed. Cause: a join that was told after its timeout was still
// waiting, and every change looked at all that waited.
func TestTimedOutJoinsAreForgotten(t *testing.T) {
	x := newRoomIndex(time.Millisecond, func() {})
	w := x.Watch("frozen")
	defer w.Close()
	var told sync.WaitGroup
	for i := range 100 {
		told.Add(1)
		x.whenConfirmed(x.enter(fmt.Sprintf("live://%d", i)).version, told.Done)
	}
	told.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.waiting); n != 0 {
		t.Errorf("%d joins still wait", n)
	}
}

func BenchmarkJoinWhileAJobIsSilent(b *testing.B) {
	x := newRoomIndex(time.Minute, func() {})
	w := x.Watch("frozen")
	defer func() {
		w.Ack(x.version)
		w.Close()
	}()
	for i := 0; b.Loop(); i++ {
		x.whenConfirmed(x.enter(fmt.Sprintf("live://%d", i)).version, func() {})
	}
}

// lateLogic keeps the first Connect back until it is released, as a logic does
// that hangs for a while.
type lateLogic struct {
	*testLogic
	calls            atomic.Int32
	entered, release chan struct{}
}

func (l *lateLogic) Connect(ctx context.Context, node Node, items []ConnectItem) ([]ConnectResult, error) {
	if l.calls.Add(1) == 1 {
		close(l.entered)
		<-l.release
	}
	return l.testLogic.Connect(ctx, node, items)
}

// Symptom: a client whose auth hung in one logic gave up and came back through
// another one; a moment later its new session was closed as "replaced", which
// tells it to stay away. Cause: the first logic recorded the old session after
// the new one, so the new one had to yield to a session that was gone.
func TestALateAnswerForAGoneSessionReplacesNobody(t *testing.T) {
	f := newFixture(t, 1, nil)
	logic := &lateLogic{testLogic: f.logic, entered: make(chan struct{}), release: make(chan struct{})}
	f.g.logic = logic // before the first session: the workers sleep
	gone := f.open(f.buckets[0], Stream)
	f.send(gone, 2, wire.OpAuth, 1, token)
	<-logic.entered
	f.on(gone.bucket, func() { gone.bucket.Closed(gone.session) })
	f.connect(f.buckets[0], 2, `{"mid":2,"key":"another"}`) // in the slot of gone
	back := f.connect(f.buckets[0], 2, token)
	close(logic.release)
	id := back.session.id
	var keyless []uint64
	waitFor(t, "the key to be free", func() bool {
		f.on(back.bucket, func() { keyless = slices.Clone(back.bucket.keyless) })
		return len(keyless) > 0 || back.ended != ""
	})
	if back.ended != "" {
		t.Fatalf("the session of the client that came back ended: %q", back.bodies(t, wire.OpBye))
	}
	// The removal of gone took the key with it: back must have it again with the
	// next renewal, not when its turn comes.
	refs, err := f.g.collect(t.Context(), 0)
	if err != nil || !slices.ContainsFunc(refs, func(r SessionRef) bool { return r.Session == id && r.Key == "k1" }) {
		t.Errorf("renewed next: %+v (%v), want session %x among them", refs, err, id)
	}
	if refs, _ = f.g.collect(t.Context(), 0); len(refs) != 1 {
		t.Errorf("renewed after that: %+v, want one", refs)
	}
}

// busyLogic works before it answers a Connect.
type busyLogic struct {
	*testLogic
	work func(sessions int)
}

func (l *busyLogic) Connect(ctx context.Context, node Node, items []ConnectItem) ([]ConnectResult, error) {
	l.work(len(items))
	return l.testLogic.Connect(ctx, node, items)
}

// Symptom: in a storm that logic could not take, after some seconds nobody got
// in any more. Cause: sessions were asked about in the order in which they had
// come, however long ago that was: by then each of them had lost its patience,
// or had none left for the answer.
func TestAStormDoesNotShutEverybodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, func(c *Config) { c.ConnectWorkers, c.ConnectBatch = 1, 1 })
		const clients, every = 600, 50 * time.Millisecond
		f.g.logic = &busyLogic{f.logic, func(n int) { time.Sleep(time.Duration(n) * 2 * every) }} // it can take half of them
		f.g.clock, f.g.born = time.Now, time.Now()
		var conns []*testConn
		for i := range clients {
			c := f.open(f.buckets[0], Stream)
			f.send(c, 1, wire.OpAuth, 1, fmt.Sprintf(`{"mid":%d}`, i+1))
			conns = append(conns, c)
			time.Sleep(every)
			f.g.Tick()
		}
		time.Sleep(f.g.cfg.HandshakeTimeout)
		f.g.Tick()
		synctest.Wait()
		in := 0
		for _, c := range conns {
			in += len(c.bodies(t, wire.OpAuthReply))
		}
		if in < clients/3 {
			t.Errorf("%d of %d got in, while logic was asked about every second one", in, clients)
		}
	})
}

// Symptom: while a job was frozen, clients that came with a room were closed for
// a handshake that took too long, though they had done their part of it. Cause:
// the wait for the jobs counted as handshake, also where join_timeout is the
// longer one, or logic had left little of handshake_timeout.
func TestTheWaitForTheJobsIsNoHandshake(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.JoinTimeout = 10 * time.Second })
	f.joinsWait()
	w := f.g.Rooms().Watch("frozen")
	defer w.Close()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 1, wire.OpAuth, 1, token)
	var s state
	waitFor(t, "logic's answer", func() bool {
		f.on(c.bucket, func() { s = c.session.state })
		return s == confirming
	})
	f.advance(f.g.cfg.JoinTimeout)
	if c.ended != "" {
		t.Fatal("closed while it waited for the job")
	}
	w.Ack(1)
	waitFor(t, "the auth reply", func() bool { return len(c.bodies(t, wire.OpAuthReply)) == 1 })
	f.advance(2 * time.Minute)
	if c.ended == "" {
		t.Error("it lives without heartbeats")
	}
}
