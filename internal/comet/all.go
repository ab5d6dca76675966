package comet

// allWalk is one push to everybody on its way over a bucket's sessions. Walks
// go one after the other, in the order of the pushes.
type allWalk struct {
	ref       pushRef
	packets   *packets
	next      int // slot
	perTick   int // sessions a tick; 0 = no limit
	allowed   int // of perTick, what is left until the next tick
	lastTick  int64
	paced     bool
	delivered uint32
	filtered  uint32
	slow      uint32
}

func (b *Bucket) pushAll(d *Delivery, index int) {
	p := &d.Pushes[index]
	w := &allWalk{ref: pushRef{d, index}, packets: b.takePackets(), lastTick: b.nowMS}
	w.packets.add(p.Op, p.Body)
	b.backlog += w.packets.size()
	if p.Speed > 0 {
		buckets := max(len(*b.gateway.buckets.Load()), 1)
		w.perTick = max(int(p.Speed)*wheelTickMS/1000/buckets, 1)
		w.allowed = w.perTick
	}
	// A paced walk may take minutes. It is answered at once: its lane must not
	// wait for it, and what becomes of it is counted here.
	if w.paced = w.perTick > 0; !w.paced {
		d.hold()
	}
	b.alls = append(b.alls, w)
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
		op := w.ref.d.Pushes[w.ref.index].Op
		for budget > 0 && w.next < len(b.slots) && (w.perTick == 0 || w.allowed > 0) {
			s := b.slots[w.next].s
			w.next++
			if s == nil || s.state == opened || s.state == connecting {
				continue
			}
			if !s.accepted(op) {
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
		b.backlog -= w.packets.size()
		b.sent = append(b.sent, w.packets)
		b.gateway.stats.delivered(int(w.delivered), int(w.slow))
		if !w.paced {
			w.ref.d.count(w.ref.index, w.delivered, 0, w.filtered, w.slow)
			w.ref.d.release()
		}
	}
}
