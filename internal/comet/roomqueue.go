package comet

import (
	"container/heap"
	"time"
)

// roomQueue is first in, first out.
type roomQueue struct {
	rooms []*Room
	head  int
}

func (q *roomQueue) len() int     { return len(q.rooms) - q.head }
func (q *roomQueue) first() *Room { return q.rooms[q.head] }

func (q *roomQueue) push(r *Room) {
	if q.head > len(q.rooms)/2 { // so each room is moved once at most, on average
		n := copy(q.rooms, q.rooms[q.head:])
		clear(q.rooms[n:])
		q.rooms, q.head = q.rooms[:n], 0
	}
	q.rooms = append(q.rooms, r)
}

func (q *roomQueue) pop() *Room {
	r := q.rooms[q.head]
	q.rooms[q.head] = nil
	if q.head++; q.head == len(q.rooms) {
		q.rooms, q.head = q.rooms[:0], 0
	}
	return r
}

// restingRooms are rooms with pushes whose walk has to wait, a heap by when it
// may go on: thousands of rooms in their merge windows cost a turn nothing.
type restingRooms []*Room

func (h restingRooms) Len() int           { return len(h) }
func (h restingRooms) Less(i, j int) bool { return h[i].wakes.Before(h[j].wakes) }

func (h restingRooms) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].restsAt, h[j].restsAt = i+1, j+1
}

// Push is of heap.Interface.
func (h *restingRooms) Push(x any) {
	r := x.(*Room)
	*h = append(*h, r)
	r.restsAt = len(*h)
}

// Pop is of heap.Interface.
func (h *restingRooms) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	r.restsAt = 0
	return r
}

// rest puts a room aside for that long.
func (b *Bucket) rest(r *Room, now time.Time, rest time.Duration) {
	r.wakes = now.Add(rest)
	heap.Push(&b.resting, r)
}

// hasten looks again how long a room has to rest, after what it waits for has
// changed.
func (b *Bucket) hasten(r *Room, now time.Time) {
	if r.restsAt > 0 {
		r.wakes = now.Add(r.resting(now))
		heap.Fix(&b.resting, r.restsAt-1)
	}
}

// rouse lets rooms go on that have rested.
func (b *Bucket) rouse(now time.Time) {
	for len(b.resting) > 0 && !b.resting[0].wakes.After(now) {
		b.walking.push(heap.Pop(&b.resting).(*Room))
	}
}
