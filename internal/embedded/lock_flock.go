//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockDir takes the lock of a data directory; closing the file releases it, as
// the end of the process does. kfake itself opens a directory twice without a
// word, and the two then write over each other.
func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := readHolder(file)
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w%s", ErrInUse, holder)
		}
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	// The process id only helps whoever reads the error above.
	err = file.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(file, os.Getpid())
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write %s: %w", file.Name(), err)
	}
	return file, nil
}

func readHolder(file *os.File) string {
	text, err := io.ReadAll(io.LimitReader(file, 20))
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return ""
	}
	return ", its id is " + pid
}
