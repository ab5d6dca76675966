package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/perseid-im/perseid/internal/config"
	"github.com/perseid-im/perseid/internal/obs"
)

// Main is the command of a daemon: flags, configuration, run. cfg points to
// the defaults and make wires the process from what it holds then. The result
// is the exit code: 0 after a clean stop, 1 after a failure, 2 for bad flags
// or settings.
func Main(ctx context.Context, name string, args []string, stdout, stderr io.Writer, cfg any, make func(w io.Writer) (*App, error)) int {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	var sets listFlag
	conf := fs.String("conf", "", "configuration `FILE` (TOML); settings that are not in it keep their defaults")
	check := fs.Bool("t", false, "check the configuration and exit")
	version := fs.Bool("version", false, "print the version and exit")
	document := fs.Bool("default", false, "print the documented default configuration and exit")
	fs.Var(&sets, "set", "`section.key=value`, above the file and the PERSEID_* variables; may be repeated")
	fs.Usage = func() {
		fmt.Fprintf(stderr, "%s is one of Perseid's daemons.\n\nUsage: %s [flags]\n\n", name, name)
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() > 0:
		fmt.Fprintf(stderr, "%s: unexpected argument %q; settings are given as -set section.key=value\n", name, fs.Arg(0))
		return 2
	case *version:
		fmt.Fprintln(stdout, name, obs.Version())
		return 0
	case *document:
		fmt.Fprint(stdout, config.Document(cfg))
		return 0
	}
	if err := config.Load(cfg, config.Options{File: *conf, Env: config.Environ(), Sets: sets}); err != nil {
		fmt.Fprintf(stderr, "%s: the configuration is not usable:\n%s\n", name, err)
		return 2
	}
	if *check {
		fmt.Fprintf(stdout, "%s: the configuration is good\n", name)
		return 0
	}
	a, err := make(stderr)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, err)
		return 1
	}
	return a.runCommand(ctx, stdout, stderr)
}

// runCommand runs the process and prints the line that says that it works.
func (a *App) runCommand(ctx context.Context, stdout, stderr io.Writer) int {
	done := make(chan struct{})
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		select {
		case <-a.Ready():
			fmt.Fprintln(stdout, readyLine(a.Addrs()))
		case <-done:
		}
	}()
	err := a.Run(ctx)
	close(done)
	<-printed
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", a.name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	return 0
}

// readyLine names the listeners in a fixed order.
func readyLine(addrs map[string]string) string {
	line := "ready"
	for _, key := range []string{"tcp", "ws", "http", "grpc", "admin"} {
		if addr := addrs[key]; addr != "" {
			line += " " + key + "=" + addr
		}
	}
	return line
}

// listFlag is a flag that may be given more than once.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, " ") }

func (l *listFlag) Set(v string) error {
	*l = append(*l, v)
	return nil
}

// RunAllInOne is the command `perseid run`.
func RunAllInOne(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg := DefaultAllInOneConfig()
	fs := flag.NewFlagSet("perseid run", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&cfg.DataDir, "data", cfg.DataDir, "`DIR` of the embedded Kafka; made if it is not there")
	fs.StringVar(&cfg.TCP, "tcp", cfg.TCP, "`ADDR` for TCP clients; port 0 = any free one, printed")
	fs.StringVar(&cfg.WebSocket, "ws", cfg.WebSocket, "`ADDR` for WebSocket clients, path /sub")
	fs.StringVar(&cfg.HTTP, "http", cfg.HTTP, "`ADDR` of the push API; it has no authentication")
	fs.StringVar(&cfg.Admin, "admin", cfg.Admin, "`ADDR` of metrics, health and profiles")
	fs.StringVar(&cfg.Log.Level, "log", cfg.Log.Level, "`LEVEL`: debug, info, warn or error")
	fs.Usage = func() {
		fmt.Fprint(stderr, "perseid run is all of Perseid in one process, with an embedded Kafka and Redis.\nIt prints one line when it accepts work: ready tcp=ADDR ws=ADDR http=ADDR admin=ADDR\n\nUsage: perseid run [flags]\n\n")
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() > 0:
		fmt.Fprintf(stderr, "perseid run: unexpected argument %q\n", fs.Arg(0))
		return 2
	}
	if p := cfg.Log.Problems(); len(p) > 0 {
		fmt.Fprintf(stderr, "perseid run: -log: %s\n", p[0])
		return 2
	}
	cfg.Loops = SpareProc(cfg.Loops)
	a, err := NewAllInOne(cfg, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "perseid run: %s\n", err)
		return 1
	}
	return a.runCommand(ctx, stdout, stderr)
}
