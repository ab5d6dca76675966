package scenario

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// options are the flags of all scenarios.
type options struct {
	tcp, ws, http string
	path          string
	transport     string
	conns         int
	procs, loops  int
	sources       int
	timed         int
	drain         time.Duration
	heartbeat     time.Duration
	authTimeout   time.Duration
	inFlight      int
	connectRate   float64

	rates      floats
	duration   time.Duration
	settle     time.Duration
	patience   time.Duration
	calm       time.Duration
	attempts   int
	maxSlow    float64
	publishers int
	body       int
	repeat     int
	rooms      int
	members    int
	batch      int
	route      string
	store      bool
	results    bool
	speed      int
	churn      float64
	slowBuffer int
	target     time.Duration
	writers    int
	limit      bool
	smallRate  float64
	churners   int
	of         string
	slow       float64
	profiles   string
	firstMid   int64

	pids        named
	admins      named
	out         string
	commit      string
	setup       string
	timeout     time.Duration
	allowRemote bool
	quiet       bool
}

// floats is a list of rates: "10,100".
type floats []float64

func (f *floats) String() string {
	text := make([]string, len(*f))
	for i, v := range *f {
		text[i] = plain(v)
	}
	return strings.Join(text, ",")
}

func (f *floats) Set(v string) error {
	*f = nil
	for _, one := range strings.Split(v, ",") {
		n, err := strconv.ParseFloat(one, 64)
		if err != nil || !(n >= 0 && n <= maxRate) { // so NaN is none
			return fmt.Errorf("%q is no rate; allowed is a list of 0 to %d, with commas", one, maxRate)
		}
		*f = append(*f, n)
	}
	return nil
}

// named is a repeatable flag NAME=VALUE.
type named [][2]string

func (n *named) String() string {
	text := make([]string, len(*n))
	for i, v := range *n {
		text[i] = v[0] + "=" + v[1]
	}
	return strings.Join(text, " ")
}

func (n *named) Set(v string) error {
	name, value, ok := strings.Cut(v, "=")
	if !ok || name == "" || value == "" {
		return errors.New("allowed is NAME=VALUE")
	}
	for _, have := range *n {
		if have[0] == name {
			return fmt.Errorf("%s is there already", name)
		}
	}
	*n = append(*n, [2]string{name, value})
	return nil
}

// common are the defaults that scenarios start from.
func common() options {
	return options{
		path: "/sub", transport: "tcp", conns: 10_000, procs: 1, loops: 1, sources: 8, timed: 200,
		drain: 200 * time.Millisecond, heartbeat: 4 * time.Minute, authTimeout: 30 * time.Second, inFlight: 256,
		rates: floats{10}, duration: 10 * time.Second, settle: 3 * time.Second, calm: 10 * time.Second, attempts: 1, maxSlow: 0.02, publishers: 16, body: 12, repeat: 1,
		rooms: 100, members: 100, batch: 1, route: "goim", results: true, churn: 500, smallRate: 100, churners: 2000, of: "room", slow: 1, slowBuffer: 4096, target: 120 * time.Millisecond,
		writers: 2, firstMid: 1, timeout: 30 * time.Minute,
	}
}

// flags declares all of them; the defaults are those of o.
func (o *options) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.tcp, "tcp", o.tcp, "`ADDR`, or several with commas, of comets' TCP listeners")
	fs.StringVar(&o.ws, "ws", o.ws, "`ADDR`, or several with commas, of comets' WebSocket listeners")
	fs.StringVar(&o.path, "path", o.path, "`PATH` of the WebSocket handshake")
	fs.StringVar(&o.transport, "transport", o.transport, "tcp or ws; tcp,ws compares them, in turns (room)")
	fs.StringVar(&o.http, "http", o.http, "`ADDR`, or several with commas, of logics' push APIs")
	fs.IntVar(&o.conns, "conns", o.conns, "connections over all processes")
	fs.IntVar(&o.procs, "procs", o.procs, "client processes; one holds as many connections as the open-file limit allows")
	fs.IntVar(&o.loops, "loops", o.loops, "event loops of each client process")
	fs.IntVar(&o.sources, "sources", o.sources, "local addresses 127.0.0.1 ... to connect from; 0 = the system's choice")
	fs.IntVar(&o.timed, "timed", o.timed, "connections that are read at once and timed, spread evenly; the others are drained now and then; -1 = all")
	fs.DurationVar(&o.drain, "drain", o.drain, "how often connections that are not timed are read")
	fs.DurationVar(&o.heartbeat, "heartbeat", o.heartbeat, "how often each connection sends a heartbeat; 0 = never")
	fs.DurationVar(&o.authTimeout, "auth-timeout", o.authTimeout, "time from connect to the answer to auth")
	fs.IntVar(&o.inFlight, "inflight", o.inFlight, "connections of each process that may be between connect and the answer to auth")
	fs.Float64Var(&o.connectRate, "connect-rate", o.connectRate, "connections per second that are opened; 0 = as many as -inflight allows")
	fs.Var(&o.rates, "rate", "`LIST` of messages per second, one step each; 0 = the next when the last is answered")
	fs.DurationVar(&o.duration, "duration", o.duration, "time of one step")
	fs.DurationVar(&o.settle, "settle", o.settle, "how long nothing may arrive before what is missing counts as lost")
	fs.DurationVar(&o.patience, "patience", o.patience, "how long behind a step what was due in it is still sent; 0 = 1s and a quarter of -duration")
	fs.DurationVar(&o.calm, "calm", o.calm, "how long to wait before each step until the servers use less than a quarter of a core")
	fs.IntVar(&o.attempts, "attempts", o.attempts, "how often a step is run at most where processors of the machine were slow for more than -max-slow; the report keeps every attempt (not slow, idle)")
	fs.Float64Var(&o.maxSlow, "max-slow", o.maxSlow, "share of the time; see -attempts and speed in the report")
	fs.IntVar(&o.publishers, "publishers", o.publishers, "connections to the push API; each sends one push after the other")
	fs.IntVar(&o.body, "body", o.body, "bytes of a body; 12 or more; a header of 16 goes before it")
	fs.IntVar(&o.repeat, "repeat", o.repeat, "how often all steps are run; the summary has the medians")
	fs.IntVar(&o.rooms, "rooms", o.rooms, "number of rooms (rooms), of small rooms (mixed)")
	fs.IntVar(&o.members, "members", o.members, "members of a small room (mixed)")
	fs.IntVar(&o.batch, "batch", o.batch, "users in one push (unicast)")
	fs.BoolVar(&o.store, "store", o.store, "messages are stored: they get positions in Redis and, where the server has one, rows in the archive (unicast, room)")
	fs.BoolVar(&o.results, "results", o.results, "pushes to users are answered with who is online; -results=false spares its look-up (-route v1)")
	fs.StringVar(&o.route, "route", o.route, "push API for unicast: goim (/goim/push/mids), keys (/goim/push/keys, to keys that the connections name) or v1 (/v1/push)")
	fs.IntVar(&o.speed, "speed", o.speed, "messages per second of push-all over the cluster; 0 = no limit (all)")
	fs.Float64Var(&o.smallRate, "small-rate", o.smallRate, "messages per second over all small rooms (mixed)")
	fs.IntVar(&o.churners, "churners", o.churners, "connections that come and go, beside -conns that stay (churn)")
	fs.StringVar(&o.of, "of", o.of, "room or unicast (capacity)")
	fs.Float64Var(&o.slow, "slow", o.slow, "per cent of the clients that stop reading, and again that read 1 KB/s (slow)")
	fs.StringVar(&o.profiles, "profile", o.profiles, "`DIR` for a CPU profile of each -admin and step; it costs the server some CPU itself")
	fs.Float64Var(&o.churn, "churn", o.churn, "connections per second that are closed and opened again (churn)")
	fs.IntVar(&o.slowBuffer, "slow-buffer", o.slowBuffer, "receive buffer of slow clients in bytes; 0 = the system's (slow)")
	fs.DurationVar(&o.target, "target", o.target, "p99 that the search keeps to (capacity)")
	fs.IntVar(&o.writers, "writers", o.writers, "threads of the bare write loop")
	fs.BoolVar(&o.limit, "limit", o.limit, "run the bare write loop before each repeat: at the same rates (room), or only connect to it (connect)")
	fs.Int64Var(&o.firstMid, "first-mid", o.firstMid, "user id of the first connection; the others follow; 0 = no user ids")
	fs.Var(&o.pids, "pid", "`NAME=PID` of a server process to measure; may be repeated")
	fs.Var(&o.admins, "admin", "`NAME=ADDR` of an admin listener whose metrics are put into the report; may be repeated")
	fs.StringVar(&o.out, "o", o.out, "`FILE` for the report as JSON; - = standard output")
	fs.StringVar(&o.commit, "commit", o.commit, "commit of what is measured; empty = the build's")
	fs.StringVar(&o.setup, "setup", o.setup, "how the servers were set up, for the report")
	fs.DurationVar(&o.timeout, "timeout", o.timeout, "the whole run is given up after this time")
	fs.BoolVar(&o.allowRemote, "allow-remote", o.allowRemote, "allow addresses that are not loopback")
	fs.BoolVar(&o.quiet, "quiet", o.quiet, "no progress line")
}

// transports are those that are measured.
func (o *options) transports() []string { return strings.Split(o.transport, ",") }

// servers are the comets' listeners of a transport.
func (o *options) servers(transport string) []string {
	if transport == "ws" {
		return split(o.ws)
	}
	return split(o.tcp)
}

func split(list string) []string {
	var all []string
	for _, one := range strings.Split(list, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		// "localhost:1" and ":1" are meant as loopback.
		if host, port, err := net.SplitHostPort(one); err == nil && (host == "" || host == "localhost") {
			one = net.JoinHostPort("127.0.0.1", port)
		}
		all = append(all, one)
	}
	return all
}

// settings are all flags as they were used.
func settings(fs *flag.FlagSet) map[string]string {
	all := map[string]string{}
	fs.VisitAll(func(f *flag.Flag) {
		if v := f.Value.String(); v != "" && f.Name != "o" && f.Name != "quiet" {
			all[f.Name] = v
		}
	})
	return all
}

func usage(w io.Writer, fs *flag.FlagSet, s *scenario) {
	fmt.Fprintf(w, "perseid bench %s: %s\n\nUsage: perseid bench %s [flags]\n\n", s.name, s.about, s.name)
	fs.PrintDefaults()
}
