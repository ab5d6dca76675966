package load

import "testing"

// The timed connections of a class with rooms used to be every n-th by number;
// a number of rooms that n divides then left most rooms without any, and the
// latencies of a run were those of a tenth of its messages.
func TestTimedConnectionsAreSpreadOverRooms(t *testing.T) {
	for _, c := range []Class{
		{Conns: 10_000, Rooms: 100, Timed: 1000},
		{Conns: 10_000, Rooms: 100, Timed: 250},
		{Conns: 1003, Rooms: 10, Timed: 100},
		{Conns: 1000, Rooms: 1, Timed: 200},
		{Conns: 1000, Timed: 200},
		{Conns: 5, Rooms: 9, Timed: 2},
	} {
		perRoom, timed := make([]int, max(1, c.Rooms)), 0
		for i := range c.Conns {
			if c.isTimed(i) {
				timed++
				perRoom[i%len(perRoom)]++
			}
		}
		if timed != c.Timed {
			t.Errorf("%+v: %d timed", c, timed)
		}
		for room, n := range perRoom {
			if even := c.Timed / len(perRoom); n < even-1 || n > even+2 {
				t.Errorf("%+v: %d timed in room %d, evenly it would be %d", c, n, room, even)
			}
		}
	}
}
