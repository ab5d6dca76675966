// Command logic takes pushes over HTTP and knows who is where.
package main

import (
	"context"
	"io"
	"os"

	"github.com/perseid-im/perseid/internal/app"
)

func main() {
	app.SpareWakeups()
	app.TuneGC(app.SpareGC)
	cfg := app.DefaultLogicConfig()
	os.Exit(app.Main(context.Background(), "logic", os.Args[1:], os.Stdout, os.Stderr, &cfg, func(w io.Writer) (*app.App, error) {
		return app.NewLogic(cfg, w)
	}))
}
