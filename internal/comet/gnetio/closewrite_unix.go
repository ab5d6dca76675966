//go:build unix

package gnetio

import "syscall"

// closeWrite tells the peer that nothing more comes; it can still send.
func closeWrite(fd int) { _ = syscall.Shutdown(fd, syscall.SHUT_WR) }
