package scenario

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// bench is one run.
type bench struct {
	opt        options
	clock      load.Clock
	child      load.Command
	transport  string // of the connections that are opened now
	report     *Report
	procs      []process
	line       *progress
	stallWatch *stallWatch           // nil: stalls are not watched
	tooSlow    func(*SystemUse) bool // says that the machine was, for a step to count
}

func newBench(opt options, name string, args []string, stderr io.Writer, child load.Command, tooSlow func(*SystemUse) bool) (*bench, error) {
	b := &bench{opt: opt, clock: load.NewClock(), child: child, transport: opt.transports()[0], tooSlow: tooSlow}
	for _, p := range opt.pids {
		pid, err := strconv.Atoi(p[1])
		if err != nil {
			return nil, fmt.Errorf("-pid %s=%s: allowed is NAME=PID", p[0], p[1])
		}
		one, err := newProcess(p[0], pid)
		if err != nil {
			return nil, fmt.Errorf("-pid %s: %w", p[0], err)
		}
		b.procs = append(b.procs, one)
	}
	b.report = &Report{
		Scenario: name, Started: time.Now().UTC().Truncate(time.Second), Command: append([]string{"perseid", "bench"}, args...),
		Commit: opt.commit, Machine: thisMachine(), Steps: []Step{},
	}
	if opt.commit == "" {
		b.report.Commit = commit()
	}
	b.line = &progress{w: stderr, quiet: opt.quiet}
	if at := b.clientsAt(); at != "" {
		b.report.Machine.QuickAck = quickAck(at)
		if !b.report.Machine.QuickAck && net.ParseIP(at).To4() != nil {
			b.note("the route to %s is without quickack: the kernel's timers acknowledge for the clients, many at a time", at)
		}
	}
	if b.report.Machine.Autogroup && len(b.procs) > 1 {
		b.note("kernel.sched_autogroup_enabled is 1: servers that share a machine wait longer for a processor")
	}
	return b, nil
}

// clientsAt is the address that clients connect to, if it is one of loopback;
// the bare loop listens there, too, so that it has the same route.
func (b *bench) clientsAt() string {
	if all := b.opt.servers(b.transport); len(all) > 0 {
		if host, _, err := net.SplitHostPort(all[0]); err == nil && net.ParseIP(host).IsLoopback() {
			return host
		}
	}
	return ""
}

// reach fails where nobody listens at -http or -admin, before a run begins that
// would measure nothing. What clients connect to fails by itself.
func (b *bench) reach(ctx context.Context) error {
	addrs := [][2]string{}
	for _, addr := range split(b.opt.http) {
		addrs = append(addrs, [2]string{"-http", addr})
	}
	for _, a := range b.opt.admins {
		addrs = append(addrs, [2]string{"-admin " + a[0], split(a[1])[0]})
	}
	dialer := net.Dialer{Timeout: requestTimeout}
	for _, a := range addrs {
		c, err := dialer.DialContext(ctx, "tcp", a[1])
		if err != nil {
			return fmt.Errorf("bench: %s: %w", a[0], err)
		}
		_ = c.Close()
	}
	return nil
}

func (b *bench) note(format string, args ...any) {
	b.report.Notes = append(b.report.Notes, fmt.Sprintf(format, args...))
}

// fleet is a swarm and how it was made.
type fleet struct {
	*load.Swarm
	cfg load.Config
}

// config is that of the product's servers.
func (b *bench) config(classes []load.Class, streams int) load.Config {
	o := &b.opt
	return load.Config{
		Servers: o.servers(b.transport), WebSocket: b.transport == "ws", Path: o.path, Sources: o.sources, Classes: classes,
		FirstMid: o.firstMid, Keys: o.route == "keys", Streams: streams, Drain: o.drain, Heartbeat: o.heartbeat, AuthTimeout: o.authTimeout, Loops: o.loops,
		Parts: 1,
	}
}

// connectTries of a connection to get ready.
const connectTries = 4

// connect opens all connections of a fleet, and closes it if it cannot.
func (b *bench) connect(ctx context.Context, name string, cfg load.Config, procs []process) (*fleet, error) {
	swarm, err := load.NewSwarm(ctx, cfg, b.opt.procs, b.child)
	if err != nil {
		return nil, err
	}
	f := &fleet{swarm, cfg}
	if err := b.open(ctx, name, f, procs); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (b *bench) open(ctx context.Context, name string, f *fleet, procs []process) error {
	total := 0
	for i := range f.cfg.Classes {
		total += f.cfg.Classes[i].Conns
	}
	if err := b.calm(ctx); err != nil {
		return err
	}
	meter, err := b.startMeter(ctx, f, procs)
	if err != nil {
		return err
	}
	defer meter.stop()
	beganNS := b.clock.Now()
	var s load.Stats
	for attempt := range connectTries {
		if err := f.Open(ctx, load.Ramp{InFlight: b.opt.inFlight, PerSecond: b.opt.connectRate}); err != nil {
			return err
		}
		s, err = load.Await(ctx, 10*time.Millisecond, func() (load.Stats, error) { return f.Stats(ctx) }, func(s *load.Stats) bool {
			b.line.show("%s: %d of %d connections", name, ready(s), total)
			return s.Pending == 0
		})
		if err != nil {
			return fmt.Errorf("bench: %d of %d connections: %w", ready(&s), total, err)
		}
		if ready(&s) == total || attempt == connectTries-1 {
			break
		}
	}
	took := time.Duration(max(1, s.LastAuthNS-beganNS))
	use, err := meter.read(ctx, &s)
	if err != nil {
		return err
	}
	b.report.Connects = append(b.report.Connects, Connect{
		Name: name, Conns: total, Ready: ready(&s), Seconds: round(took.Seconds(), 4), PerSecond: round(float64(ready(&s))/took.Seconds(), 1),
		Auth: latencyOf(&s.Auth), Failures: s.Failures, Processes: use.processes, Clients: use.clients, System: use.system,
	})
	if ready(&s) < total {
		return fmt.Errorf("bench: %s: only %d of %d connections to %s got ready, with %d attempts each: %s",
			name, ready(&s), total, strings.Join(f.cfg.Servers, ", "), connectTries, counted(s.Failures))
	}
	return nil
}

func ready(s *load.Stats) int {
	n := 0
	for i := range s.Classes {
		n += s.Classes[i].Ready
	}
	return n
}

// progress is the line that shows that something goes on.
type progress struct {
	w     io.Writer
	quiet bool

	mu   sync.Mutex
	last time.Time
}

// show shows the line, at most once a second; on what is no terminal every
// five.
func (p *progress) show(format string, args ...any) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	every, end := 5*time.Second, "\n"
	if f, ok := p.w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			every, end = time.Second, "\x1b[K\r"
		}
	}
	if time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	fmt.Fprintf(p.w, format+end, args...)
}
