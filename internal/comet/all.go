package comet

import "github.com/perseid-im/perseid/pkg/wire"

// allWalk is one push to everybody on its way over a bucket's sessions. Walks
// go one after the other, in the order of the pushes.
//
// A walk at a pace may take minutes. It is answered at once, and so is every
// walk behind it: their lane, which other targets share, must not wait for
// them. What becomes of them is counted here.
type allWalk struct {
	op        wire.Op
	packets   *packets
	answers   *pushRef // nil: answered at once
	next      int      // slot
	perTick   int      // sessions a tick; 0 = no limit
	allowed   int      // of perTick, what is left until the next tick
	lastTick  int64
	delivered uint32
	filtered  uint32
	slow      uint32
}

func (b *Bucket) pushAll(d *Delivery, index int) {
	p := &d.Pushes[index]
	w := &allWalk{op: p.Op, packets: b.takePackets(), lastTick: b.nowMS}
	w.packets.add(p.Op, p.Body)
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
			b.refuseAll(d, index)
			b.sent = append(b.sent, w.packets)
			return
		}
		b.paced += size
	}
	b.alls = append(b.alls, w)
}

// refuseAll counts a push to all that has no room as dropped for everybody.
func (b *Bucket) refuseAll(d *Delivery, index int) {
	var slow, filtered uint32
	for i := range b.slots {
		switch s := b.slots[i].s; {
		case s == nil || s.state == opened || s.state == connecting:
		case s.accepted(d.Pushes[index].Op):
			slow++
		default:
			filtered++
		}
	}
	b.gateway.stats.delivered(0, int(slow))
	d.count(index, Counts{Filtered: filtered, Slow: slow})
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

// walkAlls writes the oldest push to all to at most budget sessions.
func (b *Bucket) walkAlls(budget int) {
	for budget > 0 && b.allsReady() {
		w := b.alls[0]
		for budget > 0 && w.next < len(b.slots) && (w.perTick == 0 || w.allowed > 0) {
			s := b.slots[w.next].s
			w.next++
			if s == nil || s.state == opened || s.state == connecting {
				continue
			}
			if !s.accepted(w.op) {
				w.filtered++
				continue
			}
			budget--
			w.allowed--
			switch b.write(s, w.packets.encoded(s.form())) {
			case Delivered:
				w.delivered++
			case Slow:
				w.slow++
			}
		}
		if w.next < len(b.slots) {
			return
		}
		copy(b.alls, b.alls[1:])
		b.alls[len(b.alls)-1] = nil
		b.alls = b.alls[:len(b.alls)-1]
		b.sent = append(b.sent, w.packets)
		b.gateway.stats.delivered(int(w.delivered), int(w.slow))
		b.gateway.stats.outcomes.Add(int(Filtered), int(w.filtered))
		if a := w.answers; a != nil {
			b.backlog -= w.packets.size()
			a.d.count(a.index, Counts{Delivered: w.delivered, Filtered: w.filtered, Slow: w.slow})
			a.d.release()
		} else {
			b.paced -= w.packets.size()
		}
	}
}
