package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// crowd is clients that come back whenever they lose their connection, as an
// SDK does, and note everything they get.
type crowd struct {
	t        *testing.T
	ver      int16
	pick     func() string // address for the next attempt
	members  []*member
	refused  atomic.Int64 // attempts that failed
	stop     context.CancelFunc
	stopped  context.Context
	running  sync.WaitGroup
	connects atomic.Int64
	attempt  int // of waitReachable; over all its calls, so that no body comes twice
	probes   int // its pushes to one key or user each, all of which have one outcome
	loads    int
}

// member is one client: key "<name>-<i>", user mid+i, room live://<i modulo rooms>.
type member struct {
	key, room string
	mid       int64

	mu      sync.Mutex
	addr    string // "" = not connected
	conns   int
	byes    []string
	conn    *goim
	got     []string
	arrived map[string]bool
}

func newCrowd(t *testing.T, ver int16, size, rooms int, pick func() string) *crowd {
	return newCrowdOf(t, "c", 1, ver, size, rooms, pick)
}

// newCrowdOf is newCrowd beside another crowd.
func newCrowdOf(t *testing.T, name string, mid int64, ver int16, size, rooms int, pick func() string) *crowd {
	c := &crowd{t: t, ver: ver, pick: pick}
	c.stopped, c.stop = context.WithCancel(context.Background())
	t.Cleanup(c.close)
	for i := range size {
		m := &member{key: fmt.Sprintf("%s-%d", name, i), mid: mid + int64(i), arrived: map[string]bool{}}
		if rooms > 0 {
			m.room = fmt.Sprintf("live://%d", i%rooms)
		}
		c.members = append(c.members, m)
		c.running.Go(func() { c.live(m) })
	}
	return c
}

func (c *crowd) close() {
	c.stop()
	c.running.Wait()
}

// live keeps one member connected.
func (c *crowd) live(m *member) {
	token := fmt.Sprintf(`{"mid":%d,"key":%q,"room_id":%q,"accepts":[1000]}`, m.mid, m.key, m.room)
	for c.stopped.Err() == nil {
		addr := c.pick()
		wait := 20 * time.Millisecond
		cl, err := connectAs(c.stopped, c.ver, addr, token, m.push)
		if err != nil {
			c.refused.Add(1)
		} else {
			c.connects.Add(1)
			m.mu.Lock()
			m.addr, m.conn = addr, cl
			m.conns++
			m.mu.Unlock()
			select {
			case <-cl.done:
			case <-c.stopped.Done():
			}
			cl.close()
			m.mu.Lock()
			m.addr, m.conn = "", nil
			if cl.bye != nil {
				m.byes = append(m.byes, string(cl.bye))
				var bye struct {
					RetryMS int64 `json:"retry_ms"`
				}
				if json.Unmarshal(cl.bye, &bye) == nil {
					wait = time.Duration(bye.RetryMS) * time.Millisecond
				}
			}
			m.mu.Unlock()
		}
		select {
		case <-time.After(wait): // a client that was turned away waits before it comes back
		case <-c.stopped.Done():
		}
	}
}

func (m *member) push(_ wire.Op, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, string(body))
	m.arrived[string(body)] = true
}

func (m *member) has(body string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.arrived[body]
}

func (m *member) at() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addr
}

// waitConnected waits until every member is in.
func (c *crowd) waitConnected(within time.Duration) {
	c.t.Helper()
	waitFor(c.t, within, func() error {
		n := 0
		for _, m := range c.members {
			if m.at() != "" {
				n++
			}
		}
		if n < len(c.members) {
			return fmt.Errorf("%d of %d are connected", n, len(c.members))
		}
		return nil
	})
}

// waitReachable pushes to every member by key, by user and to the rooms until
// everything arrives: what is pushed to somebody who cannot be found is gone,
// so each attempt is a message of its own.
func (c *crowd) waitReachable(hc *http.Client, base string, within time.Duration) {
	c.t.Helper()
	c.waitProbes(hc, base, within, true)
}

func (c *crowd) waitProbes(hc *http.Client, base string, within time.Duration, rooms bool) {
	c.t.Helper()
	missing := map[string]func() bool{} // push query -> it arrived
	for _, m := range c.members {
		for _, q := range []string{"keys?operation=1000&keys=" + m.key, fmt.Sprintf("mids?operation=1000&mids=%d", m.mid)} {
			missing[q] = func() bool { return m.has(fmt.Sprintf("reach %d %s", c.attempt, q)) }
		}
		if typ, room, ok := strings.Cut(m.room, "://"); ok && rooms {
			q := "room?operation=1000&type=" + typ + "&room=" + room
			before := missing[q]
			missing[q] = func() bool {
				return (before == nil || before()) && m.has(fmt.Sprintf("reach %d %s", c.attempt, q))
			}
		}
	}
	waitFor(c.t, within, func() error {
		c.attempt++
		for q := range missing {
			if status, answer, err := post(c.t.Context(), hc, base+"/goim/push/"+q, "text/plain", fmt.Sprintf("reach %d %s", c.attempt, q)); err != nil || status != 200 {
				return fmt.Errorf("%s: %d %s %v", q, status, answer, err)
			}
			c.probes++
		}
		deadline := time.NewTimer(700 * time.Millisecond)
		defer deadline.Stop()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			for q, arrived := range missing {
				if arrived() {
					delete(missing, q)
				}
			}
			if len(missing) == 0 {
				return nil
			}
			select {
			case <-tick.C:
			case <-deadline.C:
				return fmt.Errorf("%d targets are not reachable", len(missing))
			}
		}
	})
}

// counted waits until the outcomes of all probes are counted, which may be after
// they have arrived: a job counts when the comet has answered.
func (c *crowd) counted(hc *http.Client, jobs ...*daemon) (sum float64, by map[string]float64) {
	c.t.Helper()
	waitFor(c.t, patience, func() error {
		if sum, by = outcomes(c.t, hc, jobs...); sum != float64(c.probes) {
			return fmt.Errorf("%g outcomes for %d probes: %v", sum, c.probes, by)
		}
		return nil
	})
	return sum, by
}

// load is producers that push to the members of a crowd by key. Every body is
// "<key>|<producer>|<n>", n growing per key and producer.
type load struct {
	bases   func() []string // HTTP addresses of logics, tried in turn
	hc      *http.Client
	running sync.WaitGroup
	halt    atomic.Bool
	sent    atomic.Int64
	failed  atomic.Int64

	mu       sync.Mutex
	accepted map[string][]string // key -> bodies
	errors   map[string]int
}

// why lists the answers of the pushes that were not accepted.
func (l *load) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.errors)
}

func (c *crowd) load(hc *http.Client, producers int, pause time.Duration, bases func() []string) *load {
	l := &load{bases: bases, hc: hc, accepted: map[string][]string{}, errors: map[string]int{}}
	c.t.Cleanup(l.stop)
	c.loads++
	for p := range producers {
		p += 1000 * c.loads // no body comes twice
		l.running.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(p), 7))
			next := make([]int, len(c.members))
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for i := p; !l.halt.Load(); i++ {
				k := rnd.IntN(len(c.members))
				key := c.members[k].key
				body := fmt.Sprintf("%s|%d|%d", key, p, next[k])
				next[k]++ // also when it fails: it may have been accepted all the same
				bases := bases()
				status, answer, err := post(context.Background(), hc, bases[i%len(bases)]+"/goim/push/keys?operation=1000&keys="+key, "text/plain", body)
				l.mu.Lock()
				if err == nil && status == 200 && answer == `{"code":0,"message":""}` {
					l.accepted[key] = append(l.accepted[key], body)
					l.sent.Add(1)
				} else {
					l.failed.Add(1)
					l.errors[fmt.Sprintf("%d %.120s %v", status, answer, err)]++
				}
				l.mu.Unlock()
				<-tick.C
			}
		})
	}
	return l
}

func (l *load) stop() {
	l.halt.Store(true)
	l.running.Wait()
}

// tally is what became of a load.
type tally struct {
	accepted, arrived, missing, duplicates, inversions int
}

func (t tally) String() string {
	return fmt.Sprintf("%d accepted: %d arrived, %d missing, %d duplicates, %d inversions", t.accepted, t.arrived, t.missing, t.duplicates, t.inversions)
}

func (c *crowd) tally(l *load) (t tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range c.members {
		m.mu.Lock()
		// Only these have an order: what was answered with an error may still come,
		// as late as the log took it.
		accepted := map[string]bool{}
		for _, body := range l.accepted[m.key] {
			accepted[body] = true
			t.accepted++
			if !m.arrived[body] {
				t.missing++
			}
		}
		last := map[string]int{}
		seen := map[string]bool{}
		for _, body := range m.got {
			f := strings.Split(body, "|")
			if len(f) != 3 {
				continue
			}
			t.arrived++
			n, _ := strconv.Atoi(f[2])
			switch was, ok := last[f[1]]; {
			case f[0] != m.key:
				t.inversions++
			case seen[body]:
				t.duplicates++
			case ok && n < was && accepted[body]:
				t.inversions++ // for the first time behind a later one; a copy is a duplicate
			}
			seen[body] = true
			if accepted[body] {
				last[f[1]] = max(last[f[1]], n)
			}
		}
		m.mu.Unlock()
	}
	return t
}

// containsState tells whether an answer of /v1/push has a target in the state.
func containsState(answer, state string) bool { return strings.Contains(answer, `"state":"`+state+`"`) }

// outcomes sums a job's counts, by outcome.
func outcomes(t *testing.T, hc *http.Client, jobs ...*daemon) (sum float64, by map[string]float64) {
	t.Helper()
	by = map[string]float64{}
	for _, d := range jobs {
		for _, o := range []string{"delivered", "not_here", "offline", "filtered", "slow", "repeat", "draining", "unreachable", "canceled"} {
			n, err := d.metric(t.Context(), hc, "perseid_dispatch_total", `outcome="`+o+`"`)
			if err != nil {
				t.Fatal(err)
			}
			by[o] += n
			sum += n
		}
	}
	return sum, by
}
