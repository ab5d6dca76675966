package comet

import (
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/pkg/wire"
)

// allWalk is one push to everybody on its way over a bucket's sessions. Walks
// go one after the other, in the order of the pushes.
//
// A walk at a pace may take minutes. It is answered at once, and so is every
// walk behind it: their lane, which other targets share, must not wait for
// them. What becomes of them is counted here, and reported to logic (see
// broadcasts).
type allWalk struct {
	op       wire.Op
	id       message.ID // zero: nobody follows or cancels it
	packets  *packets
	answers  *pushRef // nil: answered at once
	next     int      // slot
	begun    bool
	perTick  int // sessions a tick; 0 = no limit
	allowed  int // of perTick, what is left until the next tick
	lastTick int64
	expected uint32 // sessions, when it was queued
	counts   Counts
	told     Counts // of counts, what the share has
}

func (b *Bucket) pushAll(d *Delivery, index int) {
	p := &d.Pushes[index]
	w := &allWalk{op: p.Op, packets: b.takePackets(), lastTick: b.nowMS}
	pos := p.position(0)
	if pos != nil { // it has the position also if it is canceled or has no room here
		raise(&b.allTop, at(pos))
	}
	w.packets.add(p.Op, p.Body, pos)
	if p.tracked() {
		w.id = p.ID
		w.expected = uint32(len(b.slots) - len(b.free))
		b.gateway.broadcasts.progress(w.id, func(s *runningShare) { s.Total += w.expected })
		if b.gateway.broadcasts.isCanceled(w.id) {
			b.dropAll(w, d, index, func(c *Counts) *uint32 { return &c.Canceled })
			return
		}
	}
	if p.Speed > 0 {
		buckets := max(len(*b.gateway.buckets.Load()), 1)
		w.perTick = max(int(p.Speed)*wheelTickMS/1000/buckets, 1)
		w.allowed = w.perTick
	}
	size := w.packets.size()
	if last := len(b.alls) - 1; w.perTick == 0 && (last < 0 || b.alls[last].answers != nil) {
		w.answers = &pushRef{d, index}
		d.hold()
		b.backlog += size
	} else {
		// The backlog of these has a bound of its own: the other one stops the
		// loop's pushes until it is shorter, which here may take as long as the
		// walks.
		if b.paced > 0 && b.paced+size > b.gateway.cfg.BacklogBytes {
			b.dropAll(w, d, index, func(c *Counts) *uint32 { return &c.Slow })
			return
		}
		b.paced += size
	}
	b.alls = append(b.alls, w)
}

// dropAll ends a push to all before its walk: it has no room, or is canceled.
func (b *Bucket) dropAll(w *allWalk, d *Delivery, index int, as func(*Counts) *uint32) {
	b.skipRest(w, as)
	d.count(index, w.counts)
	b.endAll(w)
}

// skipRest counts the sessions that have not had their turn as not delivered.
func (b *Bucket) skipRest(w *allWalk, as func(*Counts) *uint32) {
	for ; w.next < len(b.slots); w.next++ {
		switch s := b.slots[w.next].s; {
		case s == nil || s.state == opened || s.state == connecting:
		case s.takes(w.op, w.packets.stored):
			*as(&w.counts)++
		default:
			w.counts.Filtered++
		}
	}
}

// endAll counts a walk that is over.
func (b *Bucket) endAll(w *allWalk) {
	b.sent = append(b.sent, w.packets)
	c := &w.counts
	b.gateway.stats.delivered(int(c.Delivered), int(c.Slow))
	b.gateway.stats.outcomes.Add(int(Filtered), int(c.Filtered))
	b.gateway.stats.outcomes.Add(int(Canceled), int(c.Canceled))
	b.tellAll(w, true)
}

// tellAll brings the share up to date with a walk.
func (b *Bucket) tellAll(w *allWalk, over bool) {
	if w.id == (message.ID{}) {
		return
	}
	c, told := w.counts, w.told
	w.told = c
	b.gateway.broadcasts.progress(w.id, func(s *runningShare) {
		s.Delivered += c.Delivered - told.Delivered
		s.Filtered += c.Filtered - told.Filtered
		s.Slow += c.Slow - told.Slow
		s.Canceled += c.Canceled - told.Canceled
		if w.begun && s.StartedMS == 0 {
			s.StartedMS = b.gateway.clock().UnixMilli()
		}
		if over {
			// It is for those who were there, not for those who were expected.
			s.Total += c.Delivered + c.Filtered + c.Slow + c.Canceled - w.expected
			s.loops--
		}
	})
}

// cancelAlls ends the walks that are canceled, begun or not.
func (b *Bucket) cancelAlls() {
	b.alls = slices.DeleteFunc(b.alls, func(w *allWalk) bool {
		if w.id == (message.ID{}) || !b.gateway.broadcasts.isCanceled(w.id) {
			return false
		}
		b.skipRest(w, func(c *Counts) *uint32 { return &c.Canceled })
		b.answerAll(w)
		b.endAll(w)
		return true
	})
}

// answerAll answers a walk that was queued, and gives its memory back.
func (b *Bucket) answerAll(w *allWalk) {
	if a := w.answers; a != nil {
		b.backlog -= w.packets.size()
		a.d.count(a.index, w.counts)
		a.d.release()
	} else {
		b.paced -= w.packets.size()
	}
}

// paceAlls gives the walk at the head its share for the time since the last
// tick.
func (b *Bucket) paceAlls() {
	if len(b.alls) == 0 || b.alls[0].perTick == 0 {
		return
	}
	w := b.alls[0]
	if ticks := (b.nowMS - w.lastTick) / wheelTickMS; ticks > 0 {
		w.allowed = min(w.allowed+int(ticks)*w.perTick, 10*w.perTick)
		w.lastTick += ticks * wheelTickMS
	}
}

func (b *Bucket) allsReady() bool {
	return len(b.alls) > 0 && (b.alls[0].perTick == 0 || b.alls[0].allowed > 0)
}

// passShare is how many slots of the table that are passed over cost as much of
// a turn as a write: a slot is a look into memory, a write a call of the kernel.
const passShare = 64

// walkAlls writes the oldest pushes to all to at most budget sessions. Slots
// without a session that takes the push cost a share of the budget: an op that
// few accept would otherwise take push after push over the whole table in one
// turn. They cost nothing of a walk's pace, which is that of deliveries.
func (b *Bucket) walkAlls(budget int) {
	for left := budget * passShare; left > 0 && b.allsReady(); {
		w := b.alls[0]
		w.begun = true
		for left > 0 && w.next < len(b.slots) && (w.perTick == 0 || w.allowed > 0) {
			s := b.slots[w.next].s
			w.next++
			if s == nil || s.state == opened || s.state == connecting {
				left--
				continue
			}
			if !s.takes(w.op, w.packets.stored) {
				w.counts.Filtered++
				left--
				continue
			}
			left -= passShare
			w.allowed--
			switch b.write(s, w.packets) {
			case Delivered:
				w.counts.Delivered++
			case Slow:
				w.counts.Slow++
				if w.packets.stored {
					b.hint(s, message.AllTimeline, b.allTop)
				}
			}
		}
		if w.next < len(b.slots) {
			b.tellAll(w, false)
			return
		}
		left -= passShare // its end: also a walk over an empty table takes time
		b.finishAll(w)
	}
}

// finishAll takes the walk at the head out of those that wait, and answers it.
func (b *Bucket) finishAll(w *allWalk) {
	b.alls[0] = nil
	b.alls = b.alls[1:]
	b.answerAll(w)
	b.endAll(w)
}

// abandonAll ends the walk that has panicked: it would panic again, in every
// turn. Those behind it have not begun.
func (b *Bucket) abandonAll() {
	if len(b.alls) == 0 || !b.alls[0].begun {
		return
	}
	w := b.alls[0]
	b.protect(nil, func() {
		w.next = max(w.next-1, 0) // who was in turn has no outcome yet
		b.skipRest(w, func(c *Counts) *uint32 { return &c.NotHere })
		b.finishAll(w)
	})
}
