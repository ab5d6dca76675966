//go:build !linux

package gnetio

import "github.com/perseid-im/perseid/internal/comet"

// kernelPages are there on Linux.
func kernelPages() comet.Pages { return nil }
