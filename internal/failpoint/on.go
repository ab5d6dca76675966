//go:build failpoint

package failpoint

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Hit ends the process, perhaps, and says so on the standard error.
func Hit(name string) {
	if p := probability(os.Getenv("PERSEID_FAIL"), name); p > 0 && rand.Float64() < p {
		_, _ = os.Stderr.WriteString("fail point " + name + "\n")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // no line of this goroutine runs after the point
	}
}

// probability of a point; 0 for one that is not named well.
func probability(armed, name string) float64 {
	for _, word := range strings.Split(armed, ",") {
		point, text, _ := strings.Cut(word, ":")
		prefix, all := strings.CutSuffix(point, "*")
		if point == name || all && strings.HasPrefix(name, prefix) {
			p, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return 0
			}
			return p
		}
	}
	return 0
}
