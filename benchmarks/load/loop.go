package load

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readBufferBytes = 1 << 20
	// roundChunk is how many connections are drained before the timed ones are
	// looked at again: it bounds what draining adds to a measured latency.
	roundChunk = 16
	dialChunk  = 64
	maxEvents  = 512
	// slowTick is how often slow readers read.
	slowTick = 100 * time.Millisecond
)

// loop owns a part of the connections.
type loop struct {
	cfg      *Config
	clock    Clock
	servers  []netip.AddrPort
	epoll    int
	buf      []byte
	scratch  []byte
	out      []byte
	events   []unix.EpollEvent
	conns    []conn
	eat      consumer
	commands chan func()
	stopped  bool
	ended    chan struct{} // closed when run returns

	reads, bytes, beats uint64
	auth                Hist
	lastAuth            int64
	failures            map[string]int
	drainMax            time.Duration

	ramp      Ramp
	rampBegan int64
	dialled   float64 // since rampBegan
	toOpen    []int32
	inFlight  int

	bulk, slow rounds
	beatRounds rounds
	churn      churning
	account    []Expect // of the latest tally
	lastCheck  int64
}

// rounds goes round a list of connections once per period.
type rounds struct {
	list   []int32
	cursor int
	credit float64
	last   int64 // when credit was last added
	began  int64 // of this round
}

// due says how many connections are to be visited now, and drops the credit
// that a busy loop cannot use.
func (r *rounds) due(now int64, period time.Duration) int {
	if len(r.list) == 0 || period <= 0 {
		r.last = now
		return 0
	}
	if r.last == 0 {
		r.last, r.began = now, now
	}
	r.credit += float64(now-r.last) / float64(period) * float64(len(r.list))
	r.last = now
	r.credit = min(r.credit, float64(len(r.list)))
	return int(r.credit)
}

// next is the next connection; wrapped says that a round ended before it.
func (r *rounds) next() (ci int32, wrapped bool) {
	if r.cursor >= len(r.list) {
		r.cursor, wrapped = 0, true
	}
	ci = r.list[r.cursor]
	r.cursor++
	r.credit--
	return ci, wrapped
}

func newLoop(cfg *Config, clock Clock, index int) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("load: epoll: %w", err)
	}
	l := &loop{
		cfg: cfg, clock: clock, epoll: epoll, commands: make(chan func(), 16), ended: make(chan struct{}),
		buf: make([]byte, readBufferBytes), events: make([]unix.EpollEvent, maxEvents), failures: map[string]int{},
	}
	for _, s := range cfg.Servers {
		l.servers = append(l.servers, netip.MustParseAddrPort(s))
	}
	l.eat = consumer{streams: cfg.Streams, classes: make([]ClassStats, len(cfg.Classes)), samples: make([]samples, len(cfg.Classes)), onAuth: l.onAuth}
	number := 0
	for k := range cfg.Classes {
		class := &cfg.Classes[k]
		l.eat.classes[k].Name = class.Name
		for i := range class.Conns {
			number++
			mine := (number - 1) % (cfg.Parts * cfg.Loops)
			if mine != cfg.Part*cfg.Loops+index {
				continue
			}
			c := conn{fd: -1, number: int32(i), class: uint8(k), room: -1, timed: class.isTimed(i)}
			if class.Rooms > 0 {
				c.room = int32(i % class.Rooms)
			}
			switch {
			case class.BytesPerSecond < 0:
				c.mode, c.timed = readNever, false
			case class.BytesPerSecond > 0:
				c.mode, c.timed = readSlowly, false
			case !c.timed:
				c.mode = readBulk
			}
			l.conns = append(l.conns, c)
			l.eat.classes[k].Conns++
		}
	}
	l.eat.next = make([]uint32, len(l.conns)*cfg.Streams)
	return l, nil
}

// do runs f on the loop and waits for it; a loop that has ended does nothing.
func (l *loop) do(f func()) {
	done := make(chan struct{})
	select {
	case l.commands <- func() { f(); close(done) }:
	case <-l.ended:
		return
	}
	select {
	case <-done:
	case <-l.ended:
	}
}

// run is the loop. It ends by a command that sets stopped.
func (l *loop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(l.ended)
	for !l.stopped {
		wait := l.work()
		l.poll(wait)
	}
	for i := range l.conns {
		l.shut(&l.conns[i])
	}
	_ = unix.Close(l.epoll)
}

// work does what time asks for and returns how long the loop may wait, in
// milliseconds.
func (l *loop) work() int {
	for {
		select {
		case f := <-l.commands:
			f()
			if l.stopped {
				return 0
			}
			continue
		default:
		}
		break
	}
	now := l.clock.Now()
	busy := l.open(now)
	busy = l.drain(now) || busy
	l.readSlow(now)
	l.heartbeat(now)
	l.churnSome(now)
	if now-l.lastCheck > int64(100*time.Millisecond) {
		l.lastCheck = now
		l.timeOut(now)
	}
	switch {
	case busy:
		return 0
	case len(l.bulk.list) > 0 || len(l.toOpen) > 0 || l.churn.perSecond > 0:
		return 1
	}
	return 10
}

// poll handles what came on connections that are in epoll.
func (l *loop) poll(waitMS int) {
	n, err := unix.EpollWait(l.epoll, l.events, waitMS)
	if err != nil {
		return // EINTR; anything else shows as connections that time out
	}
	for i := range l.events[:n] {
		e := &l.events[i]
		if c := &l.conns[e.Fd]; c.fd >= 0 && c.gen == e.Pad {
			l.ready(c, int(e.Fd), e.Events)
		}
	}
}

func (l *loop) watch(c *conn, ci int, op int, events uint32) {
	e := unix.EpollEvent{Events: events, Fd: int32(ci), Pad: c.gen}
	if err := unix.EpollCtl(l.epoll, op, int(c.fd), &e); err != nil {
		l.fail(c, "epoll: "+err.Error())
	}
}

// ready handles an event of a connection.
func (l *loop) ready(c *conn, ci int, events uint32) {
	if c.state == stateDialing {
		l.greet(c, ci, true)
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0 {
		l.read(c, ci, 0)
	}
}

// read takes what is there, at most budget bytes if that is not 0. It returns
// how much it was.
func (l *loop) read(c *conn, ci int, budget int) int {
	total := 0
	for c.fd >= 0 {
		have := copy(l.buf, c.rest)
		limit := len(l.buf)
		if budget > 0 {
			limit = min(limit, have+budget-total)
		}
		if limit == have {
			return total
		}
		n, errno := readFD(c.fd, l.buf[have:limit])
		switch {
		case errno == unix.EAGAIN:
			return total
		case errno != 0:
			l.lost(c, errno.Error())
			return total
		case n == 0:
			l.lost(c, "closed by the server")
			return total
		}
		total += n
		l.reads++
		l.bytes += uint64(n)
		l.input(c, ci, l.buf[:have+n])
		if have+n < limit { // there was no more
			return total
		}
	}
	return total
}

// input consumes b and keeps what is not whole.
func (l *loop) input(c *conn, ci int, b []byte) {
	now := int64(0)
	if c.timed {
		now = l.clock.Now()
	}
	used, err := 0, error(nil)
	switch {
	case c.state == stateUpgrading:
		used, err = l.upgraded(c, b)
	case l.cfg.WebSocket:
		for {
			var n int
			n, err = l.eat.consumeWS(c, ci, b[used:], now)
			used += n
			var ping errPing
			if !errors.As(err, &ping) {
				break
			}
			l.scratch = appendMasked(l.scratch[:0], 0xA, ping)
			_, _ = writeFD(c.fd, l.scratch)
		}
	default:
		used, err = l.eat.consume(c, ci, b, now)
	}
	if err != nil {
		var code errClosing
		if errors.As(err, &code) {
			st := &l.eat.classes[c.class]
			st.Codes = addCounts(st.Codes, map[uint16]int{uint16(code): 1})
		}
		l.lost(c, err.Error())
		return
	}
	rest := b[used:]
	switch {
	case len(rest) > 0:
		c.rest = append(c.rest[:0], rest...)
	case cap(c.rest) > 4096:
		c.rest = nil
	default:
		c.rest = c.rest[:0]
	}
}

// shut closes the descriptor.
func (l *loop) shut(c *conn) {
	if c.fd >= 0 {
		_ = unix.Close(int(c.fd))
		c.fd = -1
		c.gen++
		c.rest, c.wsLeft = nil, 0
	}
}

// lost is the end of a connection that was not asked for.
func (l *loop) lost(c *conn, why string) {
	if c.state != stateReady {
		l.fail(c, why)
		return
	}
	l.shut(c)
	c.state = stateClosed
	st := &l.eat.classes[c.class]
	st.ClosedByServer++
	st.Ready--
}

// fail is a connection that does not get ready.
func (l *loop) fail(c *conn, why string) {
	if c.state == stateDialing || c.state == stateUpgrading || c.state == stateAuth {
		l.inFlight--
	}
	l.shut(c)
	c.state = stateFailed
	l.failures[why]++
}
