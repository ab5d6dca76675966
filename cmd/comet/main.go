// Command comet keeps client connections and delivers pushes to them.
package main

import (
	"context"
	"io"
	"os"

	"github.com/perseid-im/perseid/internal/app"
)

func main() {
	app.SpareWakeups()
	app.TuneGC(app.DenseGC)
	cfg := app.DefaultCometConfig()
	os.Exit(app.Main(context.Background(), "comet", os.Args[1:], os.Stdout, os.Stderr, &cfg, func(w io.Writer) (*app.App, error) {
		cfg.Listen.Loops = app.SpareProc(cfg.Listen.Loops)
		return app.NewComet(cfg, w)
	}))
}
