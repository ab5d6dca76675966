package comet

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// fakePages notes what is done with it. full makes Put fail.
type fakePages struct {
	full    bool
	puts    [][]byte
	writes  int
	dropped []int
}

func (p *fakePages) Put(b []byte) (int, bool) {
	p.puts = append(p.puts, bytes.Clone(b))
	return len(p.puts) - 1, !p.full
}

func (p *fakePages) Write(c Conn, b []byte, at int) {
	p.writes++
	if slices.Contains(p.dropped, at) || !bytes.Equal(b, p.puts[at]) {
		panic("these bytes are not at this place")
	}
	c.Write(b)
}

func (p *fakePages) Drop(at int) { p.dropped = append(p.dropped, at) }

// What is large and for many is put into pages once, and given back.
func TestLargeRunsAreShared(t *testing.T) {
	const members = 3 * shareAfter
	large, small := strings.Repeat("x", shareBytes), strings.Repeat("x", shareBytes/2)
	toOne := func(all []Push) (n int) {
		for _, p := range all {
			if p.Op == 1 {
				n++
			}
		}
		return n
	}
	for name, tc := range map[string]struct {
		full    bool
		members int
		pushes  []Push
		puts    int
		writes  int
	}{
		"large":      {members: members, pushes: []Push{{Op: 1, Room: roomOne, Body: []byte(large)}}, puts: 1, writes: members - shareAfter + 1},
		"for few":    {members: shareAfter - 1, pushes: []Push{{Op: 1, Room: roomOne, Body: []byte(large)}}},
		"small":      {members: members, pushes: []Push{{Op: 1, Room: roomOne, Body: []byte(small)}}},
		"no space":   {full: true, members: members, pushes: []Push{{Op: 1, Room: roomOne, Body: []byte(large)}}, puts: 1},
		"two merged": {members: members, pushes: []Push{{Op: 1, Room: roomOne, Body: []byte(small)}, {Op: 1, Room: roomOne, Body: []byte(small)}}, puts: 1, writes: members - shareAfter + 1},
		"beside another room": {members: members, pushes: []Push{{Op: 1, Room: roomOne, Body: []byte(large)}, {Op: 2, Room: "live://2", Body: []byte(small)}},
			puts: 1, writes: members - shareAfter + 1},
		"to all": {members: members, pushes: []Push{{Op: 1, All: true, Body: []byte(large)}}, puts: 1, writes: members - shareAfter + 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 1, nil)
			b := f.buckets[0]
			kernel := &fakePages{full: tc.full}
			f.on(b, func() { b.pages = kernel })
			var conns []*testConn
			for i := range tc.members {
				conns = append(conns, f.connect(b, 1, fmt.Sprintf(`{"key":"%d","room_id":%q,"accepts":[1]}`, i, roomOne)))
			}
			f.connect(b, 1, `{"key":"beside","room_id":"live://2","accepts":[2]}`)
			f.result(f.dispatch(tc.pushes...))
			f.on(b, func() {
				if len(kernel.puts) != tc.puts || kernel.writes != tc.writes {
					t.Errorf("put %d times, want %d; written %d times, want %d", len(kernel.puts), tc.puts, kernel.writes, tc.writes)
				}
				if want := tc.puts; !tc.full && len(kernel.dropped) != want {
					t.Errorf("%d of %d given back", len(kernel.dropped), want)
				}
				for _, p := range slices.Concat(b.spare, b.sent) {
					if p.pages != [formCount]inPages{} {
						t.Errorf("packets are used again with %+v", p.pages)
					}
				}
			})
			for _, c := range conns {
				if got := c.bodies(t, 1); len(got) != toOne(tc.pushes) {
					t.Fatalf("a member got %d pushes of %d", len(got), toOne(tc.pushes))
				}
			}
		})
	}
}
