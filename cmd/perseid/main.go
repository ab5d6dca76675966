// Command perseid is all of Perseid in one process, and its tools.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/perseid-im/perseid/internal/app"
	"github.com/perseid-im/perseid/internal/obs"
)

const usage = `Perseid pushes messages to very many connections.

Usage: perseid COMMAND [flags]

  run      everything in one process, with an embedded Kafka and Redis
  listen   connect as a client and print what arrives
  push     push a message over the HTTP API
  bench    measure a running Perseid or goim from outside
  version  print the version

perseid COMMAND -h tells the flags of a command.
`

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

func command(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	name, rest := args[0], args[1:]
	if name == "run" { // takes signals itself
		app.SpareWakeups()
		return app.RunAllInOne(context.Background(), rest, stdout, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch name {
	case "listen":
		return listenCommand(ctx, rest, stdout, stderr)
	case "push":
		return pushCommand(ctx, rest, stdout, stderr)
	case "bench":
		return benchCommand(ctx, rest, stdout, stderr)
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, "perseid", obs.Version())
		return 0
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	}
	fmt.Fprintf(stderr, "perseid: unknown command %q\n\n%s", name, usage)
	return 2
}
