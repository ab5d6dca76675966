package comet

import (
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Class says what happens to a push to a room when the room is behind.
type Class uint8

const (
	// Normal waits for its turn; it slows down who pushes more than the room takes.
	Normal Class = iota
	// Low is dropped, and counted, when the room is a whole round behind, and
	// is left out for a session whose outbox is a quarter full.
	Low
	// High goes into the next round, also when that is full, and the round does
	// not wait for a merge window.
	High
)

// round is one run of packets on its way to all members of a room. Messages
// that come while the loop is busy join a round that has not begun yet, so
// merging follows the load and an idle loop adds no delay.
type round struct {
	pushes    []roomPush // in the order of their packets
	bytes     int        // of their packets
	latest    map[string]int
	due       time.Time // end of the merge window; zero: at once
	begun     bool
	all       *packets // made when the round begins
	essential *packets // all without the low pushes; all itself when there is none
	wrote     time.Duration

	delivered uint32
	shortened uint32 // of delivered: got essential only
	slow      uint32
	notHere   uint32
}

// roomPush is a push in a round.
type roomPush struct {
	pushRef
	gone bool // a later push of the same conflation key took its place
}

func packetBytes(p *Push) int {
	n := wire.HeaderLen + len(p.Body)
	if pos := p.position(0); pos != nil {
		n += pos.Len()
	}
	return n
}

// pushRoom lets a push join the next round of a room.
func (b *Bucket) pushRoom(r *Room, d *Delivery, index int) {
	p := &d.Pushes[index]
	if pos := p.position(0); pos != nil {
		raise(&r.top, at(pos))
	}
	rd := r.roundFor(p, b.gateway.cfg.RoundBytes)
	if rd == nil {
		b.gateway.stats.outcomes.Add(int(Slow), len(r.members))
		d.count(index, Counts{Slow: uint32(len(r.members))})
		return
	}
	if p.Conflate != "" {
		b.conflate(r, p.Conflate)
		if rd.latest == nil {
			rd.latest = map[string]int{}
		}
		rd.latest[p.Conflate] = len(rd.pushes)
	}
	if p.Class == High {
		rd.due = time.Time{}
	}
	rd.pushes = append(rd.pushes, roomPush{pushRef: pushRef{d, index}})
	rd.bytes += packetBytes(p)
	b.backlog += packetBytes(p)
	d.hold()
	if !r.listed {
		r.listed = true
		b.walking = append(b.walking, r)
	}
}

// roundFor returns the round that a push joins, or nil when it is dropped.
func (r *Room) roundFor(p *Push, roundBytes int) *round {
	waiting := r.waiting()
	if p.Class == High && len(waiting) > 0 {
		return waiting[0]
	}
	if n := len(waiting); n > 0 {
		if last := waiting[n-1]; last.bytes+len(p.Body) <= roundBytes {
			return last
		}
		if p.Class == Low {
			return nil
		}
	}
	rd := &round{}
	if r.window > 0 && len(waiting) == 0 {
		rd.due = time.Now().Add(r.window)
	}
	r.rounds = append(r.rounds, rd)
	return rd
}

// waiting is the rounds that have not begun.
func (r *Room) waiting() []*round {
	if len(r.rounds) > 0 && r.rounds[0].begun {
		return r.rounds[1:]
	}
	return r.rounds
}

// conflate takes the push with this key out of the rounds that wait.
func (b *Bucket) conflate(r *Room, key string) {
	for _, rd := range r.waiting() {
		i, ok := rd.latest[key]
		if !ok {
			continue
		}
		delete(rd.latest, key)
		old := &rd.pushes[i]
		old.gone = true
		size := packetBytes(old.push())
		rd.bytes -= size
		b.backlog -= size
		n := len(r.members)
		b.gateway.stats.outcomes.Add(int(Conflated), n)
		old.d.count(old.index, Counts{Conflated: uint32(n)})
		old.d.release()
	}
}

// A round of a big room takes tens of milliseconds, and while pushes come the
// next could follow at once: the loop would write without a pause, and take
// the processor time that the rest of the pipeline, or the neighbours on the
// machine, need to bring the next messages. After a round that merged minMerged
// messages or more a room therefore rests for a third of the time that the
// round took: a longer rest adds to the latency of every message, a shorter one
// leaves the pipeline behind. Rounds shorter than minRound are too short to matter.
const (
	minMerged = 4
	minRound  = 2 * time.Millisecond
	restShare = 3
	maxRest   = 50 * time.Millisecond
)

// resting returns how long the next round of the room has to wait.
func (r *Room) resting(now time.Time) time.Duration {
	if len(r.rounds) == 0 || r.rounds[0].begun {
		return 0
	}
	return max(r.rested.Sub(now), r.rounds[0].due.Sub(now))
}

// walk writes the oldest round of a room to at most max members and returns
// how many it wrote to.
func (b *Bucket) walk(r *Room, max int, now time.Time) (written int) {
	if len(r.rounds) == 0 {
		return 0
	}
	rd := r.rounds[0]
	if !rd.begun {
		rd.begun = true
		b.encode(rd)
		r.cursor, r.end = 0, len(r.members)
	}
	for written < max && r.cursor < r.end {
		s := r.members[r.cursor].s
		r.cursor++ // first: the write may close the session and take it out
		written++
		b.writeRound(s, rd)
	}
	rd.wrote += time.Since(now)
	if r.cursor >= r.end && len(r.rounds) > 0 {
		r.cursor, r.end = 0, 0
		r.rounds[0] = nil
		r.rounds = r.rounds[1:]
		if len(r.rounds) == 0 {
			r.rounds = nil
		}
		if rd.wrote >= minRound && len(rd.pushes) >= minMerged {
			r.rested = time.Now().Add(min(rd.wrote/restShare, maxRest))
		}
		b.finishRound(rd)
	}
	return written
}

// encode makes the packets of a round that begins.
func (b *Bucket) encode(rd *round) {
	rd.all = b.takePackets()
	rd.essential = rd.all
	for i := range rd.pushes {
		p := rd.pushes[i].push()
		if rd.pushes[i].gone {
			continue
		}
		if p.Class == Low && rd.essential == rd.all {
			rd.essential = b.takePackets()
			for j := range i {
				if before := rd.pushes[j].push(); !rd.pushes[j].gone {
					rd.essential.add(before.Op, before.Body, before.position(0))
				}
			}
		}
		rd.all.add(p.Op, p.Body, p.position(0))
		if p.Class != Low && rd.essential != rd.all {
			rd.essential.add(p.Op, p.Body, p.position(0))
		}
	}
	rd.latest = nil
}

func (b *Bucket) writeRound(s *Session, rd *round) {
	run := rd.all
	if rd.essential != rd.all && s.state == live && s.out.size()+s.conn.Buffered() > b.gateway.cfg.OutboxBytes/4 {
		run = rd.essential
		rd.shortened++
	}
	if run.size() == 0 {
		rd.delivered++ // nothing was for it
		return
	}
	var o Outcome
	if b.gather {
		o = b.push(s, run.encoded(s.form()))
	} else {
		o = b.write(s, run.encoded(s.form()))
	}
	switch o {
	case Delivered:
		rd.delivered++
	case Slow:
		rd.slow++
		if run.stored {
			b.missedRound(s, rd)
		}
		if run != rd.all {
			rd.shortened--
		}
	default:
		rd.notHere++
		if run != rd.all {
			rd.shortened--
		}
	}
}

func (b *Bucket) finishRound(rd *round) {
	b.backlog -= rd.bytes
	b.sent = append(b.sent, rd.all)
	if rd.essential != rd.all {
		b.sent = append(b.sent, rd.essential)
	}
	var delivered, slow int
	for i := range rd.pushes {
		w := &rd.pushes[i]
		if w.gone {
			continue
		}
		c := Counts{Delivered: rd.delivered, NotHere: rd.notHere, Slow: rd.slow}
		if w.push().Class == Low {
			c.Delivered -= rd.shortened
			c.Slow += rd.shortened
		}
		delivered += int(c.Delivered)
		slow += int(c.Slow)
		w.d.count(w.index, c)
		w.d.release()
	}
	b.gateway.stats.delivered(delivered, slow)
	rd.pushes = nil
}
