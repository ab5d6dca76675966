package e2e

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/testdeps"
)

// fleet is two of each daemon.
type fleet struct {
	c     *cluster
	slots map[string][]*seat

	mu     sync.Mutex
	addrs  map[string][]string // where the daemons of a kind are, or were when they lived
	slow   time.Duration       // longest start
	starts int
}

// seat is a name under which one daemon after the other works.
type seat struct {
	*daemon
	kind  string
	i     int
	up    chan struct{} // closed when it is ready, or has ended before
	ready bool
}

func newFleet(c *cluster) *fleet {
	f := &fleet{c: c, slots: map[string][]*seat{}, addrs: map[string][]string{}}
	for _, kind := range []string{"logic", "comet", "job"} {
		f.addrs[kind] = make([]string, 2)
		for i := range 2 {
			f.slots[kind] = append(f.slots[kind], f.launch(kind, i))
		}
	}
	f.settle()
	return f
}

// launch starts a daemon; callers learn its address when it is ready.
func (f *fleet) launch(kind string, i int) *seat {
	f.c.t.Helper()
	began := time.Now()
	s := &seat{daemon: f.c.launch(kind, fmt.Sprintf("%s-%d", kind, i+1)), kind: kind, i: i, up: make(chan struct{})}
	listener := map[string]string{"logic": "http=", "comet": "tcp=", "job": "admin="}[kind]
	go func() {
		defer close(s.up)
		for _, word := range strings.Fields(<-s.daemon.ready) {
			if addr, ok := strings.CutPrefix(word, listener); ok {
				s.ready = true
				f.mu.Lock()
				f.addrs[kind][i] = addr
				f.slow = max(f.slow, time.Since(began))
				f.starts++
				f.mu.Unlock()
			}
			if addr, ok := strings.CutPrefix(word, "admin="); ok {
				s.addrs["admin"] = addr
			}
		}
	}()
	return s
}

// settle waits until all daemons are ready, or those of one kind.
func (f *fleet) settle(kinds ...string) {
	f.c.t.Helper()
	for kind, list := range f.slots {
		if len(kinds) > 0 && kinds[0] != kind {
			continue
		}
		for _, s := range list {
			began := time.Now()
			select {
			case <-s.up:
				if !s.ready {
					f.c.t.Fatalf("%s ended at its start\n%s", s.name, s.log.tail(6000))
				}
			case <-time.After(2 * time.Minute):
				f.c.t.Fatalf("%s is not ready\n%s", s.name, s.log.tail(6000))
			}
			if waited := time.Since(began); waited > 10*time.Second {
				f.c.t.Logf("%s was waited for for %s; its log:\n%s", s.name, waited.Round(time.Millisecond), s.log.tail(3000))
			}
		}
	}
}

// any is the address of one of a kind, dead or alive.
func (f *fleet) any(kind string) func() string {
	return func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.addrs[kind][rand.IntN(len(f.addrs[kind]))]
	}
}

// kill ends some of a kind by SIGKILL and launches others under their names.
func (f *fleet) kill(kind string, which ...int) {
	f.c.t.Helper()
	f.settle(kind)
	for _, i := range which {
		if d := f.slots[kind][i]; d.Signal(syscall.SIGKILL) != nil {
			f.c.t.Fatalf("%s was dead already\n%s", d.name, d.log.tail(4000))
		}
	}
	for _, i := range which {
		_ = f.slots[kind][i].Wait() // says that it was killed
		f.slots[kind][i] = f.launch(kind, i)
	}
}

// chaos is the faults of a run.
type chaos struct {
	t       *testing.T
	cfg     chaosConfig
	r       *rand.Rand
	fleet   *fleet
	redis   *redisPair
	kafka   *testdeps.Server
	mariadb *testdeps.Server
	load    *chaosLoad
	clients *followers
	db      *sql.DB // the archive
	began   time.Time
	done    map[string]int
	story   []string
}

// plan is what is done, in a random order; the longest absence of MariaDB last.
func (x *chaos) plan() []string {
	var faults []string
	add := func(n int, fault string) {
		for range n {
			faults = append(faults, fault)
		}
	}
	for _, kind := range []string{"job", "logic", "comet"} {
		add(x.cfg.kills, "kill -9 "+kind)
	}
	for _, how := range []string{"Redis restarted with AOF", "Redis restarted empty", "Redis failed over to a replica behind"} {
		add(x.cfg.redis, how)
	}
	add(x.cfg.flushes, "Redis flushed")
	add(x.cfg.frozen, "freeze job for 12 s")
	add(x.cfg.frozen, "freeze logic for 12 s")
	for _, fault := range []string{
		"together: both jobs", "together: both logics", "together: both comets",
		"together: job, and Redis restarted empty", "together: job and logic, and Redis failed over",
	} {
		add(x.cfg.together, fault)
	}
	add(x.cfg.kafka, "Kafka broker killed and restarted")
	add(max(x.cfg.mariadb-1, 0), "MariaDB away for 10 s")
	x.r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	if x.cfg.mariadb > 0 {
		faults = append(faults, fmt.Sprintf("MariaDB away for %d s", x.cfg.away))
	}
	return faults
}

func (x *chaos) say(format string, args ...any) {
	line := fmt.Sprintf("%6.1f s  ", time.Since(x.began).Seconds()) + fmt.Sprintf(format, args...)
	x.story = append(x.story, line)
	x.t.Log(line)
}

// run does everything of the plan.
func (x *chaos) run() {
	x.t.Helper()
	for _, fault := range x.plan() {
		x.wait(x.cfg.pause(x.r.Float64()))
		x.do(fault)
	}
	x.fleet.settle()
}

// wait lets the load run; nothing is waited for but the time.
func (x *chaos) wait(d time.Duration) { <-time.After(d) }

func (x *chaos) do(fault string) {
	x.t.Helper()
	x.done[fault]++
	x.say("%s; %d accepted, %d retries so far", fault, x.load.accepted.Load(), x.load.retries.Load())
	kind, isKill := strings.CutPrefix(fault, "kill -9 ")
	frozen, isFreeze := strings.CutPrefix(fault, "freeze ")
	var seconds int
	switch {
	case isKill:
		x.fleet.kill(kind, x.r.IntN(2))
	case isFreeze:
		kind, _, _ := strings.Cut(frozen, " ")
		x.freeze(kind, x.r.IntN(2))
	case strings.HasPrefix(fault, "together: "):
		x.together(strings.TrimPrefix(fault, "together: "))
	case fault == "Redis restarted with AOF":
		x.redis.restart(false)
	case fault == "Redis restarted empty":
		x.redis.restart(true)
	case fault == "Redis failed over to a replica behind":
		x.failover(func() {})
	case fault == "Redis flushed":
		if _, err := x.redis.do(x.redis.master, "FLUSHALL"); err != nil {
			x.t.Fatal(err)
		}
	case strings.HasPrefix(fault, "Kafka"):
		x.kafka.Kill()
		x.kafka.Restart()
	case strings.HasPrefix(fault, "MariaDB"):
		if _, err := fmt.Sscanf(fault, "MariaDB away for %d s", &seconds); err != nil {
			x.t.Fatal(err)
		}
		x.mariadb.Kill()
		back := time.Now().Add(time.Duration(seconds) * time.Second)
		x.wait(time.Until(back) / 2)
		x.mayKill("job")
		x.wait(time.Until(back) / 2)
		x.redis.restart(x.r.IntN(2) == 0)
		x.say("  and Redis restarted and a job killed meanwhile")
		x.wait(time.Until(back))
		x.mariadb.Restart()
		x.fleet.settle()
	default:
		x.t.Fatalf("no such fault: %s", fault)
	}
}

// failover loses what at least 20 requests wrote, and does more at that moment.
func (x *chaos) failover(more func()) {
	x.t.Helper()
	was := x.redis.lost
	x.redis.failover(func() {
		x.load.more(x.t, 20, 90*time.Second)
		more()
	})
	x.say("  the failover lost %d bytes of acknowledged writes", x.redis.lost-was)
}

// together does several faults before the first of them is healed.
func (x *chaos) together(what string) {
	x.t.Helper()
	x.fleet.settle()
	one := x.r.IntN(2)
	switch what {
	case "both jobs", "both logics", "both comets":
		kind := strings.TrimSuffix(strings.TrimPrefix(what, "both "), "s")
		x.fleet.kill(kind, 0, 1)
	case "job, and Redis restarted empty":
		x.fleet.kill("job", one)
		x.redis.restart(true)
	case "job and logic, and Redis failed over":
		x.failover(func() {
			x.fleet.kill("job", one)
			x.fleet.kill("logic", 1-one)
		})
	default:
		x.t.Fatalf("no such fault: %s", what)
	}
}

// freeze stops one by SIGSTOP: its partitions go to the other job and Redis loses
// everything before it wakes up and goes on with what it believed.
func (x *chaos) freeze(kind string, i int) {
	x.t.Helper()
	x.fleet.settle()
	d := x.fleet.slots[kind][i]
	signal := func(sig syscall.Signal) {
		if err := d.Signal(sig); err != nil {
			x.t.Fatalf("%s: %v\n%s", d.name, err, d.log.tail(4000))
		}
	}
	signal(syscall.SIGSTOP)
	x.wait(8 * time.Second)
	if _, err := x.redis.do(x.redis.master, "FLUSHALL"); err != nil {
		x.t.Fatal(err)
	}
	x.wait(4 * time.Second)
	signal(syscall.SIGCONT)
}

// mayKill kills one beyond the plan.
func (x *chaos) mayKill(kind string) {
	x.t.Helper()
	x.done["kill -9 "+kind+" while MariaDB is away"]++
	x.fleet.kill(kind, x.r.IntN(2))
}
