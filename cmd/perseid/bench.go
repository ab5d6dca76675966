package main

import (
	"context"
	"io"

	"github.com/perseid-im/perseid/benchmarks/scenario"
)

// benchCommand is `perseid bench`.
func benchCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return scenario.Command(ctx, args, stdout, stderr)
}
