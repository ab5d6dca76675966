package comet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Outcome of one push for one session.
type Outcome uint8

const (
	NotHere   Outcome = iota // no such session (any more)
	Delivered                // in its outbox
	Filtered                 // the session does not accept the op
	Slow                     // its outbox is full: dropped, or closed as slow consumer
	Repeat                   // applied before
	Conflated                // a later push with the same conflation key took its place
	Canceled                 // a push to all was canceled before its turn
)

// Lane names one ordered stream of pushes: a share of the timelines of a log.
type Lane struct {
	Log   string
	Lane  uint32
	Lanes uint32
}

// Push is one message for some targets on this comet; exactly one of
// Sessions, Room and All is set. Partition and Offset are its place in the
// log.
type Push struct {
	Partition int32
	Offset    int64
	Op        wire.Op
	Body      []byte
	Class     Class  // for a room
	Conflate  string // for a room: of the pushes with one key that wait, only the latest is delivered; "" = none
	Sessions  []uint64
	Room      string
	All       bool
	Speed     uint32 // sessions per second of All; 0 = no limit
	// Positions are those of a stored message: one for Room or All, or one per
	// user. PositionOf is parallel to Sessions; nil = all have the first.
	Positions  []wire.Position
	PositionOf []uint32
	Comets     uint32 // comets that share All; 0 = not told
	ID         message.ID
}

// PushResult counts the outcomes of a push. Sessions is parallel to
// Push.Sessions.
type PushResult struct {
	Counts
	Sessions []Outcome
	Repeat   bool
}

// Counts is a number of sessions by outcome.
type Counts struct {
	Delivered, NotHere, Filtered, Slow, Conflated, Canceled uint32
}

// Delivery is a batch of pushes on its way to the sessions. Done is closed
// when every push has an outcome for every target; then Results may be read.
type Delivery struct {
	Pushes  []Push
	Results []PushResult
	done    chan struct{}
	pending atomic.Int32
}

// Done is closed when the results are complete.
func (d *Delivery) Done() <-chan struct{} { return d.done }

func (d *Delivery) hold() { d.pending.Add(1) }

func (d *Delivery) release() {
	if d.pending.Add(-1) > 0 {
		return
	}
	for i := range d.Results {
		r := &d.Results[i]
		for _, o := range r.Sessions {
			switch o {
			case Delivered:
				r.Delivered++
			case Filtered:
				r.Filtered++
			case Slow:
				r.Slow++
			case NotHere:
				r.NotHere++
			}
		}
	}
	close(d.done)
}

func (d *Delivery) count(i int, c Counts) {
	r := &d.Results[i]
	atomic.AddUint32(&r.Delivered, c.Delivered)
	atomic.AddUint32(&r.NotHere, c.NotHere)
	atomic.AddUint32(&r.Filtered, c.Filtered)
	atomic.AddUint32(&r.Slow, c.Slow)
	atomic.AddUint32(&r.Conflated, c.Conflated)
	atomic.AddUint32(&r.Canceled, c.Canceled)
}

// pushRef is one push of a delivery that waits for its end.
type pushRef struct {
	d     *Delivery
	index int
}

func (r *pushRef) push() *Push { return &r.d.Pushes[r.index] }

// bucketBatch is the share that one bucket has in a delivery.
type bucketBatch struct {
	d     *Delivery
	units []unit
}

// unit is one session of a push, or with target -1 a push to a room or all.
type unit struct {
	push   int32
	target int32
}

// ErrStopped is the answer to pushes after the gateway was closed.
var ErrStopped = errors.New("comet: stopped")

// guard remembers how far each lane of each partition was applied, so that
// what a job sends again after a broken stream, a crash or a rebalance is not
// delivered twice. It is one small entry per (log, lane, loop, partition): by
// loop, because a Dispatch that is given up has reached some loops and not
// others, and what is sent again then goes to the others only.
type guard struct {
	mu    sync.Mutex
	lanes map[Lane]*laneGuard
}

type laneGuard struct {
	entry   chan struct{} // holds a token while a batch enters the mailboxes: keeps their order
	applied map[place]int64
}

// place is a partition as one loop sees it.
type place struct {
	loop      int
	partition int32
}

func (g *guard) lane(l Lane) *laneGuard {
	g.mu.Lock()
	defer g.mu.Unlock()
	lg := g.lanes[l]
	if lg == nil {
		lg = &laneGuard{entry: make(chan struct{}, 1), applied: map[place]int64{}}
		g.lanes[l] = lg
	}
	return lg
}

// unitBytes is about what a target takes while it waits: its unit, the id of
// its session and the outcome, in slices that have grown.
const unitBytes = 24

// Dispatch hands pushes of one lane to the loops and returns at once when
// their mailboxes have room; a full mailbox makes it wait, which is what
// slows the job down. Batches of one lane are applied in the order of the
// calls. When ctx ends first, some loops may have got the batch: the same
// pushes may be dispatched again and reach every target once.
func (g *Gateway) Dispatch(ctx context.Context, lane Lane, pushes []Push) (*Delivery, error) {
	d := &Delivery{Pushes: pushes, Results: make([]PushResult, len(pushes)), done: make(chan struct{})}
	buckets := *g.buckets.Load()
	batches := make([]bucketBatch, len(buckets))
	sizes := make([]int, len(buckets))

	lg := g.guard.lane(lane)
	select {
	case lg.entry <- struct{}{}:
		defer func() { <-lg.entry }()
	case <-ctx.Done():
		return nil, fmt.Errorf("comet: dispatch: %w", ctx.Err())
	case <-g.stopped:
		return nil, ErrStopped
	}
	applied := func(loop int, p *Push) bool {
		last, ok := lg.applied[place{loop, p.Partition}]
		return ok && p.Offset <= last
	}
	for i := range pushes {
		p, r := &pushes[i], &d.Results[i]
		if len(p.Sessions) > 0 {
			r.Sessions = make([]Outcome, len(p.Sessions))
		}
		fresh, repeats := 0, 0
		if len(p.Sessions) == 0 {
			for at := range batches {
				if applied(at, p) {
					repeats++
					continue
				}
				fresh++
				batches[at].units = append(batches[at].units, unit{int32(i), -1})
				sizes[at] += len(p.Body) + wire.HeaderLen + unitBytes
			}
		}
		for t, id := range p.Sessions {
			loop, _, _ := splitID(id)
			switch {
			case int(loop) >= len(batches): // NotHere
			case applied(int(loop), p):
				repeats++
				r.Sessions[t] = Repeat
			default:
				fresh++
				units := batches[loop].units
				if len(units) == 0 || units[len(units)-1].push != int32(i) {
					sizes[loop] += len(p.Body) + wire.HeaderLen
				}
				sizes[loop] += unitBytes
				batches[loop].units = append(units, unit{int32(i), int32(t)})
			}
		}
		r.Repeat = repeats > 0 && fresh == 0
		if fresh > 0 && p.tracked() {
			g.broadcasts.expect(p, fresh)
		}
	}
	// Put ends with the stream or with the comet, whichever is first.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.life, cancel)()
	d.hold() // this call's own, so that Done cannot come before the last Put
	defer d.release()
	handed := 0
	defer func() { g.broadcasts.forgo(pushes, batches[handed:]) }()
	for at := range batches {
		handed = at
		if len(batches[at].units) == 0 {
			continue
		}
		batches[at].d = d
		d.hold()
		if err := buckets[at].pushes.Put(ctx, &batches[at], sizes[at]); err != nil {
			d.release()
			if g.life.Err() != nil {
				return nil, ErrStopped
			}
			return nil, fmt.Errorf("comet: dispatch: %w", err)
		}
		last := int32(-1)
		for _, u := range batches[at].units {
			if p := &pushes[u.push]; u.push != last {
				lg.applied[place{at, p.Partition}] = p.Offset
				last = u.push
			}
		}
	}
	handed = len(batches)
	return d, nil
}

// apply does a bucket's share of a delivery.
func (b *Bucket) apply(batch *bucketBatch) {
	d := batch.d
	run, current, of := (*packets)(nil), int32(-1), (*wire.Position)(nil)
	for _, u := range batch.units {
		p := &d.Pushes[u.push]
		switch {
		case u.target >= 0:
			if pos := p.position(int(u.target)); u.push != current || pos != of {
				run, current, of = b.takePackets(), u.push, pos
				run.add(p.Op, p.Body, pos)
				b.sent = append(b.sent, run)
			}
			d.Results[u.push].Sessions[u.target] = b.unicast(p, of, p.Sessions[u.target], run)
		case p.All:
			b.pushAll(d, int(u.push))
		default:
			if r := b.rooms[p.Room]; r != nil {
				b.pushRoom(r, d, int(u.push))
			}
		}
	}
}

func (b *Bucket) unicast(p *Push, pos *wire.Position, id uint64, run *packets) Outcome {
	s := b.find(id)
	if s == nil {
		b.gateway.stats.missed()
		return NotHere
	}
	if s.state == connecting {
		// Its ops are not known before logic's answer; it is about to come.
		return b.hold(p, pos, s)
	}
	if !s.takes(p.Op, pos != nil) {
		b.gateway.stats.filtered()
		return Filtered
	}
	if pos != nil && s.tops != nil {
		raise(&s.tops.inbox, at(pos))
	}
	o := b.push(s, run.encoded(s.form()))
	b.gateway.stats.outcome(o)
	if o == Slow && pos != nil {
		b.hint(s, message.Inbox(s.mid), at(pos))
	}
	return o
}

// hold keeps a push for a session whose auth is under way. Sessions connect
// with what they accept in the auth packet, so the op is checked when it has
// been answered; what becomes of it is counted then.
func (b *Bucket) hold(p *Push, pos *wire.Position, s *Session) Outcome {
	if len(s.held) >= maxHeld {
		if pos != nil { // what is above maxHeld is only the newest position
			s.held = append(s.held[:maxHeld], heldPush{at: pos})
		}
		b.gateway.stats.outcome(Slow)
		return Slow
	}
	s.held = append(s.held, heldPush{op: p.Op, body: p.Body, at: pos})
	return Delivered
}
