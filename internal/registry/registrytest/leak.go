package registrytest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of a package and fails when a goroutine of the registry
// or of its connections is left after them.
func Main(m *testing.M) int {
	code := m.Run()
	if left := Leaked(5 * time.Second); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines left:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		if code == 0 {
			code = 1
		}
	}
	return code
}

// Leaked returns the stacks of the goroutines that the registry or net/http
// started and that are still there after the given time.
func Leaked(within time.Duration) []string {
	deadline := time.Now().Add(within)
	for {
		var left []string
		for _, stack := range strings.Split(stacks(), "\n\n") {
			_, started, _ := strings.Cut(stack, "created by ")
			if strings.HasPrefix(started, "github.com/perseid-im/perseid/internal/registry") || strings.HasPrefix(started, "net/http.") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		runtime.Gosched()
	}
}

func stacks() string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}
