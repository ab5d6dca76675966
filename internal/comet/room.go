package comet

// Room is the members that one bucket has in a room. It exists only while it
// has members, and belongs to the bucket's loop.
type Room struct {
	key     string
	count   *roomCount
	members []member // dense; order has no meaning
	rounds  []*round // oldest first; rounds[0] is being written or next
	cursor  int      // members[:cursor] have the round in work
	end     int      // members[cursor:end] are still to get it
	listed  bool     // in Bucket.walking
}

type member struct {
	s    *Session
	slot int32 // index in s.rooms
}

// round is one run of packets on its way to all members of a room. Messages
// that come while the loop is busy join the round that has not begun yet, so
// merging follows the load and an idle loop adds no delay.
type round struct {
	packets   *packets
	begun     bool
	delivered uint32
	slow      uint32
	notHere   uint32
	waiting   []pushRef
}

// pushRef is one push of a delivery that waits for its end.
type pushRef struct {
	d     *Delivery
	index int
}

// join puts a session into a room. It reports the version of the room index
// that must be confirmed before the client is told.
func (b *Bucket) join(s *Session, key string) (version uint64) {
	r := b.rooms[key]
	if r == nil {
		r = &Room{key: key, count: b.gateway.rooms.enter(key)}
		b.rooms[key] = r
	}
	s.rooms = append(s.rooms, membership{room: r, pos: int32(len(r.members))})
	r.members = append(r.members, member{s: s, slot: int32(len(s.rooms) - 1)})
	r.count.local.Add(1)
	s.lastRoom = r.count
	return r.count.version
}

func (s *Session) roomIndex(key string) int {
	for i := range s.rooms {
		if s.rooms[i].room.key == key {
			return i
		}
	}
	return -1
}

// leave takes the session out of the room in s.rooms[i].
func (b *Bucket) leave(s *Session, i int) {
	r, pos := s.rooms[i].room, int(s.rooms[i].pos)
	last := len(s.rooms) - 1
	if i != last {
		moved := s.rooms[last]
		s.rooms[i] = moved
		moved.room.members[moved.pos].slot = int32(i)
	}
	s.rooms[last] = membership{}
	s.rooms = s.rooms[:last]

	r.remove(pos)
	r.count.local.Add(-1)
	if len(r.members) == 0 {
		// Rounds that wait stay with this Room and end at its next walk; who
		// joins now gets a new one.
		delete(b.rooms, r.key)
		b.gateway.rooms.exit(r.key)
	}
}

func (b *Bucket) leaveAll(s *Session) {
	for len(s.rooms) > 0 {
		b.leave(s, len(s.rooms)-1)
	}
	s.rooms = nil
}

// remove closes the gap at pos so that the round in work still reaches every
// member once: a member that has not had it yet never moves into the part
// that is done.
func (r *Room) remove(pos int) {
	n := len(r.members)
	if pos < r.cursor {
		r.cursor--
		if pos < r.cursor {
			r.place(pos, r.members[r.cursor])
		}
		pos = r.cursor
	}
	if pos < n-1 {
		r.place(pos, r.members[n-1])
	}
	r.members[n-1] = member{}
	r.members = r.members[:n-1]
	if r.end > n-1 {
		r.end = n - 1
	}
}

func (r *Room) place(pos int, m member) {
	r.members[pos] = m
	m.s.rooms[m.slot].pos = int32(pos)
}

// pushRoom lets a message join the next round of a room.
func (b *Bucket) pushRoom(r *Room, d *Delivery, index int) {
	p := &d.Pushes[index]
	var rd *round
	if n := len(r.rounds); n > 0 && !r.rounds[n-1].begun && r.rounds[n-1].packets.size()+len(p.Body) <= b.gateway.cfg.RoundBytes {
		rd = r.rounds[n-1]
	} else {
		rd = &round{packets: b.takePackets()}
		r.rounds = append(r.rounds, rd)
	}
	before := rd.packets.size()
	rd.packets.add(p.Op, p.Body)
	b.backlog += rd.packets.size() - before
	rd.waiting = append(rd.waiting, pushRef{d, index})
	d.hold()
	if !r.listed {
		r.listed = true
		b.walking = append(b.walking, r)
	}
}

// walk writes the oldest round of a room to at most max members and returns
// how many it wrote to.
func (b *Bucket) walk(r *Room, max int) (written int) {
	if len(r.rounds) == 0 {
		return 0
	}
	rd := r.rounds[0]
	if !rd.begun {
		rd.begun = true
		r.cursor, r.end = 0, len(r.members)
	}
	for written < max && r.cursor < r.end {
		s := r.members[r.cursor].s
		r.cursor++ // first: the write may close the session and take it out
		written++
		switch b.write(s, rd.packets.encoded(s.form())) {
		case Delivered:
			rd.delivered++
		case Slow:
			rd.slow++
		default:
			rd.notHere++
		}
	}
	if r.cursor >= r.end && len(r.rounds) > 0 {
		r.cursor, r.end = 0, 0
		r.rounds[0] = nil
		r.rounds = r.rounds[1:]
		if len(r.rounds) == 0 {
			r.rounds = nil
		}
		b.finishRound(rd)
	}
	return written
}

func (b *Bucket) finishRound(rd *round) {
	b.backlog -= rd.packets.size()
	b.sent = append(b.sent, rd.packets)
	b.gateway.stats.delivered(int(rd.delivered)*len(rd.waiting), int(rd.slow)*len(rd.waiting))
	for _, w := range rd.waiting {
		w.d.count(w.index, rd.delivered, rd.notHere, 0, rd.slow)
		w.d.release()
	}
	rd.waiting = nil
}
