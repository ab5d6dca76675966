package comet

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// awayFor sends a heartbeat, as a transport does, and returns after what time
// the loop would look at its sockets again.
func awayFor(f *fixture, c *testConn) time.Duration {
	sent, back := time.Now(), make(chan time.Duration, 1)
	b := c.bucket
	b.loop.Execute(func() {
		b.Packet(c.session, wire.Packet{Header: wire.Header{Ver: 1, Op: wire.OpHeartbeat}}, "")
		b.Flush()
		b.loop.Execute(func() { back <- time.Since(sent) })
	})
	return <-back
}

func TestNapIsAShareOfTheQuietTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, nil)
		c := f.connect(f.buckets[0], 1, `{"mid":1,"accepts":[1000]}`)
		check := func(what string, want time.Duration) {
			t.Helper()
			if got := awayFor(f, c); got != want {
				t.Errorf("%s: the loop is away for %s, want %s", what, got, want)
			}
		}
		check("just connected", 0)
		f.advance(900 * time.Millisecond)
		check("quiet for 0.9 s", 0)
		f.advance(2100 * time.Millisecond)
		check("quiet for 3 s, heartbeats do not count", 30*time.Millisecond)
		f.push(Push{Op: 1000, Body: []byte("x"), Sessions: []uint64{c.session.id}})
		check("after a push", 0)
		f.advance(20 * time.Second)
		check("quiet for long", maxNap)
		f.send(c, 1, wire.OpSub, 1, "1000")
		check("after a packet", 0)
		f.advance(2 * time.Second)
		check("quiet for 2 s", 20*time.Millisecond)
		f.open(f.buckets[0], Stream)
		check("after a connection", 0)
	})
}

func TestPushEndsNap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, 1, nil)
		b := f.buckets[0]
		c := f.connect(b, 1, `{"mid":1,"accepts":[1000]}`)
		f.advance(10 * time.Second)
		away := make(chan time.Duration)
		go func() { away <- awayFor(f, c) }()
		synctest.Wait()
		if !b.napping.Load() {
			t.Fatal("the loop does not nap")
		}
		sent := time.Now()
		f.push(Push{Op: 1000, Body: []byte("x"), Sessions: []uint64{c.session.id}})
		if waited := time.Since(sent); waited != 0 {
			t.Errorf("the push waited for %s", waited)
		}
		if got := c.bodies(t, 1000); len(got) != 1 {
			t.Errorf("%d pushes on the wire, want 1", len(got))
		}
		if got := <-away; got != 0 {
			t.Errorf("the loop went on napping for %s", got)
		}
	})
}

// Commands that come when a nap begins or ends get their turn: nothing else
// would wake the loop.
func TestNapLosesNoCommand(t *testing.T) {
	f := newFixture(t, 1, nil)
	b := f.buckets[0]
	f.advance(10 * time.Second) // quiet; the clock stands still from here on
	stop := make(chan struct{})
	var napper, posters sync.WaitGroup
	napper.Add(1)
	var again func()
	again = func() {
		select {
		case <-stop:
			napper.Done()
		default:
			b.nap()
			b.loop.Execute(again)
		}
	}
	b.loop.Execute(again)
	for range 4 {
		posters.Go(func() {
			for range 2000 {
				if err := b.call(t.Context(), func(*Bucket) {}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	posters.Wait()
	close(stop)
	napper.Wait()
}
