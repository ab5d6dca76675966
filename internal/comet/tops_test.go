package comet

import (
	"fmt"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
)

// Symptom: every few seconds a loop with very many sessions of version 2 wrote to
// nobody for a while. Cause: a twentieth of its sessions, and the rooms of each,
// were looked through in one piece to ask for their tops.
func TestTopsAreAskedForInBoundedSteps(t *testing.T) {
	const sessions, rooms = 1500, 9
	f := newFixture(t, 1, nil)
	f.g.maxSessions = sessions
	b := f.buckets[0]
	f.on(b, func() {
		for i := range sessions {
			c := &testConn{bucket: b}
			c.session = b.Open(c, Stream, netip127())
			c.session.state, c.session.mid, c.session.tops = live, int64(i+1), &tops{}
			for k := range rooms {
				c.session.rooms = append(c.session.rooms, membership{room: &Room{key: fmt.Sprintf("live://%d-%d", i, k)}})
			}
		}
		asked := map[message.Timeline]bool{}
		for slots := sessions; slots > 0; {
			share, left := b.topsShare(slots)
			if n := (slots - left) * (1 + rooms); n == 0 || n > turnUnits+rooms {
				t.Errorf("%d sessions and rooms at once, at most %d are allowed", n, turnUnits+rooms)
				break
			}
			for _, tl := range share.tls {
				asked[tl] = true
			}
			slots = left
		}
		if want := sessions*(1+rooms) + 1; len(asked) != want {
			t.Errorf("%d timelines are asked for, want %d", len(asked), want)
		}
		for i := range b.slots { // the rooms are in no index
			b.slots[i].s.rooms = nil
		}
	})
}
