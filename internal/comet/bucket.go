package comet

import (
	"context"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/mailbox"
	"github.com/perseid-im/perseid/pkg/wheel"
)

// Bucket is all that one event loop owns: sessions, rooms and deadlines. Only
// its loop touches it, so nothing in it is locked; others leave commands in
// its mailboxes. There are two, so that a backlog of pushes cannot hold up
// the answers that handshakes wait for.
type Bucket struct {
	gateway *Gateway
	loop    Loop
	pages   Pages // nil: there are none
	index   uint8

	pushes    *mailbox.Mailbox[*bucketBatch]
	control   *mailbox.Mailbox[func(*Bucket)]
	scheduled atomic.Bool // a turn is on its way to the loop
	ticked    atomic.Bool
	again     chan struct{} // asks for another turn after the loop has looked at its sockets
	napping   atomic.Bool
	roused    chan struct{} // ends a nap

	slots    []slot
	free     []uint32 // slots without a session
	rooms    map[string]*Room
	wheel    *wheel.Wheel[*Session]
	fresh    roomQueue    // rooms that got a push while they had none, not served yet
	walking  roomQueue    // other rooms with pushes, served in turn
	resting  restingRooms // those whose walk has to wait
	ahead    int          // writes that fresh rooms got before those in turn
	alarm    *time.Timer  // wakes the loop for the first of those that rest
	alls     []*allWalk
	backlog  int  // bytes of pushes to rooms, and of pushes to all that are not paced
	paced    int  // bytes of pushes to all that are, or wait behind one that is
	gather   bool // several rooms are walked: a member of two gets one write, but for large runs
	dirty    []*Session
	sent     []*packets // free again after the flush
	spare    []*packets
	buffers  [][]byte
	batches  []*bucketBatch
	calls    []func(*Bucket)
	renew    uint32   // next slot to renew the location of
	keyless  []uint64 // sessions to renew before: their keys are free again
	topsNext int      // next slot to ask the tops for
	nowMS    int64
	activeMS int64 // when a push was last under way, or a client connected or sent more than a heartbeat
	napAsked bool  // a nap is on its way to the loop
	napEnd   *time.Timer
	allTop   timeline.Position // of the timeline of pushes to all
}

type slot struct {
	s   *Session
	gen uint32
}

// Bounds of one turn. A turn that has more to do asks for another one, and
// the loop looks at its sockets in between.
const (
	turnCalls   = 512
	turnBatches = 64
	turnUnits   = 4096 // pushes to rooms and to all, and sessions of the others; the batch that reaches it is taken whole
	walkShare   = 64   // writes for one room before the next room has its turn
)

const (
	wheelTickMS = 100
	wheelSlots  = 512
	lingerMS    = 2000 // for the peer to answer a close
)

// NewBucket makes the bucket of a loop. It must be called before the loop's
// first connection is opened; there are at most MaxLoops.
func (g *Gateway) NewBucket(loop Loop) (*Bucket, error) {
	b := &Bucket{
		gateway: g,
		loop:    loop,
		pages:   loop.Pages(),
		again:   make(chan struct{}, 1),
		roused:  make(chan struct{}, 1),
		napEnd:  time.NewTimer(time.Hour),
		rooms:   map[string]*Room{},
		nowMS:   g.nowMS(),
	}
	b.alarm = time.AfterFunc(time.Hour, b.askAgain)
	b.alarm.Stop()
	b.napEnd.Stop()
	b.activeMS = b.nowMS
	b.wheel = wheel.New[*Session](wheelTickMS, wheelSlots, b.nowMS)
	var err error
	if b.pushes, err = mailbox.New[*bucketBatch](4096, g.cfg.BacklogBytes, b.wake); err != nil {
		return nil, err
	}
	// The control mailbox is bounded by what it answers: one call per session
	// and a few per tick.
	if b.control, err = mailbox.New[func(*Bucket)](1, 1, b.wake); err != nil {
		return nil, err
	}
	if err := g.addBucket(b); err != nil {
		return nil, err
	}
	g.running.Go(b.yield)
	return b, nil
}

// wake asks the loop for a turn; calls before that turn has begun are one.
func (b *Bucket) wake() {
	if !b.scheduled.CompareAndSwap(false, true) {
		return
	}
	if !b.napping.Load() {
		b.loop.Execute(b.turn)
		return
	}
	select {
	case b.roused <- struct{}{}:
	default:
	}
}

// yield turns "again" into a wake-up from outside the loop. A task that a
// loop gives itself runs before the loop looks at its sockets, so a long
// broadcast would starve reads and accepts.
func (b *Bucket) yield() {
	for {
		select {
		case <-b.again:
			b.wake()
		case <-b.gateway.stopped:
			return
		}
	}
}

// post runs fn on the loop, after what was posted before.
func (b *Bucket) post(fn func(*Bucket)) {
	_ = b.control.Force(fn) // refused only after Close, when no session is left
}

// turn does what waits, in bounded steps.
func (b *Bucket) turn() {
	b.scheduled.Store(false)
	ticked := b.ticked.Swap(false) // before the clock is read: a tick is not answered with a time before it
	b.nowMS = b.gateway.nowMS()
	more := false

	b.calls, more = b.control.Drain(b.calls[:0], turnCalls)
	for i, fn := range b.calls {
		b.protect(nil, func() { fn(b) })
		b.calls[i] = nil
	}
	if ticked {
		b.wheel.Advance(b.nowMS, func(s *Session) { b.protect(s, func() { b.deadline(s) }) })
		b.paceAlls()
	}
	behind := b.backlog >= b.gateway.cfg.BacklogBytes
	b.batches = b.batches[:0]
	if !behind {
		left := true
		for units := 0; left && len(b.batches) < turnBatches && units < turnUnits; {
			n := len(b.batches)
			if b.batches, left = b.pushes.Drain(b.batches, 1); len(b.batches) == n {
				break
			}
			batch := b.batches[n]
			units += len(batch.units)
			b.protect(nil, func() { b.apply(batch) })
		}
		more = more || left
	}
	if len(b.batches)+b.fresh.len()+b.walking.len()+len(b.resting)+len(b.alls) > 0 {
		b.activeMS = b.nowMS
	}
	if b.walkAll() {
		more = true
	}
	b.flush()
	for i, batch := range b.batches {
		batch.d.release()
		b.batches[i] = nil
	}
	// The mailbox wakes nobody until it was drained empty.
	if behind && b.backlog < b.gateway.cfg.BacklogBytes {
		more = true
	}
	if more {
		b.loop.Yield()
		b.askAgain()
	}
}

// askAgain asks for another turn, through yield: not from a timer's goroutine,
// which may run when the loop has ended.
func (b *Bucket) askAgain() {
	select {
	case b.again <- struct{}{}:
	default:
	}
}

// walkAll gives rooms with pushes their shares of the turn's writes. Fresh ones
// are served before those in turn, so a small room has its push in this turn,
// whatever the round of a big one takes. They may get ahead by a share, so those
// in turn go on however many fresh ones there are.
func (b *Bucket) walkAll() (more bool) {
	budget := b.gateway.cfg.TurnWrites
	share := min(budget, walkShare)
	now := time.Now()
	b.rouse(now)
	b.gather = b.fresh.len()+b.walking.len() > 1
	for budget > 0 && b.fresh.len()+b.walking.len() > 0 {
		fresh := b.fresh.len() > 0 &&
			(b.ahead == 0 || b.ahead+len(b.fresh.first().members) <= share || b.walking.len() == 0)
		from := &b.walking
		if fresh {
			from = &b.fresh
		}
		r := from.pop()
		if rest := r.resting(now); rest > 0 {
			b.rest(r, now, rest)
			continue
		}
		n, whole := 0, false
		b.protect(nil, func() { n, whole = b.walk(r, min(budget, share), now), true })
		if !whole {
			b.abandon(r)
		}
		now = time.Now()
		n = max(n, 1)
		budget -= n
		switch {
		case !fresh:
			b.ahead = max(0, b.ahead-n)
		case b.walking.len() > 0:
			b.ahead += n
		}
		if r.busy() {
			b.walking.push(r)
		} else {
			r.listed = false
		}
	}
	more = b.fresh.len()+b.walking.len() > 0
	if !more && len(b.resting) > 0 {
		b.alarm.Reset(b.resting[0].wakes.Sub(now))
	}
	whole := false
	b.protect(nil, func() { b.walkAlls(max(budget, b.gateway.cfg.TurnWrites/2)); whole = true })
	if !whole {
		b.abandonAll()
	}
	return more || b.allsReady()
}

// Protect runs a handler of a session: a panic in it closes that session, not
// the process.
func (b *Bucket) Protect(s *Session, fn func()) { b.protect(s, fn) }

func (b *Bucket) protect(s *Session, fn func()) {
	defer func() {
		if r := recover(); r != nil {
			b.gateway.stats.panicked()
			b.gateway.log.Error("panic on an event loop", "panic", r, "stack", string(debug.Stack()))
			if s != nil && s.state != closed {
				b.Close(s, Internal)
			}
		}
	}()
	fn()
}

// Open starts the session of a new connection. It returns nil when the node
// is full or draining: the caller closes the connection.
func (b *Bucket) Open(conn Conn, framing Framing, ip netip.Addr) *Session {
	g := b.gateway
	if !g.admit(ip) {
		return nil
	}
	var at uint32
	if n := len(b.free); n > 0 {
		at = b.free[n-1]
		b.free = b.free[:n-1]
	} else {
		at = uint32(len(b.slots))
		b.slots = append(b.slots, slot{})
	}
	sl := &b.slots[at]
	sl.gen = (sl.gen + 1) & genMask
	if sl.gen == 0 {
		sl.gen = 1
	}
	s := &Session{conn: conn, bucket: b, id: sessionID(b.index, sl.gen, at), framing: framing, ip: ip}
	s.timer.Value = s
	sl.s = s
	b.nowMS = g.nowMS()
	b.activeMS = b.nowMS
	s.deadlineMS = b.nowMS + g.cfg.HandshakeTimeout.Milliseconds()
	b.wheel.Set(&s.timer, s.deadlineMS)
	g.stats.opened(framing)
	return s
}

// find returns the session with this id, or nil.
func (b *Bucket) find(id uint64) *Session {
	_, gen, at := splitID(id)
	if int(at) >= len(b.slots) || b.slots[at].gen != gen {
		return nil
	}
	return b.slots[at].s
}

// Close ends a session for a reason; version 2 clients and WebSockets are told.
func (b *Bucket) Close(s *Session, why Reason) {
	b.close(s, why, why.Code(), why.String())
}

// close is Close with what the WebSocket close frame says.
func (b *Bucket) close(s *Session, why Reason, code uint16, text string) {
	if s.state == closed {
		return
	}
	if why == SlowConsumer {
		b.end(s, why)
		s.conn.Reset()
		return
	}
	if s.state == confirming {
		s.out.buf = s.out.buf[:0] // pushes that were to follow the auth reply
	}
	b.bye(s, why, code, text)
	b.flushOne(s)
	if s.state == closed { // the write failed and closed it
		return
	}
	b.end(s, why)
	s.conn.Close()
}

// Closed tells the bucket that a connection is gone. The transport calls it
// once for every session it opened, also when the bucket closed it. Until then
// the connection counts: it holds a file descriptor.
func (b *Bucket) Closed(s *Session) {
	if s.state != closed {
		b.end(s, PeerClosed)
	}
	b.wheel.Stop(&s.timer)
	b.gateway.gone(s.ip)
}

// Linger resets a connection whose session has ended, if the peer has not
// ended it by then.
func (b *Bucket) Linger(s *Session) { b.wheel.Set(&s.timer, b.nowMS+lingerMS) }

// end takes a session out of everything.
func (b *Bucket) end(s *Session, why Reason) {
	was := s.state
	s.state = closed
	g := b.gateway
	g.stats.closed(why)
	b.wheel.Stop(&s.timer)
	b.leaveAll(s)
	for range min(len(s.held), maxHeld) {
		g.stats.missed()
	}
	s.held = nil
	if !s.out.dirty {
		b.giveBuffer(s.out.buf)
		s.out.buf, s.out.shared = nil, nil
	}
	_, _, at := splitID(s.id)
	b.slots[at].s = nil
	b.free = append(b.free, at)
	// While logic is asked nobody knows what it will answer: the reply finds
	// no session and takes the location back.
	if was == live || was == confirming {
		g.disconnects.add(ended{SessionRef: s.ref()})
	}
}

// Flush writes what the handlers of this read event have answered.
func (b *Bucket) Flush() {
	b.flush()
	b.askNap()
}

// deadline is called when a session's timer fires.
func (b *Bucket) deadline(s *Session) {
	if s.state == closed {
		s.conn.Reset()
		return
	}
	if s.deadlineMS > b.nowMS { // moved since by a heartbeat
		b.wheel.Set(&s.timer, s.deadlineMS)
		return
	}
	if s.state == live {
		b.Close(s, HeartbeatTimeout)
		return
	}
	b.Close(s, HandshakeTimeout)
}

// tick is called by the gateway about every 100 ms.
func (b *Bucket) tick() {
	b.ticked.Store(true)
	b.wake()
}

// call runs fn on the loop and waits for its end.
func (b *Bucket) call(ctx context.Context, fn func(*Bucket)) error {
	done := make(chan struct{})
	b.post(func(b *Bucket) {
		defer close(done)
		fn(b)
	})
	select {
	case <-done:
		return nil
	case <-b.gateway.leaving: // the edge is closed: no loop answers any more
		return context.Canceled
	case <-ctx.Done():
		return ctx.Err()
	}
}

// renewals returns the next n live sessions in slot order, behind those that
// lack their keys.
func (b *Bucket) renewals(n int) []SessionRef {
	var refs []SessionRef
	for _, id := range b.keyless {
		if s := b.find(id); s != nil && s.recorded() {
			refs = append(refs, s.ref())
		}
	}
	b.keyless = nil
	n += len(refs)
	for range b.slots {
		if len(refs) >= n {
			break
		}
		if int(b.renew) >= len(b.slots) {
			b.renew = 0
		}
		if s := b.slots[b.renew].s; s != nil && s.recorded() {
			refs = append(refs, s.ref())
		}
		b.renew++
	}
	return refs
}

// closeSome closes the share of the sessions that one of the steps left has,
// from the end of the table. It rounds up: the last step closes what is left.
func (b *Bucket) closeSome(steps int, why Reason) {
	n := (len(b.slots) - len(b.free) + steps - 1) / steps
	for i := len(b.slots) - 1; i >= 0 && n > 0; i-- {
		if s := b.slots[i].s; s != nil {
			n--
			b.protect(nil, func() { b.Close(s, why) })
		}
	}
}

func millis(d time.Duration) int64 { return d.Milliseconds() }
