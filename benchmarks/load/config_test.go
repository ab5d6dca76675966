package load

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

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

// Symptom: connections to [::1] failed with "bind: invalid argument".
// Cause: they came from 127.0.0.x, whatever the server's address.
func TestSources(t *testing.T) {
	c := &Config{Sources: 8}
	for server, want := range map[string]string{"127.0.0.1": "127.0.0.4", "127.0.1.1": "127.0.0.4", "::1": "invalid IP", "10.0.0.1": "invalid IP"} {
		if got := c.source(11, netip.MustParseAddr(server)).String(); got != want {
			t.Errorf("to %s from %s, want %s", server, got, want)
		}
	}
	if got := (&Config{}).source(11, netip.MustParseAddr("127.0.0.1")); got.IsValid() {
		t.Errorf("without sources from %s", got)
	}
}

// Too many connections are refused before memory is taken for them.
func TestOpenFileLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur > 1<<30 {
		limit.Cur = 1 << 30
	}
	one := int(limit.Cur) - otherFiles
	if err := (&Config{Parts: 2, Classes: []Class{{Conns: one}, {Conns: one}}}).fits(); err != nil {
		t.Error(err)
	}
	err := (&Config{Parts: 2, Classes: []Class{{Conns: one}, {Conns: one + 1}}}).fits()
	if err == nil || !strings.Contains(err.Error(), "in 2 processes: the open-file limit of") {
		t.Errorf("one more: %v", err)
	}
}
