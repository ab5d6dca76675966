//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package embedded

import (
	"fmt"
	"os"
)

// lockDir cannot be done without flock, and an unlocked directory can be ruined.
func lockDir(string) (*os.File, error) {
	return nil, fmt.Errorf("embedded servers need file locks: %w", os.ErrInvalid)
}
