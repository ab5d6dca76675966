package presencetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
)

// The reconnect race: few keys, many reconnects over two nodes.
const (
	raceClients    = 48
	raceReconnects = 40
	raceUserOf     = 4 // clients per user
)

// comet is one node of the race. It disconnects late, in any order, and
// renews what it believes to be open. As a real one, it never renews a session
// that it has disconnected.
type comet struct {
	f    fixture
	node presence.Node

	mu   sync.Mutex // held while Renew or Disconnect run
	open map[presence.Session]bool
}

func (c *comet) add(s presence.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[s] = true
}

func (c *comet) drop(sessions []presence.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sessions {
		delete(c.open, s)
	}
	if err := c.f.Disconnect(c.f.ctx, c.node, sessions); err != nil {
		c.f.t.Error(err)
	}
}

// renewSome renews a few of the open sessions, in no order.
func (c *comet) renewSome() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sessions []presence.Session
	for s := range c.open {
		if sessions = append(sessions, s); len(sessions) == 8 {
			break
		}
	}
	if err := c.f.Renew(c.f.ctx, c.node, sessions); err != nil {
		c.f.t.Error(err)
	}
}

// ended is a connection whose disconnect is to come.
type ended struct {
	comet   *comet
	session presence.Session
}

// Symptom (F-003.13, test T11): after quick reconnects across nodes a live
// session cannot be found. Causes: removal by name, renewal that takes the key
// back, a read-then-write that another node comes between.
func testReconnectRace(t *testing.T, b Backend) {
	nodeA, nodeB := twoNodes()
	comets := make([]*comet, 0, 2)
	for _, node := range []presence.Node{nodeA, nodeB} {
		f := newFixture(t, b, long)
		f.takeLease(node, long)
		comets = append(comets, &comet{f: f, node: node, open: map[presence.Session]bool{}})
	}

	late := make(chan ended, raceClients)
	var disconnects, renewals, clients sync.WaitGroup
	for range 3 {
		disconnects.Go(func() { disconnectLate(late) })
	}
	racing, stop := context.WithCancel(t.Context())
	defer stop()
	for _, c := range comets {
		renewals.Go(func() {
			for tick := time.Tick(time.Millisecond); racing.Err() == nil; <-tick {
				c.renewSome()
			}
		})
	}
	live := make([]ended, raceClients)
	for i := range live {
		clients.Go(func() { live[i] = reconnect(t, comets, late, i) })
	}
	clients.Wait()
	stop()
	renewals.Wait()
	close(late)
	disconnects.Wait()
	if t.Failed() {
		return
	}

	f := comets[0].f
	ofUser := map[int64][]string{}
	for _, l := range live {
		f.want(key(l.session.Key), at(0, l.comet.node, l.session.ID))
		ofUser[l.session.Mid] = append(ofUser[l.session.Mid], at(0, l.comet.node, l.session.ID))
	}
	for mid, want := range ofUser {
		f.want(user(mid), want...)
	}
}

// reconnect is the life of one client: it returns the connection that is open
// at the end.
func reconnect(t *testing.T, comets []*comet, late chan<- ended, client int) ended {
	var now ended
	for n := range raceReconnects {
		c := comets[rand.IntN(len(comets))]
		s := presence.Session{
			ID:  uint64(client*raceReconnects + n + 1),
			Mid: int64(client/raceUserOf + 1),
			Key: fmt.Sprint("client-", client),
		}
		c.add(s) // the renewal may come before the connect is through
		replaced, err := c.f.Connect(c.f.ctx, c.node, []presence.Session{s})
		if err != nil {
			t.Error(err)
			return now
		}
		var want uint64
		if now.comet == c {
			want = now.session.ID
		}
		if replaced[0] != want {
			t.Errorf("connect of %d replaced %d, want %d", s.ID, replaced[0], want)
			return now
		}
		located, err := c.f.Locate(c.f.ctx, []presence.Query{key(s.Key)})
		if err != nil {
			t.Error(err)
			return now
		}
		found := located.Results[0]
		if len(found) != 1 || found[0].Session != s.ID || located.Nodes[found[0].Node].Node != c.node {
			t.Errorf("right after its connect %+v is located at %+v", s, found)
			return now
		}
		if now.comet != nil {
			late <- now
		}
		now = ended{comet: c, session: s}
	}
	return now
}

// disconnectLate ends connections in random order, some long after the client
// has come back, in batches per node.
func disconnectLate(late <-chan ended) {
	var waiting []ended
	flush := func(keep int) {
		rand.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
		batches := map[*comet][]presence.Session{}
		for _, e := range waiting[keep:] {
			batches[e.comet] = append(batches[e.comet], e.session)
		}
		waiting = waiting[:keep]
		for c, sessions := range batches {
			c.drop(sessions)
		}
	}
	for e := range late {
		waiting = append(waiting, e)
		if len(waiting) >= 24 {
			flush(8)
		}
	}
	flush(0)
}
