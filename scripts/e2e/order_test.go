package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// checker is told what was accepted and what arrived, and knows nothing else.
type checker struct {
	mu       sync.Mutex
	accepted map[string]map[int]int // target -> producer -> how many
	got      map[string]*receiver   // receiver name
}

type receiver struct {
	target     string
	next       map[int]int // producer -> next expected
	duplicates int
	inversions int
	total      int
}

func (c *checker) receiver(name, target string) func(wire.Op, []byte) {
	r := &receiver{target: target, next: map[int]int{}}
	c.mu.Lock()
	c.got[name] = r
	c.mu.Unlock()
	return func(_ wire.Op, body []byte) {
		fields := strings.Split(string(body), "|")
		producer, _ := strconv.Atoi(fields[1])
		n, _ := strconv.Atoi(fields[2])
		c.mu.Lock()
		defer c.mu.Unlock()
		r.total++
		switch want := r.next[producer]; {
		case fields[0] != r.target || n > want:
			r.inversions++ // a message came before one that should have been first, or to the wrong target
			r.next[producer] = n + 1
		case n < want:
			r.duplicates++
		default:
			r.next[producer]++
		}
	}
}

func (c *checker) accept(target string, producer int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accepted[target] == nil {
		c.accepted[target] = map[int]int{}
	}
	c.accepted[target][producer]++
}

// report sums up: missing messages, inversions, duplicates.
func (c *checker) report() (missing, inversions, duplicates, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.got {
		for producer, n := range c.accepted[r.target] {
			missing += max(n-r.next[producer], 0)
		}
		inversions += r.inversions
		duplicates += r.duplicates
		total += r.total
	}
	return
}

// The second half of issue 2's promise: 100,000 pushes over 100 keys and 20
// rooms from several producers on a live cluster, while jobs come, go and are
// killed. No inversion per target and producer, nothing missing.
func TestOrderAndNoLossWhileJobsComeAndGo(t *testing.T) {
	const (
		keys, rooms, members = 100, 20, 3
		producers            = 16
	)
	pushes := 100_000
	if testing.Short() {
		pushes = 10_000
	}
	c := newCluster(t)
	c.patient()
	c.settings["job"] = append(c.settings["job"], "job.dispatch_timeout=1m")
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	jobs := []*daemon{c.start("job", "job-1"), c.start("job", "job-2")}
	hc := httpClient(t)

	check := &checker{accepted: map[string]map[int]int{}, got: map[string]*receiver{}}
	var clients []*goim
	defer func() {
		for _, cl := range clients {
			cl.close()
		}
	}()
	dial := func(comet *daemon, name, target, token string) {
		t.Helper()
		cl, err := connect(t.Context(), comet.addrs["tcp"], token, check.receiver(name, target))
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, cl)
	}
	for k := range keys {
		key := fmt.Sprintf("key-%d", k)
		dial(comets[k%2], key, key, fmt.Sprintf(`{"mid":%d,"key":%q,"platform":"test","accepts":[1000]}`, k+1, key))
	}
	for r := range rooms {
		for m := range members {
			room := fmt.Sprintf("live://%d", r)
			dial(comets[m%2], fmt.Sprintf("%s/%d", room, m), room, fmt.Sprintf(`{"key":"m-%d-%d","room_id":%q,"accepts":[]}`, r, m, room))
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var sent, refused atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for p := range producers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(p), 1))
			next := map[string]int{}
			base := "http://" + logics[p%2].addrs["http"]
			for sent.Add(1) <= int64(pushes) {
				var target, u string
				if rnd.IntN(keys+rooms) < keys {
					target = fmt.Sprintf("key-%d", rnd.IntN(keys))
					u = base + "/goim/push/keys?operation=1000&keys=" + target
				} else {
					room := strconv.Itoa(rnd.IntN(rooms))
					target = "live://" + room
					u = base + "/goim/push/room?operation=1000&type=live&room=" + url.QueryEscape(room)
				}
				status, answer, err := post(ctx, hc, u, "text/plain", fmt.Sprintf("%s|%d|%d", target, p, next[target]))
				if err != nil || status != 200 || answer != `{"code":0,"message":""}` {
					refused.Add(1)
					t.Errorf("push to %s: %d %q %v", target, status, answer, err)
					return
				}
				next[target]++
				check.accept(target, p)
			}
		})
	}

	// Meanwhile jobs come and go: one joins, one is stopped in good order, one
	// is killed, another joins.
	progress := func(share int) {
		waitFor(t, 5*time.Minute, func() error {
			if n := sent.Load(); n < int64(pushes)*int64(share)/100 && refused.Load() == 0 {
				return fmt.Errorf("%d of %d sent", n, pushes)
			}
			return nil
		})
	}
	progress(15)
	jobs = append(jobs, c.start("job", "job-3"))
	progress(35)
	if err := jobs[0].Stop(); err != nil {
		t.Errorf("job-1 did not stop in good order: %v", err)
	}
	progress(55)
	if err := jobs[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	progress(75)
	jobs = append(jobs, c.start("job", "job-4"))
	wg.Wait()
	t.Logf("%d pushes accepted in %s", pushes, time.Since(began))

	waitFor(t, 2*time.Minute, func() error {
		if missing, inversions, duplicates, total := check.report(); missing > 0 {
			return fmt.Errorf("%d missing, %d inversions, %d duplicates, %d arrived", missing, inversions, duplicates, total)
		}
		return nil
	})
	missing, inversions, duplicates, total := check.report()
	t.Logf("%d deliveries: %d missing, %d inversions, %d duplicates", total, missing, inversions, duplicates)
	if missing+inversions+duplicates != 0 {
		t.Errorf("%d missing, %d inversions, %d duplicates of %d", missing, inversions, duplicates, total)
	}
	for _, d := range []*daemon{jobs[2], jobs[3]} {
		for _, outcome := range []string{"slow", "draining", "unreachable", "not_here"} {
			if n, err := d.metric(ctx, hc, "perseid_dispatch_total", `outcome="`+outcome+`"`); err != nil || n != 0 {
				t.Errorf("%s counted %g targets as %s (%v), expected is none", d.name, n, outcome, err)
			}
		}
	}
}
