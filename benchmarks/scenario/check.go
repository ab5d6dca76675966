package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// Limits of flags, where more would only use up the machine's memory.
const (
	maxRate  = 10_000_000
	maxConns = 10_000_000 // of all processes
)

// problems lists what is not allowed, one line for each flag.
func (o *options) problems(s *scenario) []string {
	var p []string
	bad := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	for _, n := range []struct {
		name         string
		v, low, high int
	}{
		{"conns", o.conns, 1, maxConns},
		{"procs", o.procs, 1, 256},
		{"loops", o.loops, 1, 256},
		{"sources", o.sources, 0, 250},
		{"timed", o.timed, -1, maxConns},
		{"inflight", o.inFlight, 1, maxConns},
		{"publishers", o.publishers, 1, load.MaxStreams}, // of one addressee
		{"repeat", o.repeat, 1, 1000},
		{"attempts", o.attempts, 1, 1000},
		{"rooms", o.rooms, 1, 1_000_000},
		{"members", o.members, 1, 1_000_000},
		{"batch", o.batch, 1, maxConns},
		{"writers", o.writers, 1, 256},
		{"body", o.body, load.StampLen, 60_000},
		{"churners", o.churners, 1, maxConns},
		{"slow-buffer", o.slowBuffer, 0, 1 << 30},
		{"speed", o.speed, 0, maxRate},
	} {
		if n.v < n.low || n.v > n.high {
			bad("-%s %d: allowed is %d to %d", n.name, n.v, n.low, n.high)
		}
	}
	if o.conns >= 1 && o.procs > o.conns {
		bad("-procs %d: allowed is up to one for each of the %d connections", o.procs, o.conns)
	}
	if o.firstMid < 0 {
		bad("-first-mid %d: allowed is 0 or more", o.firstMid)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
		zero bool
	}{
		{"drain", o.drain, false},
		{"auth-timeout", o.authTimeout, false},
		{"duration", o.duration, false},
		{"settle", o.settle, false}, {"patience", o.patience, true},
		{"timeout", o.timeout, false},
		{"target", o.target, false},
		{"heartbeat", o.heartbeat, true},
		{"calm", o.calm, true},
	} {
		switch {
		case d.zero && d.v < 0:
			bad("-%s %s: allowed is 0s or more", d.name, d.v)
		case !d.zero && d.v <= 0:
			bad("-%s %s: allowed is more than 0s", d.name, d.v)
		}
	}
	for _, n := range []struct {
		name         string
		v, low, high float64
	}{
		{"max-slow", o.maxSlow, 0, 1},
		{"churn", o.churn, 0, maxRate},
		{"small-rate", o.smallRate, 0, maxRate},
		{"connect-rate", o.connectRate, 0, maxRate},
		{"slow", o.slow, 0.0001, 40},
	} {
		if !(n.v >= n.low && n.v <= n.high) { // so NaN is none
			bad("-%s %v: allowed is %s to %s", n.name, n.v, plain(n.low), plain(n.high))
		}
	}
	for _, w := range []struct {
		name, v string
		allowed []string
	}{
		{"of", o.of, []string{"room", "unicast"}},
		{"route", o.route, []string{"goim", "keys", "v1"}},
	} {
		if !slices.Contains(w.allowed, w.v) {
			bad("-%s %q: allowed is one of %q", w.name, w.v, w.allowed)
		}
	}
	if o.transport != "tcp" && o.transport != "ws" && (o.transport != "tcp,ws" || !s.comparesTransports) {
		bad("-transport %q: allowed is tcp or ws; for room also tcp,ws", o.transport)
	}
	if !o.results && o.route != "v1" {
		bad("-results=false: allowed with -route v1")
	}
	if s.check != nil {
		if err := s.check(o); err != nil {
			bad("%s", err)
		}
	}
	return append(append(p, o.badAddresses(s)...), o.badFiles()...)
}

func (o *options) badAddresses(s *scenario) []string {
	var p []string
	bad := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	for _, transport := range o.transports() {
		if s.needsServer && len(o.servers(transport)) == 0 {
			bad("-%s: no address; -transport is %s", transport, o.transport)
		}
	}
	if s.needsHTTP && len(split(o.http)) == 0 {
		bad("-http: no address")
	}
	for _, list := range [][2]string{{"tcp", o.tcp}, {"ws", o.ws}, {"http", o.http}} {
		for _, addr := range split(list[1]) {
			if err := o.mayTalkTo(addr); err != nil {
				bad("-%s %s", list[0], err)
			}
		}
	}
	for _, a := range o.admins {
		if err := o.mayTalkTo(a[1]); err != nil {
			bad("-admin %s: %s", a[0], err)
		}
	}
	return p
}

func (o *options) mayTalkTo(addr string) error {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("%q: allowed is IP:port", addr)
	}
	if !a.Addr().IsLoopback() && !o.allowRemote {
		return fmt.Errorf("%q is not a loopback address; -allow-remote allows it", addr)
	}
	return nil
}

// badFiles looks before the run whether its report can be written after it.
func (o *options) badFiles() []string {
	var p []string
	if o.profiles != "" && !isFolder(o.profiles) {
		p = append(p, fmt.Sprintf("-profile %q: allowed is a folder that is there", o.profiles))
	}
	if o.out != "" && o.out != "-" && (isFolder(o.out) || !isFolder(filepath.Dir(o.out))) {
		p = append(p, fmt.Sprintf("-o %q: allowed is a file in a folder that is there, or - for standard output", o.out))
	}
	return p
}

// plain is without an exponent.
func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
