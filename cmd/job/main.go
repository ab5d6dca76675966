// Command job moves pushes from Kafka to the comets.
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
	cfg := app.DefaultJobConfig()
	os.Exit(app.Main(context.Background(), "job", os.Args[1:], os.Stdout, os.Stderr, &cfg, func(w io.Writer) (*app.App, error) {
		return app.NewJob(cfg, w)
	}))
}
