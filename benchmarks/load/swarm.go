package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// Swarm is a fleet spread over processes.
type Swarm struct {
	parts []*Process
}

// Process is a child that has a part of a fleet, a bare write loop, or the
// watch for stalls. It ends when its standard input does, so it cannot outlive
// its parent.
type Process struct {
	PID    int
	cmd    *exec.Cmd
	client *rpc.Client
	pipe   *pipe
	ended  chan struct{}
}

// Command makes the command line of a child: this program, told to call Serve.
type Command func() *exec.Cmd

// pipe joins the two ends that a child is spoken to through.
type pipe struct {
	io.Reader
	io.WriteCloser
}

// Start starts a child.
func Start(command Command) (*Process, error) {
	cmd := command()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("load: child: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("load: child: %w", err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("load: child: %w", err)
	}
	p := &Process{PID: cmd.Process.Pid, cmd: cmd, pipe: &pipe{out, in}, ended: make(chan struct{})}
	p.client = rpc.NewClient(p.pipe)
	return p, nil
}

// Call asks the child and waits, at most until ctx ends.
func (p *Process) Call(ctx context.Context, method string, args, reply any) error {
	call := p.client.Go("Child."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("load: child %d: %s: %w", p.PID, method, call.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("load: child %d: %s: %w", p.PID, method, context.Cause(ctx))
	}
}

// Close ends the child, by force after half a minute.
func (p *Process) Close() error {
	_ = p.pipe.Close() // standard input: the child sees its end and leaves
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	err := p.cmd.Wait()
	_ = p.client.Close() // its reader has seen the end, too
	if err != nil {
		return fmt.Errorf("load: child %d: %w", p.PID, err)
	}
	return nil
}

// NewSwarm starts procs children that share the connections of cfg.
func NewSwarm(ctx context.Context, cfg Config, procs int, command Command) (*Swarm, error) {
	s := &Swarm{}
	for part := range procs {
		p, err := Start(command)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.parts = append(s.parts, p)
		cfg.Part, cfg.Parts = part, procs
		if err := p.Call(ctx, "Fleet", cfg, &struct{}{}); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// PIDs are those of the children.
func (s *Swarm) PIDs() []int {
	var pids []int
	for _, p := range s.parts {
		pids = append(pids, p.PID)
	}
	return pids
}

// all asks every child at the same time.
func (s *Swarm) all(do func(p *Process) error) error {
	errs := make([]error, len(s.parts))
	var wait sync.WaitGroup
	for i, p := range s.parts {
		wait.Go(func() { errs[i] = do(p) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (s *Swarm) tell(ctx context.Context, method string, args any) error {
	return s.all(func(p *Process) error { return p.Call(ctx, method, args, &struct{}{}) })
}

// Open, Begin, Tally, Churn and Release are those of Fleet.
func (s *Swarm) Open(ctx context.Context, r Ramp) error { return s.tell(ctx, "Open", r) }

// Begin opens the account of a step.
func (s *Swarm) Begin(ctx context.Context, beginNS int64) error { return s.tell(ctx, "Begin", beginNS) }

// Tally closes the account of a step.
func (s *Swarm) Tally(ctx context.Context, expected []Expect) error {
	return s.tell(ctx, "Tally", expected)
}

// Churn closes and opens connections of a class.
func (s *Swarm) Churn(ctx context.Context, class int, perSecond float64) error {
	return s.tell(ctx, "Churn", ChurnArgs{class, perSecond})
}

// Release lets the connections of a class read all there is.
func (s *Swarm) Release(ctx context.Context, class int) error { return s.tell(ctx, "Release", class) }

// Stats adds up those of all children.
func (s *Swarm) Stats(ctx context.Context) (Stats, error) {
	each := make([]Stats, len(s.parts))
	var sum Stats
	err := s.all(func(p *Process) error { return p.Call(ctx, "Stats", struct{}{}, &each[slices.Index(s.parts, p)]) })
	if err != nil {
		return sum, err
	}
	for i := range each {
		sum.merge(&each[i])
	}
	return sum, nil
}

// Outside is that of Fleet, over all children.
func (s *Swarm) Outside(ctx context.Context, spans [][]Span) ([]Remainder, error) {
	each := make([][]Remainder, len(s.parts))
	if err := s.all(func(p *Process) error { return p.Call(ctx, "Outside", spans, &each[slices.Index(s.parts, p)]) }); err != nil {
		return nil, err
	}
	sum := each[0]
	for _, one := range each[1:] {
		for i := range one {
			sum[i].merge(&one[i])
		}
	}
	return sum, nil
}

// Close ends all children.
func (s *Swarm) Close() error { return s.all((*Process).Close) }

// ChurnArgs are those of Child.Churn.
type ChurnArgs struct {
	Class     int
	PerSecond float64
}

// Child is what a child process serves.
type Child struct {
	fleet *Fleet
	bare  *Bare
	watch *stallWatch
}

// Serve is the life of a child: it answers on the pipe until its end.
func Serve(r io.Reader, w io.WriteCloser) error {
	child := &Child{}
	server := rpc.NewServer()
	if err := server.Register(child); err != nil {
		return fmt.Errorf("load: serve: %w", err)
	}
	server.ServeConn(&pipe{r, w})
	var errs []error
	if child.fleet != nil {
		errs = append(errs, child.fleet.Close())
	}
	if child.bare != nil {
		errs = append(errs, child.bare.Close())
	}
	if child.watch != nil {
		child.watch.close()
	}
	return errors.Join(errs...)
}

// Fleet makes the child's part of a fleet.
func (c *Child) Fleet(cfg Config, _ *struct{}) error {
	if c.fleet != nil {
		return errors.New("there is a fleet already")
	}
	f, err := NewFleet(cfg)
	c.fleet = f
	return err
}

// Open is Fleet.Open.
func (c *Child) Open(r Ramp, _ *struct{}) error { return c.fleet.Open(r) }

// Begin is Fleet.Begin.
func (c *Child) Begin(beginNS int64, _ *struct{}) error { c.fleet.Begin(beginNS); return nil }

// Tally is Fleet.Tally.
func (c *Child) Tally(expected []Expect, _ *struct{}) error { c.fleet.Tally(expected); return nil }

// Churn is Fleet.Churn.
func (c *Child) Churn(args ChurnArgs, _ *struct{}) error {
	c.fleet.Churn(args.Class, args.PerSecond)
	return nil
}

// Release is Fleet.Release.
func (c *Child) Release(class int, _ *struct{}) error { c.fleet.Release(class); return nil }

// Stats is Fleet.Stats.
func (c *Child) Stats(_ struct{}, reply *Stats) error { *reply = c.fleet.Stats(); return nil }

// Outside is Fleet.Outside.
func (c *Child) Outside(spans [][]Span, reply *[]Remainder) error {
	*reply = c.fleet.Outside(spans)
	return nil
}

// Listen makes the child's bare write loop.
func (c *Child) Listen(cfg BareConfig, addr *string) error {
	if c.bare != nil {
		return errors.New("there is a bare loop already")
	}
	b, err := NewBare(cfg)
	if err != nil {
		return err
	}
	c.bare, *addr = b, b.Addr()
	return nil
}

// Write is Bare.Run.
func (c *Child) Write(run BareRun, reply *BareResult) error {
	r, err := c.bare.Run(run)
	*reply = r
	return err
}

// Watch begins to watch for stalls.
func (c *Child) Watch(_ struct{}, _ *struct{}) error {
	if c.watch != nil {
		return errors.New("there is a watch already")
	}
	w, err := newStallWatch()
	c.watch = w
	return err
}

// Stalls are those since the last call.
func (c *Child) Stalls(_ struct{}, reply *Stalls) error { *reply = c.watch.take(); return nil }
