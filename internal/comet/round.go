package comet

import (
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Class says what happens to a push to a room when the room is behind.
type Class uint8

const (
	// Normal waits for its turn; it slows down who pushes more than the room takes.
	Normal Class = iota
	// Low is dropped, and counted, when a whole round is under way or waits,
	// and is left out for a session whose outbox is a quarter full.
	Low
	// High is under way at once, also when the room is full, and does not wait
	// for a merge window.
	High
)

// The walk of a room goes round its members as long as one of them lacks a
// push. Each visit writes all that the member lacks in one write. So a push
// makes a round of its own, which begins where the walk is when it comes and
// ends there; merging follows the load, an idle loop adds no delay, and no
// push waits for the round of another.
//
// Pushes under way have sequence numbers without a gap: Room.first is that of
// Room.pushes[0], and member.next that of the first push a member lacks.

// roomPush is a push under way to the members of a room, or one that waits.
type roomPush struct {
	pushRef
	bytes   int
	next    int   // members that lack this push, but none before it
	visited tally // visits whose member lacked this push, but none before it
	settled bool  // a later one with its key took its place; counts are final
	counts  Counts
}

// tally counts visits by what became of them. Their differences, added up from
// the oldest push on, are the counts of each push: a visit is noted once,
// where it begins and where it ends, however many pushes it carries.
type tally struct {
	delivered int32
	shortened int32 // of delivered: without the low pushes
	slow      int32
	notHere   int32
}

func (t *tally) add(o tally) {
	t.delivered += o.delivered
	t.shortened += o.shortened
	t.slow += o.slow
	t.notHere += o.notHere
}

func (t *tally) sub(o tally) { t.add(tally{-o.delivered, -o.shortened, -o.slow, -o.notHere}) }

// counts is the answer for a push that such visits carried.
func (t *tally) counts(class Class) Counts {
	c := Counts{Delivered: uint32(t.delivered), NotHere: uint32(t.notHere), Slow: uint32(t.slow)}
	if class == Low {
		c.Delivered -= uint32(t.shortened)
		c.Slow += uint32(t.shortened)
	}
	return c
}

// roomRun is what the members get that lack the same pushes. It is made anew
// when a push comes.
type roomRun struct {
	from, to  uint32   // pushes by sequence number, to is not in it
	all       *packets // nil: there is no run
	essential *packets // all without the low pushes; all itself when there is none
	merged    int      // pushes in it
	visits    tally
}

func packetBytes(p *Push) int {
	n := wire.HeaderLen + len(p.Body)
	if pos := p.position(0); pos != nil {
		n += pos.Len()
	}
	return n
}

// pushRoom takes in a push to a room.
func (b *Bucket) pushRoom(r *Room, d *Delivery, index int) {
	p := &d.Pushes[index]
	if pos := p.position(0); pos != nil {
		raise(&r.top, at(pos))
	}
	size, most := packetBytes(p), b.gateway.cfg.RoundBytes
	if p.Class == Low && r.bytes+size > most && r.busy() {
		b.gateway.stats.outcomes.Add(int(Slow), len(r.members))
		d.count(index, Counts{Slow: uint32(len(r.members))})
		return
	}
	opens := len(r.waiting) == 0 // a window; not by the successor of what waited in it
	if p.Conflate != "" {
		b.conflate(r, p.Conflate)
	}
	at, held := len(r.waiting), !r.due.IsZero()
	switch {
	case p.Class == High:
		at = r.overtake(most)
		r.due = time.Time{}
	case r.bytes+size > most: // a round is full: longer windows merge no more
		r.due = time.Time{}
	case opens && r.window > 0:
		r.due = time.Now().Add(r.window)
	}
	r.waiting = slices.Insert(r.waiting, at, roomPush{pushRef: pushRef{d, index}, bytes: size})
	r.bytes += size
	b.backlog += size
	d.hold()
	switch {
	case !r.listed:
		r.listed = true
		b.fresh.push(r)
	case held && r.due.IsZero():
		b.hasten(r, time.Now())
	}
}

// overtake is the place of a high push among those that wait: before what the
// room has no space for, and otherwise in order.
func (r *Room) overtake(most int) int {
	under := r.under
	for i := range r.waiting {
		w := &r.waiting[i]
		if under += w.bytes; under > most && w.push().Class != High {
			return i
		}
	}
	return len(r.waiting)
}

// conflate takes the push with this key, of which there is one at most, out of
// those that wait, or out of what is under way for the members that lack it.
func (b *Bucket) conflate(r *Room, key string) {
	if _, ok := r.keys[key]; !ok {
		if r.keys == nil {
			r.keys = map[string]struct{}{}
		}
		r.keys[key] = struct{}{}
		return
	}
	if i := latest(r.waiting, key); i >= 0 {
		old := r.waiting[i]
		old.settled = true // the key goes on
		r.waiting = slices.Delete(r.waiting, i, i+1)
		b.finishPush(r, &old, Counts{Conflated: uint32(len(r.members))})
		return
	}
	i := latest(r.pushes, key)
	b.endRun(r)
	visited, lack := r.done, 0
	for j := range r.pushes[:i+1] {
		visited.add(r.pushes[j].visited)
		lack += r.pushes[j].next
	}
	old := &r.pushes[i]
	old.settled = true
	old.counts = visited.counts(old.push().Class)
	old.counts.Conflated = uint32(lack)
}

// latest looks from the end: a key that changes often is there.
func latest(pushes []roomPush, key string) int {
	for i := len(pushes) - 1; i >= 0; i-- {
		if w := &pushes[i]; !w.settled && w.push().Conflate == key {
			return i
		}
	}
	return -1
}

// A busy room would keep its loop writing without a pause, and take the
// processor time that the rest of the pipeline, or the neighbours on the
// machine, need to bring the next messages. When minMerged messages or more
// leave in one write, the walk therefore rests for a third of the time that it
// took, about every walkTime. With fewer the pipeline needs little, and a rest
// only makes rounds longer: with 4 instead of 128 a room of 10,000 that gets 100
// messages/s took 44 ms instead of 26 for half of the deliveries, on a machine
// that was idle for a quarter of the time (benchmarks/results/stages.txt).
const (
	minMerged = 128
	walkTime  = 3 * time.Millisecond
	restShare = 3
)

// busy tells whether the room has pushes.
func (r *Room) busy() bool { return len(r.pushes)+len(r.waiting) > 0 }

// resting returns how long the walk of the room has to wait.
func (r *Room) resting(now time.Time) time.Duration {
	rest := r.rested.Sub(now)
	if len(r.pushes) == 0 && len(r.waiting) > 0 {
		rest = max(rest, r.due.Sub(now))
	}
	return rest
}

// admit lets the pushes that wait get under way, as many as a round takes.
func (r *Room) admit(most int, now time.Time) {
	if len(r.waiting) == 0 || r.due.After(now) {
		return
	}
	n := 0
	for ; n < len(r.waiting); n++ {
		w := &r.waiting[n]
		if r.under > 0 && r.under+w.bytes > most && w.push().Class != High {
			break
		}
		r.under += w.bytes
		// Those who have all lack this one now, and this one first.
		w.next, r.current = r.current, 0
		w.visited.sub(r.ended)
		r.ended = tally{}
		r.pushes = append(r.pushes, *w)
	}
	r.waiting = slices.Delete(r.waiting, 0, n)
	if len(r.waiting) == 0 {
		r.waiting = nil
	}
}

// tail is the sequence number of the next push.
func (r *Room) tail() uint32 { return r.first + uint32(len(r.pushes)) }

// walk visits at most that many members that lack a push, and returns how many it
// visited.
func (b *Bucket) walk(r *Room, most int, now time.Time) (written int) {
	r.admit(b.gateway.cfg.RoundBytes, now)
	tail := r.tail()
	merged := 0
	for written < most && r.current < len(r.members) {
		if r.cursor >= len(r.members) {
			r.cursor = 0
		}
		m := &r.members[r.cursor]
		r.cursor++ // first: the write may close the session and take it out
		if m.next == tail {
			continue
		}
		if r.run.all == nil || r.run.from != m.next || r.run.to != tail {
			b.endRun(r)
			b.encode(r, m.next)
		}
		s := m.s
		r.pushes[m.next-r.first].next--
		m.next = tail
		r.current++
		written++
		merged = max(merged, r.run.merged)
		b.writeRun(r, s)
	}
	if len(r.pushes) > 0 && r.pushes[0].next == 0 {
		b.finishRounds(r)
	}
	ended := time.Now()
	if r.wrote += ended.Sub(now); merged < minMerged {
		r.wrote = 0
	} else if r.wrote >= walkTime {
		r.rested = ended.Add(r.wrote / restShare)
		r.wrote = 0
	}
	return written
}

// encode makes the run of those that lack the pushes from a sequence number on.
func (b *Bucket) encode(r *Room, from uint32) {
	run := roomRun{from: from, to: r.tail(), all: b.takePackets()}
	run.essential = run.all
	lacking := r.pushes[from-r.first:]
	for i := range lacking {
		p := lacking[i].push()
		if lacking[i].settled {
			continue
		}
		run.merged++
		if p.Class == Low && run.essential == run.all {
			run.essential = b.takePackets()
			for j := range lacking[:i] {
				if before := lacking[j].push(); !lacking[j].settled {
					run.essential.add(before.Op, before.Body, before.position(0))
				}
			}
		}
		run.all.add(p.Op, p.Body, p.position(0))
		if p.Class != Low && run.essential != run.all {
			run.essential.add(p.Op, p.Body, p.position(0))
		}
	}
	r.run = run
}

// writeRun gives the room's run to a member.
func (b *Bucket) writeRun(r *Room, s *Session) {
	run := &r.run
	out := run.all
	if run.essential != run.all && s.state == live && s.out.size()+s.conn.Buffered() > b.gateway.cfg.OutboxBytes/4 {
		out = run.essential
	}
	o := Delivered
	switch {
	case out.size() == 0: // nothing was for it
	case b.gather && out.size() < shareBytes:
		o = b.push(s, out.encoded(s.form()))
	default:
		if b.gather && len(b.dirty) > 0 {
			b.flush() // a large run is worth a write of its own, and the small ones do not wait for it
		}
		o = b.write(s, out)
	}
	switch o {
	case Delivered:
		run.visits.delivered++
		if out != run.all {
			run.visits.shortened++
		}
	case Slow:
		run.visits.slow++
		if out.stored {
			b.missed(r, s)
		}
	default:
		run.visits.notHere++
	}
}

// endRun notes what became of a run; the packets are free after the flush.
func (b *Bucket) endRun(r *Room) {
	run := &r.run
	if run.all == nil {
		return
	}
	r.pushes[run.from-r.first].visited.add(run.visits)
	if run.to == r.tail() {
		r.ended.add(run.visits)
	} else {
		r.pushes[run.to-r.first].visited.sub(run.visits)
	}
	b.sent = append(b.sent, run.all)
	if run.essential != run.all {
		b.sent = append(b.sent, run.essential)
	}
	*run = roomRun{}
}

// finishRounds answers the pushes that no member lacks any more.
func (b *Bucket) finishRounds(r *Room) {
	b.endRun(r)
	n := 0
	for ; n < len(r.pushes) && r.pushes[n].next == 0; n++ {
		w := &r.pushes[n]
		r.done.add(w.visited)
		if !w.settled {
			w.counts = r.done.counts(w.push().Class)
		}
		r.under -= w.bytes
		b.finishPush(r, w, w.counts)
	}
	r.first += uint32(n)
	r.pushes = slices.Delete(r.pushes, 0, n)
	if len(r.pushes) == 0 {
		r.pushes, r.done, r.ended = nil, tally{}, tally{}
	}
}

// finishPush answers a push and forgets its bytes.
func (b *Bucket) finishPush(r *Room, w *roomPush, c Counts) {
	r.bytes -= w.bytes
	b.backlog -= w.bytes
	b.gateway.stats.delivered(int(c.Delivered), int(c.Slow))
	b.gateway.stats.outcomes.Add(int(Conflated), int(c.Conflated))
	if key := w.push().Conflate; key != "" && !w.settled {
		delete(r.keys, key)
	}
	w.d.count(w.index, c)
	w.d.release()
}

// abandon answers the pushes of a room whose walk has panicked, and leaves its
// members as if they lacked nothing: the next walk would panic again.
func (b *Bucket) abandon(r *Room) {
	pushes := slices.Concat(r.pushes, r.waiting)
	r.pushes, r.waiting, r.keys = nil, nil, nil
	r.run, r.done, r.ended = roomRun{}, tally{}, tally{}
	r.first, r.under, r.cursor, r.current = 0, 0, 0, len(r.members)
	for i := range r.members {
		r.members[i].next = 0
	}
	for i := range pushes {
		w := &pushes[i]
		if !w.settled {
			w.counts = Counts{NotHere: uint32(len(r.members))}
		}
		b.protect(nil, func() { b.finishPush(r, w, w.counts) })
	}
}

// missed hints at the newest stored push that a slow member did not get.
func (b *Bucket) missed(r *Room, s *Session) {
	for i := len(r.pushes) - 1; i >= int(r.run.from-r.first); i-- {
		if pos := r.pushes[i].push().position(0); pos != nil {
			b.hint(s, message.Timeline(pos.Timeline), at(pos))
			return
		}
	}
}
