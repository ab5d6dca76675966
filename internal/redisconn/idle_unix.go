//go:build unix

package redisconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// checkIdle fails when the other side closed an idle connection, or sent
// something that nobody asked for.
func checkIdle(socket net.Conn) error {
	sys, ok := socket.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return fmt.Errorf("idle connection: %w", err)
	}
	var state error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, err := syscall.Read(int(fd), b[:]) // the socket is non-blocking
		switch {
		case n > 0:
			state = errors.New("unexpected data")
		case n == 0 && err == nil:
			state = io.EOF
		case !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR):
			state = err
		}
		return true
	})
	if err == nil {
		err = state
	}
	if err != nil {
		return fmt.Errorf("idle connection: %w", err)
	}
	return nil
}
