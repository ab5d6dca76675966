package oracle

import (
	"fmt"
	"strings"
	"testing"
)

// sound is a run without a fault: two producers, an inbox on two devices and a
// room, everything seen everywhere, one message again on a wire.
func sound() *Run {
	r := &Run{Clients: []Client{
		{Name: "a", Follows: []string{"u:1", "r:live://1"}},
		{Name: "b", Follows: []string{"u:1", "r:live://1"}},
		{Name: "c", Follows: []string{"r:live://1"}},
	}}
	id := byte(0)
	for _, tl := range []string{"u:1", "r:live://1"} {
		w := Window{Timeline: tl, Epoch: 1, Top: 6, Entries: map[uint64]ID{}}
		for seq := uint64(1); seq <= 6; seq++ {
			id++
			g := Got{Position: Position{tl, 1, seq}, ID: ID{id}, Producer: fmt.Sprint("p", seq%2), N: int(seq+1) / 2}
			r.Sent = append(r.Sent, Sent{Timeline: tl, Producer: g.Producer, N: g.N, Accepted: true, ID: g.ID})
			r.Rows = append(r.Rows, Row{g.Position, g.ID})
			if seq > 2 {
				w.Entries[seq] = g.ID
			}
			for i := range r.Clients {
				if c := &r.Clients[i]; tl != "u:1" || i < 2 {
					c.Wire = append(c.Wire, g)
					c.App = append(c.App, g)
				}
			}
		}
		r.Windows = append(r.Windows, w)
		r.Cursors = append(r.Cursors, Cursor{Where: "SQL", Mid: 1, Timeline: tl, Epoch: 1, Acked: 6, Read: 2}, Cursor{Where: "SQL", Mid: 2, Timeline: tl})
	}
	// The server may carry a position again, and a request without an answer
	// may have worked or not.
	r.Clients[0].Wire = append(r.Clients[0].Wire, r.Clients[0].Wire[0])
	r.Sent[len(r.Sent)-1].Accepted = false
	r.Sent = append(r.Sent, Sent{Timeline: "u:1", Producer: "p1", N: 4})
	return r
}

func TestASoundRun(t *testing.T) {
	got := Check(sound())
	want := Counts{Accepted: 11, Unanswered: 2, Rows: 12, Timelines: 2, Deliveries: 30, WireSeen: 31, WireRepeats: 1}
	if len(got.Violations) > 0 || got.Counts != want {
		t.Errorf("got %+v\nwant %+v\n%v", got.Counts, want, got.Violations)
	}
}

// Each rule finds what was planted against it; count tells the figure that must
// say so, too.
func TestPlantedViolationsAreFound(t *testing.T) {
	other := ID{200}
	drop := func(list []Got, i int) []Got { return append(list[:i:i], list[i+1:]...) }
	for what, c := range map[string]struct {
		rule  Rule
		count func(Counts) int
		plant func(*Run)
	}{
		"C1: an accepted message is in no place": {C1, func(c Counts) int { return c.Lost }, func(r *Run) {
			r.Sent = append(r.Sent, Sent{Timeline: "u:1", Producer: "p1", N: 5, Accepted: true, ID: other})
		}},
		"C1: one device misses the last message": {C1, func(c Counts) int { return c.Lost }, func(r *Run) {
			r.Clients[2].App = r.Clients[2].App[:5]
		}},
		"C1: a row is missing at the end": {C1, func(c Counts) int { return c.Lost }, func(r *Run) {
			r.Rows = append(r.Rows[:5:5], r.Rows[6:]...)
			delete(r.Windows[0].Entries, 6)
			r.Windows[0].Top, r.Cursors[0].Acked = 5, 5
		}},
		"C1: nobody sent it": {C1, func(c Counts) int { return c.Unsent }, func(r *Run) {
			g := Got{Position: Position{"u:1", 1, 7}, ID: other, Producer: "p9", N: 1}
			r.Clients[0].App = append(r.Clients[0].App, g)
			r.Clients[0].Wire = append(r.Clients[0].Wire, g)
		}},
		"C1: it came to a stranger": {C1, func(c Counts) int { return c.Unsent }, func(r *Run) {
			r.Clients[2].App = append(r.Clients[2].App, r.Clients[0].App[0])
		}},
		"C2: the application got one twice": {C2, func(c Counts) int { return c.AppDuplicates }, func(r *Run) {
			r.Clients[1].App = append(r.Clients[1].App, r.Clients[1].App[3])
		}},
		"C2: a retry became a second message to the application": {C2, func(c Counts) int { return c.AppDuplicates }, func(r *Run) {
			g := r.Clients[2].App[5]
			g.Seq, g.ID = 7, other
			r.Clients[2].App = append(r.Clients[2].App, g)
		}},
		"C2: a retry became a second message on the wire": {C2, func(c Counts) int { return c.RowDuplicates }, func(r *Run) {
			g := r.Clients[2].Wire[5]
			g.Seq, g.ID = 7, other
			r.Clients[2].Wire = append(r.Clients[2].Wire, g)
		}},
		"C2: one message has two rows": {C2, func(c Counts) int { return c.RowDuplicates }, func(r *Run) {
			r.Rows = append(r.Rows, Row{Position{"u:1", 1, 7}, r.Rows[0].ID})
		}},
		"C3: positions fall": {C3, func(c Counts) int { return c.Inversions }, func(r *Run) {
			a := r.Clients[2].App
			a[2], a[3] = a[3], a[2]
		}},
		"C3: a producer's messages are stored in another order": {C3, func(c Counts) int { return c.Inversions }, func(r *Run) {
			swap := func(list []Got, from int) {
				list[from].Producer, list[from].N, list[from+2].Producer, list[from+2].N = list[from+2].Producer, list[from+2].N, list[from].Producer, list[from].N
			}
			s := r.Sent
			s[0].ID, s[2].ID = s[2].ID, s[0].ID
			for i := range 2 {
				swap(r.Clients[i].App, 0)
				swap(r.Clients[i].Wire, 0)
			}
			r.Clients[0].Wire[12] = r.Clients[0].Wire[0]
		}},
		"C4: a wire saw another message at a position": {C4, func(c Counts) int { return c.Renumbered }, func(r *Run) {
			r.Clients[2].Wire = append(r.Clients[2].Wire, Got{Position: Position{"r:live://1", 1, 3}, ID: other, Producer: "p0", N: 3})
		}},
		"C4: Redis holds another message at a position": {C4, func(c Counts) int { return c.Renumbered }, func(r *Run) {
			r.Windows[1].Entries[4] = other
		}},
		"C4: a wire saw a message at another position": {C4, func(c Counts) int { return c.Renumbered }, func(r *Run) {
			g := r.Clients[2].Wire[5]
			g.Seq = 9
			r.Clients[2].Wire = append(r.Clients[2].Wire, g)
		}},
		"C4: two messages were answered one id": {C4, func(c Counts) int { return c.Renumbered }, func(r *Run) {
			r.Sent = append(r.Sent, Sent{Timeline: "u:1", Producer: "p1", N: 5, Accepted: true, ID: r.Sent[0].ID})
		}},
		"C4: a retry was answered another id": {C4, func(c Counts) int { return c.Renumbered }, func(r *Run) {
			r.Sent[0].ID = other
		}},
		"C5: two members got two orders": {C5, func(c Counts) int { return c.Inversions }, func(r *Run) {
			a := r.Clients[1].App
			a[0], a[1] = a[1], a[0]
		}},
		"C6: a gap between the rows": {C6, func(c Counts) int { return c.Gaps }, func(r *Run) {
			for i := 3; i < 6; i++ {
				r.Rows[i].Seq++
			}
		}},
		"C6: the application was led over a message": {C6, func(c Counts) int { return c.Gaps }, func(r *Run) {
			r.Clients[2].App = drop(r.Clients[2].App, 3)
		}},
		"C6: the application begins late": {C6, func(c Counts) int { return c.Gaps }, func(r *Run) {
			r.Clients[2].App = drop(r.Clients[2].App, 0)
		}},
		"C6: the application was told of a loss": {C6, func(c Counts) int { return c.Gaps }, func(r *Run) {
			r.Clients[0].Skips = append(r.Clients[0].Skips, "u:1 was reset")
		}},
		"C6: another epoch without a reset": {C6, func(c Counts) int { return c.Gaps }, func(r *Run) {
			for i := 4; i < 6; i++ {
				r.Rows[i].Epoch = 2
			}
		}},
		"C6: Redis is ahead of the archive": {C6, func(c Counts) int { return c.BeyondTop }, func(r *Run) {
			r.Windows[0].Top, r.Windows[0].Entries[7] = 7, other
		}},
		"C6: an entry above the top of Redis": {C6, func(c Counts) int { return c.BeyondTop }, func(r *Run) {
			r.Windows[0].Top = 5
		}},
		"C6: a hole in Redis": {C6, func(c Counts) int { return c.Gaps }, func(r *Run) {
			delete(r.Windows[0].Entries, 4)
		}},
		"C6: a cursor above the top": {C6, func(c Counts) int { return c.BeyondTop }, func(r *Run) {
			r.Cursors[0].Acked = 7
		}},
		"C6: a read cursor above the top": {C6, func(c Counts) int { return c.BeyondTop }, func(r *Run) {
			r.Cursors[0].Read = 7
		}},
		"C6: a cursor of another epoch": {C6, func(c Counts) int { return c.BeyondTop }, func(r *Run) {
			r.Cursors[0].Epoch = 2
		}},
	} {
		t.Run(strings.ReplaceAll(what, "/", " "), func(t *testing.T) {
			r := sound()
			c.plant(r)
			got := Check(r)
			for _, v := range got.Violations {
				if v.Rule == c.rule {
					if c.count(got.Counts) == 0 {
						t.Errorf("not counted: %+v", got.Counts)
					}
					return
				}
			}
			t.Errorf("not found: %v", got.Violations)
		})
	}
}

// A run that is broken everywhere does not drown its reader.
func TestViolationsAreBounded(t *testing.T) {
	r := sound()
	for n := range 1000 {
		r.Sent = append(r.Sent, Sent{Timeline: "u:1", Producer: "p7", N: n + 1, Accepted: true, ID: ID{7, byte(n), byte(n >> 8)}})
	}
	if got := Check(r); len(got.Violations) != maxViolations || got.Lost != 1000 {
		t.Errorf("%d violations, %d lost", len(got.Violations), got.Lost)
	}
}
