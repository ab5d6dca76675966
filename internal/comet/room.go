package comet

import (
	"time"

	"github.com/perseid-im/perseid/internal/timeline"
)

// Room is the members that one bucket has in a room. It exists only while it
// has members, and belongs to the bucket's loop.
type Room struct {
	key     string
	count   *roomCount
	members []member      // dense; order has no meaning
	window  time.Duration // merge window of the room's type
	top     timeline.Position
	listed  bool      // in Bucket.fresh, walking or resting
	restsAt int       // place in Bucket.resting, plus 1
	wakes   time.Time // end of the rest, where it is there

	pushes  []roomPush          // under way, oldest first
	first   uint32              // sequence number of pushes[0]
	waiting []roomPush          // for the merge window, or for space
	keys    map[string]struct{} // conflation keys of pushes and waiting
	due     time.Time           // end of the merge window; zero: no window
	bytes   int                 // of pushes and waiting
	under   int                 // of pushes
	cursor  int                 // next member to visit
	current int                 // members that lack nothing of pushes
	run     roomRun
	done    tally         // of the pushes that are finished
	ended   tally         // visits after which the member lacked nothing
	wrote   time.Duration // since the last rest
	rested  time.Time     // no walk before
}

type member struct {
	s    *Session
	slot int32  // index in s.rooms
	next uint32 // first push that it lacks
}

// join puts a session into a room. It reports the version of the room index
// that must be confirmed before the client is told.
func (b *Bucket) join(s *Session, key string) (version uint64) {
	r := b.rooms[key]
	if r == nil {
		r = &Room{key: key, count: b.gateway.rooms.enter(key), window: b.gateway.window(key)}
		b.rooms[key] = r
	}
	s.rooms = append(s.rooms, membership{room: r, pos: int32(len(r.members))})
	r.add(s, int32(len(s.rooms)-1))
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
		// Pushes under way stay with this Room and end at its next walk; who
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

// add appends a member. It gets what comes from now on.
func (r *Room) add(s *Session, slot int32) {
	r.members = append(r.members, member{s: s, slot: slot, next: r.tail()})
	r.current++
}

// remove closes the gap at pos so that the walk still comes to every member
// about when it would have: a member ahead of it never moves behind it.
func (r *Room) remove(pos int) {
	if next := r.members[pos].next; next == r.tail() {
		r.current--
	} else {
		r.pushes[next-r.first].next--
	}
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
}

func (r *Room) place(pos int, m member) {
	r.members[pos] = m
	m.s.rooms[m.slot].pos = int32(pos)
}
