package scenario

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// childArg makes a process a child of the engine; it is not for people.
const childArg = "-child"

// scenario is one thing that can be measured.
type scenario struct {
	name, about string
	defaults    func(*options)
	needsServer bool
	needsHTTP   bool
	// comparesTransports: several may be named.
	comparesTransports bool
	// check tells what this scenario does not allow; nil = nothing.
	check func(*options) error
	run   func(context.Context, *bench) error
}

func scenarios() []scenario {
	return []scenario{
		connectScenario(), idleScenario(), roomScenario(), roomsScenario(), mixedScenario(), unicastScenario(), allScenario(),
		churnScenario(), slowScenario(), capacityScenario(), limitScenario(),
	}
}

// Command is `perseid bench`. The result is the exit code: 0, 1 after a
// failure, 2 for bad flags.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == childArg {
		if err := load.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(stderr, "perseid bench: child:", err)
			return 1
		}
		return 0
	}
	return command(ctx, args, stdout, stderr, ownChild)
}

// ownChild runs this program again.
func ownChild() *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	return exec.Command(exe, "bench", childArg) //nolint:noctx // package load starts it, and ends it with its run
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer, child load.Command) int {
	all := scenarios()
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stderr, "perseid bench measures a running Perseid or goim from outside.\n\nUsage: perseid bench SCENARIO [flags]\n\n")
		for i := range all {
			fmt.Fprintf(stderr, "  %-9s %s\n", all[i].name, all[i].about)
		}
		fmt.Fprint(stderr, "\nperseid bench SCENARIO -h tells the flags. benchmarks/run.sh starts a cluster for a run.\n")
		return 2
	}
	var s *scenario
	for i := range all {
		if all[i].name == args[0] {
			s = &all[i]
		}
	}
	if s == nil {
		fmt.Fprintf(stderr, "perseid bench: unknown scenario %q; perseid bench lists them\n", args[0])
		return 2
	}
	opt := common()
	if s.defaults != nil {
		s.defaults(&opt)
	}
	fs := flag.NewFlagSet("perseid bench "+s.name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	opt.flags(fs)
	fs.Usage = func() {} // a mistake must not scroll away above all flags
	switch err := fs.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		usage(stderr, fs, s)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "perseid bench %s -h tells the flags; times are such as 500ms, 3s and 1m30s\n", s.name)
		return 2
	}
	problems := opt.problems(s)
	if fs.NArg() > 0 {
		problems = append(problems, fmt.Sprintf("unexpected argument %q", fs.Arg(0)))
	}
	b, err := newBench(opt, s.name, args, stderr, child, opt.slowMachine)
	if err != nil {
		problems = append(problems, err.Error())
	}
	if len(problems) > 0 {
		for _, p := range problems {
			fmt.Fprintf(stderr, "perseid bench: %s\n", p)
		}
		return 2
	}
	b.report.Settings = settings(fs)
	ctx, cancel := context.WithTimeoutCause(ctx, opt.timeout, fmt.Errorf("the run took longer than -timeout %s", opt.timeout))
	defer cancel()
	began := time.Now()
	b.startStallWatch(ctx)
	if err = b.reach(ctx); err == nil {
		err = s.run(ctx, b)
	}
	b.closeStallWatch()
	b.report.TookSeconds = round(time.Since(began).Seconds(), 3)
	b.report.summarize()
	if n := len(b.report.Disturbed) + len(b.report.DisturbedConnects); n > 0 {
		b.note("%d attempts were run again because processors were slow for more than %g of the time; they are in the report, nothing is computed from them", n, opt.maxSlow)
	}
	if err != nil {
		b.note("the run failed: %s", err)
	}
	return b.finish(stdout, stderr, err)
}

// finish writes the table and the report.
func (b *bench) finish(stdout, stderr io.Writer, failed error) int {
	table, code := stdout, 0
	if b.opt.out == "-" {
		table = stderr
		if err := b.report.Write(stdout); err != nil {
			fmt.Fprintln(stderr, err)
			code = 1
		}
	} else if b.opt.out != "" && (failed == nil || b.report.hasMeasured()) { // a report of before may be worth more
		if err := b.report.WriteFile(b.opt.out); err != nil {
			fmt.Fprintln(stderr, err)
			code = 1
		}
	}
	b.report.Print(table)
	if failed != nil {
		fmt.Fprintf(stderr, "perseid bench: %s\n", failed)
		code = 1
	}
	return code
}
