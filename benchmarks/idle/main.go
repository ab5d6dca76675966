// Command idle measures what an idle connection costs the edge alone: a comet
// process (gnetio and the core, logic in memory) with many authenticated
// connections in rooms, and nothing else in it. "perseid bench idle" measures
// the same on a whole system; this one needs no servers and can say where the
// bytes are.
//
//	go build -o target/idle ./benchmarks/idle
//	target/idle -conns 19000 -websocket 0.5 -out benchmarks/results/idle-mixed.json
//
// The comet and the clients are processes of their own, children of this one,
// because each may open about 20,000 files. Resident bytes are VmRSS of the
// comet, less what it had before the first connection, by connection:
// "settled" is as it stands after -settle, "collected" after a garbage
// collection, "released" after the heap was given back to the system as well.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

type options struct {
	Conns     int           `json:"connections"`
	WebSocket float64       `json:"websocket_share"`
	Rooms     int           `json:"rooms"`
	Sources   int           `json:"source_addresses"`
	Version   int           `json:"protocol_version"`
	Loops     int           `json:"loops"`
	Settle    time.Duration `json:"-"`
	out       string
	profile   string
	role      string
	addrs     string
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("idle", flag.ContinueOnError)
	flags.IntVar(&o.Conns, "conns", 19_000, "connections")
	flags.Float64Var(&o.WebSocket, "websocket", 0.5, "share of WebSocket connections, 0 to 1")
	flags.IntVar(&o.Rooms, "rooms", 100, "rooms; each connection is in one")
	flags.IntVar(&o.Sources, "sources", 4, "loopback addresses that the clients come from")
	flags.IntVar(&o.Version, "version", 1, "protocol version of the clients, 1 or 2")
	flags.IntVar(&o.Loops, "loops", 2, "event loops of the comet")
	flags.DurationVar(&o.Settle, "settle", 10*time.Second, "wait before the first measurement")
	flags.StringVar(&o.out, "out", "", "file for the result; empty = standard output")
	flags.StringVar(&o.profile, "profile", "", "file for a heap profile of the full comet")
	flags.StringVar(&o.role, "role", "", "of a child: comet or clients")
	flags.StringVar(&o.addrs, "addrs", "", "of a child: where the comet listens")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch o.role {
	case "comet":
		return comet(ctx, &o)
	case "clients":
		return clients(&o)
	}
	return measure(ctx, &o, args)
}

// child is a process of this program; it ends with its standard input.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Scanner
}

func start(ctx context.Context, role string, args []string, more ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, self, append(append(append([]string(nil), args...), "-role", role), more...)...)}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(stdout)
	return c, c.cmd.Start()
}

// line is the next line of the child.
func (c *child) line() (string, error) {
	if !c.out.Scan() {
		return "", errors.Join(fmt.Errorf("%s says nothing more", c.cmd.Args[len(c.cmd.Args)-1]), c.out.Err())
	}
	return c.out.Text(), nil
}

func (c *child) end() {
	_ = c.stdin.Close()
	_ = c.cmd.Wait()
}

// ask makes the comet do something and measure itself.
func (c *child) ask(what string) (Memory, error) {
	var m Memory
	if _, err := io.WriteString(c.stdin, what+"\n"); err != nil {
		return m, err
	}
	line, err := c.line()
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal([]byte(line), &m)
}

func measure(ctx context.Context, o *options, args []string) error {
	server, err := start(ctx, "comet", args)
	if err != nil {
		return err
	}
	defer server.end()
	addrs, err := server.line()
	if err != nil {
		return err
	}
	before, err := server.ask("release")
	if err != nil {
		return err
	}
	began := time.Now()
	crowd, err := start(ctx, "clients", args, "-addrs", addrs)
	if err != nil {
		return err
	}
	defer crowd.end()
	if line, err := crowd.line(); err != nil || line != "ready" {
		return errors.Join(fmt.Errorf("the clients say %q", line), err)
	}
	connecting := time.Since(began)
	select {
	case <-time.After(o.Settle):
	case <-ctx.Done():
		return errors.New("interrupted")
	}
	r := Result{
		Command: strings.Join(append([]string{"idle"}, args...), " "), Commit: commit(ctx), Machine: thisMachine(), Options: *o,
		ConnectSeconds: connecting.Seconds(), Before: before,
	}
	for _, step := range []struct {
		what string
		m    *Memory
		rss  *float64
	}{{"look", &r.Settled, &r.SettledBytes}, {"collect", &r.Collected, &r.CollectedBytes}, {"release", &r.Released, &r.ReleasedBytes}} {
		if *step.m, err = server.ask(step.what); err != nil {
			return err
		}
		*step.rss = float64(step.m.ResidentBytes-before.ResidentBytes) / float64(o.Conns)
	}
	r.HeapBytes = float64(r.Collected.HeapBytes-before.HeapBytes) / float64(o.Conns)
	r.Objects = float64(r.Collected.Objects-before.Objects) / float64(o.Conns)
	r.Goroutines = float64(r.Settled.Goroutines-before.Goroutines) / float64(o.Conns)
	if r.Settled.Sessions != o.Conns {
		return fmt.Errorf("the comet has %d connections of %d", r.Settled.Sessions, o.Conns)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if o.out == "" {
		_, err = os.Stdout.Write(text)
		return err
	}
	return os.WriteFile(o.out, text, 0o644)
}
