package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Fleet is the connections of one process.
type Fleet struct {
	cfg     Config
	loops   []*loop
	running sync.WaitGroup
	close   sync.Once
}

// NewFleet starts the loops; no connection is opened yet.
func NewFleet(cfg Config) (*Fleet, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := cfg.fits(); err != nil {
		return nil, err
	}
	clock := NewClock()
	f := &Fleet{cfg: cfg}
	for i := range cfg.Loops {
		l, err := newLoop(&f.cfg, clock, i)
		if err != nil {
			for _, made := range f.loops {
				_ = unix.Close(made.epoll)
			}
			return nil, err
		}
		l.plan()
		f.loops = append(f.loops, l)
	}
	for _, l := range f.loops {
		f.running.Go(l.run)
	}
	return f, nil
}

// each runs f on every loop in turn.
func (f *Fleet) each(do func(l *loop)) {
	for _, l := range f.loops {
		l.do(func() { do(l) })
	}
}

// Open begins to open all connections that are not open; Stats tell how far
// it is.
func (f *Fleet) Open(r Ramp) error {
	if r.InFlight < 1 {
		return errors.New("load: no connection may be in flight")
	}
	share := Ramp{InFlight: max(1, r.InFlight/len(f.loops)), PerSecond: r.PerSecond / float64(f.cfg.Parts*len(f.loops))}
	f.each(func(l *loop) {
		l.ramp, l.rampBegan, l.dialled = share, l.clock.Now(), 0
		for i := range l.conns {
			if c := &l.conns[i]; c.state == stateIdle || c.state == stateFailed || c.state == stateClosed {
				c.state = stateIdle
				l.toOpen = append(l.toOpen, int32(i))
			}
		}
	})
	return nil
}

// Begin opens the account of a step: counts start from zero, and messages that
// were due before count as late.
func (f *Fleet) Begin(beginNS int64) {
	f.each(func(l *loop) {
		l.eat.begun, l.eat.inStep = beginNS, true
		l.reads, l.bytes, l.beats, l.eat.echoes, l.drainMax = 0, 0, 0, 0, 0
		l.bulk.began = l.clock.Now()
		for i := range l.eat.classes {
			st := &l.eat.classes[i]
			st.Latency.Reset()
			l.eat.samples[i].reset()
			*st = ClassStats{Name: st.Name, Conns: st.Conns, Ready: st.Ready, Latency: st.Latency}
		}
	})
}

// Stats is a copy of all counts.
func (f *Fleet) Stats() Stats {
	var all Stats
	f.each(func(l *loop) {
		one := Stats{
			Bytes: l.bytes, Reads: l.reads, Heartbeats: l.beats, HeartbeatEchoes: l.eat.echoes,
			Auth: l.auth.Clone(), LastAuthNS: l.lastAuth, Failures: addCounts(nil, l.failures), Pending: len(l.toOpen) + l.inFlight,
			LoopCPU: []time.Duration{time.Duration(threadCPU())}, DrainMax: l.drainMax, AtNS: l.clock.Now(),
		}
		for i := range l.eat.classes {
			st := l.eat.classes[i]
			st.Latency = st.Latency.Clone()
			st.Codes = addCounts(nil, st.Codes)
			one.Classes = append(one.Classes, st)
		}
		all.merge(&one)
	})
	user, sys := processCPU()
	all.ProcessCPU = time.Duration(user + sys)
	return all
}

// Outside is the latency of each class without the messages that were due in
// one of its spans, which are as Widened makes them.
func (f *Fleet) Outside(spans [][]Span) []Remainder {
	all := make([]Remainder, len(f.cfg.Classes))
	f.each(func(l *loop) {
		for i := range all {
			l.eat.samples[i].outside(spans[i], &all[i])
		}
	})
	return all
}

// Tally closes the account of a step.
func (f *Fleet) Tally(expected []Expect) { f.each(func(l *loop) { l.tally(expected) }) }

// Churn closes and opens connections of a class, perSecond over all processes;
// 0 ends it.
func (f *Fleet) Churn(class int, perSecond float64) {
	f.each(func(l *loop) {
		l.churn = churning{perSecond: perSecond / float64(f.cfg.Parts*len(f.loops)), class: class, began: l.clock.Now()}
		l.ramp.PerSecond = 0
		for i := range l.conns {
			if int(l.conns[i].class) == class {
				l.churn.list = append(l.churn.list, int32(i))
			}
		}
	})
}

// releasedBuffer replaces a small receive buffer, so that reading on is quick.
const releasedBuffer = 1 << 20

// Release lets the connections of a class read all there is, from now on.
func (f *Fleet) Release(class int) {
	f.each(func(l *loop) {
		for i := range l.conns {
			c := &l.conns[i]
			if int(c.class) != class || c.mode == readAtOnce {
				continue
			}
			c.mode = readAtOnce
			if c.state == stateReady {
				_ = unix.SetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_RCVBUF, releasedBuffer)
				l.watch(c, i, unix.EPOLL_CTL_ADD, unix.EPOLLIN)
			}
		}
		l.plan()
	})
}

// Close ends all connections and loops.
func (f *Fleet) Close() error {
	f.close.Do(func() {
		for _, l := range f.loops {
			l.do(func() { l.stopped = true })
		}
		f.running.Wait()
	})
	return nil
}

// Await waits until ok of the stats, asked every period.
func Await(ctx context.Context, period time.Duration, stats func() (Stats, error), ok func(*Stats) bool) (Stats, error) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		s, err := stats()
		if err != nil || ok(&s) {
			return s, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, fmt.Errorf("load: gave up waiting: %w", context.Cause(ctx))
		}
	}
}
