//go:build !linux

package gnetio

import (
	"sync/atomic"

	"github.com/perseid-im/perseid/internal/comet"
)

// kernelPages are there on Linux.
func kernelPages(*atomic.Int32) comet.Pages { return nil }
