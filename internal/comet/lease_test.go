package comet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/perseid-im/perseid/internal/obs"
)

// reported tells which of the sessions were reported since the n-th refresh.
func (f *fixture) reported(n int) map[uint64]bool {
	f.logic.mu.Lock()
	defer f.logic.mu.Unlock()
	seen := map[uint64]bool{}
	for _, r := range f.logic.refreshes[n:] {
		for _, ref := range r.Sessions {
			seen[ref.Session] = true
		}
	}
	return seen
}

// Symptom: after Redis had come back empty, most sessions of a comet stayed
// unreachable for a renew period (8 minutes). Cause: the comet is told once
// that its lease was lost, and the call that would have told it failed behind
// the lease (Redis slow, the answer lost); or it was told, and the report
// failed half way.
func TestLostLeaseIsNotForgotten(t *testing.T) {
	const sessions = 2500
	for _, failing := range []string{"the call that brings the news", "the report"} {
		t.Run(failing, func(t *testing.T) {
			f := newFixture(t, 2, func(c *Config) { c.LeaseInterval, c.RenewPeriod = 100*time.Millisecond, time.Hour })
			f.g.maxSessions = sessions
			for i := range sessions {
				b := f.buckets[i%2]
				c := &testConn{bucket: b}
				f.on(b, func() {
					c.session = b.Open(c, Stream, netip127())
					c.session.state, c.session.key = live, fmt.Sprint(i)
				})
			}
			f.logic.mu.Lock()
			f.logic.resync = true
			if failing == "the report" {
				f.logic.failAfter = 2 // the news, and a part of the report
			} else {
				f.logic.fail = errors.New("presence is away")
			}
			f.logic.mu.Unlock()
			waitFor(t, "a failure", func() bool {
				f.logic.mu.Lock()
				defer f.logic.mu.Unlock()
				return f.logic.failed > 0 && !f.logic.resync
			})
			f.logic.mu.Lock()
			f.logic.fail = nil
			from := len(f.logic.refreshes)
			f.logic.mu.Unlock()
			waitFor(t, "all sessions to be reported", func() bool { return len(f.reported(from)) == sessions })
		})
	}
}

// Symptom: a user whose last session had ended was shown as online for the time
// to live of a location (30 minutes), and got no offline push. Cause: the renewal
// of that session was under way when it ended; it was served behind the
// Disconnect and recorded the session again. A renewal that failed may have been
// served all the same.
func TestRenewalDoesNotBringBackAnEndedSession(t *testing.T) {
	for _, fail := range []error{nil, errors.New("the answer was lost")} {
		t.Run(fmt.Sprint("error ", fail), func(t *testing.T) {
			f := newFixture(t, 2, nil)
			f.connect(f.buckets[0], 1, `{"mid":1}`)
			ended := f.connect(f.buckets[1], 1, `{"mid":2}`)
			f.connect(f.buckets[1], 1, `{"mid":3}`)
			entered, release := make(chan struct{}), make(chan struct{})
			f.logic.mu.Lock()
			f.logic.renewing = func(sessions int) {
				if sessions > 0 {
					entered <- struct{}{}
					<-release
				}
			}
			f.logic.mu.Unlock()
			disconnected := func() []SessionRef {
				f.logic.mu.Lock()
				defer f.logic.mu.Unlock()
				return slices.Clone(f.logic.disconnected)
			}

			done := make(chan struct{})
			go func() {
				f.g.resync()
				close(done)
			}()
			<-entered
			id := ended.session.id
			f.on(ended.bucket, func() { ended.bucket.Close(ended.session, PeerClosed) })
			waitFor(t, "the end of the session to be told", func() bool { return len(disconnected()) == 1 })
			f.logic.mu.Lock()
			f.logic.fail = fail
			f.logic.mu.Unlock()
			close(release)
			<-done
			waitFor(t, "it to be told behind the renewal", func() bool { return len(disconnected()) == 2 })
			for _, b := range f.buckets {
				f.on(b, func() {})
			}
			for _, ref := range disconnected() {
				if ref.Session != id || ref.Mid != 2 {
					t.Errorf("told of the end of %+v, want only session %x", ref, id)
				}
			}
		})
	}
}

// Symptom: a comet with some hundred thousand sessions, and a lease_interval that
// was long beside its renew_period, had no lease: no push reached it. Cause: all
// sessions whose turn it was were in the call that renews the lease, which was
// then above the size limit of a message (16 MiB), or took longer than its
// deadline.
func TestRenewalsAreBounded(t *testing.T) {
	const sessions = 3500
	f := newFixture(t, 1, func(c *Config) { c.LeaseInterval, c.RenewPeriod = time.Second, time.Second })
	f.g.maxSessions = sessions
	b := f.buckets[0]
	f.on(b, func() {
		for i := range sessions {
			c := &testConn{bucket: b}
			c.session = b.Open(c, Stream, netip127())
			c.session.state, c.session.key = live, fmt.Sprint(i)
		}
	})
	waitFor(t, "all sessions to be renewed", func() bool { return len(f.reported(0)) == sessions })
	f.logic.mu.Lock()
	defer f.logic.mu.Unlock()
	for _, r := range f.logic.refreshes {
		if len(r.Sessions) > 1000 {
			t.Errorf("%d sessions in one call", len(r.Sessions))
		}
	}
}

// slowLogic holds a Refresh back and notes the order of what is done.
type slowLogic struct {
	*testLogic
	hold    chan struct{} // nil = not
	entered chan struct{}
	mu      sync.Mutex
	done    []string
}

func (l *slowLogic) note(what string) {
	l.mu.Lock()
	l.done = append(l.done, what)
	l.mu.Unlock()
}

func (l *slowLogic) Refresh(_ context.Context, _ Node, _ Refresh) (RefreshReply, error) {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		select {
		case l.entered <- struct{}{}:
		default:
		}
		<-hold
	}
	l.note("lease")
	return RefreshReply{}, nil
}

func (l *slowLogic) Leave(context.Context, Node) error {
	l.note("leave")
	return nil
}

// Symptom: jobs sent to a comet that had stopped in good order, until its
// lease ended by itself, and waited for it. Cause: a renewal that was under
// way when the comet left brought the lease back.
func TestNoLeaseAfterLeave(t *testing.T) {
	logic := &slowLogic{testLogic: &testLogic{keys: map[string]uint64{}}, entered: make(chan struct{}, 1)}
	cfg := DefaultConfig()
	cfg.LeaseInterval = 100 * time.Millisecond
	g, err := New(cfg, Node{Name: "comet-1", Incarnation: 7}, NodeInfo{}, 10, Deps{
		Logic: logic, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: obs.NewMetrics(), Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	logic.mu.Lock()
	logic.hold = hold
	logic.mu.Unlock()
	<-logic.entered
	closed := make(chan error, 1)
	go func() { closed <- g.Close(context.Background()) }()
	select {
	case err := <-closed:
		t.Fatalf("it did not wait for the renewal (%v)", err)
	case <-time.After(100 * time.Millisecond): // what must not happen has no signal
	}
	close(hold)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if i := slices.Index(logic.done, "leave"); i != len(logic.done)-1 {
		t.Errorf("order of calls: %v", logic.done)
	}
}

// Symptom: with some hundred thousand rooms on a comet, each renewal with room
// counts failed, and the sessions of that renewal with it. Cause: the counts
// were above the size limit of a message.
func TestRoomCountsAreBounded(t *testing.T) {
	counts := map[string]int32{"aaaaaaaa": 1, "bbbbbbbb": 2, "cccccccc": 3, "dddddddd": 100}
	for _, c := range []struct{ most, left int }{{80, 4}, {79, 3}, {59, 2}, {39, 1}, {19, 0}} {
		if counts = fullest(counts, c.most); len(counts) != c.left {
			t.Errorf("%d bytes: %v, want %d rooms", c.most, counts, c.left)
		}
	}
}

// A comet without a lease is not ready: no push would find its clients.
func TestReadyFollowsTheLease(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.LeaseInterval = time.Minute })
	if err := f.g.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	f.advance(4 * time.Minute)
	if err := f.g.Ready(t.Context()); err == nil {
		t.Error("ready, four minutes after the last renewal")
	}
	if _, err := f.g.announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.g.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	f.g.StartDrain(0)
	if err := f.g.Ready(t.Context()); err == nil {
		t.Error("ready while it drains")
	}
}

// wallJump is t with another wall clock and the same monotonic one, as
// time.Now returns it after somebody has set the clock.
func wallJump(t time.Time, by time.Duration) time.Time {
	type layout struct { // of time.Time: the wall seconds stand above 30 bits of nanoseconds
		wall uint64
		ext  int64
		loc  *time.Location
	}
	(*layout)(unsafe.Pointer(&t)).wall += uint64(by/time.Second) << 30
	return t
}

// Symptom: setting the clock of the machine forward closed every session.
// Cause: deadlines were moments of the wall clock (T16).
func TestWallClockJump(t *testing.T) {
	before := time.Now()
	if after := wallJump(before, time.Hour); after.Unix()-before.Unix() != 3600 || after.Sub(before) != 0 {
		t.Fatal("time.Time has another layout: wallJump must follow it")
	}
	// The clock is a real one: the handshake must not end when it is held up.
	f := newFixture(t, 1, func(c *Config) { c.HandshakeTimeout = 5 * time.Minute })
	f.g.clock = time.Now
	f.g.born = before
	c := f.connect(f.buckets[0], 2, `{"key":"k"}`)
	f.on(f.buckets[0], func() { f.g.clock = func() time.Time { return wallJump(time.Now(), time.Hour) } })
	f.g.Tick()
	f.on(f.buckets[0], func() {})
	if c.ended != "" {
		t.Errorf("the session ended: %s", c.ended)
	}
}
