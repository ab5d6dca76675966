// Package leakcheck fails tests that leave goroutines behind. It is imported by
// tests only.
//
// A package that starts goroutines uses one of:
//
//	func TestMain(m *testing.M) { leakcheck.Main(m) } // everything, once, at the end
//
//	leakcheck.Check(t) // one test, first line; names the test that leaks
//
// internal/archtest enforces it.
//
// # Concurrency
//
// [Main] fits every package. [Check] compares with the goroutines that lived at
// its call, so it is for tests that do not run in parallel with others. Neither
// is for a testing/synctest bubble, which reports what is left by itself.
//
// # Guarantees
//
// A goroutine that ends within [Patience] is no leak. What the runtime, the
// testing package and two libraries keep for the life of the process is not
// reported; see keptForLife.
package leakcheck

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Patience is how long goroutines have for their end after the tests.
const Patience = 30 * time.Second

const pollEvery = 5 * time.Millisecond

// keptForLife are functions that keep a goroutine until the process ends, and
// why that is none of our leaks.
func keptForLife() map[string]string {
	return map[string]string{
		"os/signal.loop":              "started once by signal.Notify, never stopped",
		"runtime.ensureSigM.func1":    "the same",
		"runtime/trace.Start.func1":   "go test -trace",
		"runtime/pprof.profileWriter": "go test -cpuprofile",
		"testing.runFuzzTests":        "the fuzzing coordinator",
		"testing.runFuzzing":          "the fuzzing coordinator",
		"testing.tRunner.func1":       "a finished test that waits for its parallel children",
		"testing.(*T).Run":            "a test that waits for its subtest",
		"testing.(*T).Parallel":       "a test that waits for its turn",
		"testing.(*M).Run":            "the main goroutine",
		"testing.runTests":            "the main goroutine",

		"github.com/rcrowley/go-metrics.(*meterArbiter).tick": "one for all meters of the process, started by sarama's first",
		"github.com/panjf2000/ants/v2.":                       "gnet's worker pool, one for the process, has no end",
	}
}

// Main runs the tests of a package and ends the process. It fails when a
// goroutine that started after this call is left.
func Main(m *testing.M) { os.Exit(run(m, os.Stderr, Patience)) }

func run(m interface{ Run() int }, out io.Writer, patience time.Duration) int {
	before := goroutines()
	code := m.Run()
	if code != 0 {
		return code // a failed test may not have cleaned up: the first message counts
	}
	left := await(before, patience)
	if len(left) == 0 {
		return code
	}
	fmt.Fprintf(out, "leakcheck: %s\n", report(left))
	return 1
}

// Check fails the test when a goroutine that started after this call is left at
// its end, after the cleanups that were registered later.
func Check(t testing.TB) { check(t, Patience) }

func check(t testing.TB, patience time.Duration) {
	t.Helper()
	before := goroutines()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			return
		}
		if left := await(before, patience); len(left) > 0 {
			t.Errorf("leakcheck: %s", report(left))
		}
	})
}

func report(left []string) string {
	return fmt.Sprintf("%d goroutines are left:\n\n%s", len(left), strings.Join(left, "\n\n"))
}

// await returns the stacks of goroutines that are not in before and do not end
// in time.
func await(before map[string]string, patience time.Duration) []string {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); ; <-poll.C {
		// Idle connections of the default client are a cache, not a leak.
		http.DefaultClient.CloseIdleConnections()
		late := time.Now().After(deadline) // before the look: the process may be stopped behind it
		left := started(before, goroutines())
		if len(left) == 0 || late {
			return left
		}
	}
}

func started(before, now map[string]string) []string {
	var left []string
	for id, stack := range now {
		if _, old := before[id]; !old && !forLife(stack) {
			left = append(left, stack)
		}
	}
	return left
}

func forLife(stack string) bool {
	for function := range keptForLife() {
		// A frame is "name(arguments)", the last line but one "created by name in ...".
		if strings.Contains(stack, "\n"+function) || strings.Contains(stack, "\ncreated by "+function) {
			return true
		}
	}
	return false
}

// goroutines are the stacks of all goroutines but the caller's, by the number
// that the runtime gives a goroutine and never reuses.
func goroutines() map[string]string {
	all := stacks()
	found := make(map[string]string, len(all))
	for _, stack := range all[1:] {
		// "goroutine 12 [chan receive, 2 minutes]:"
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		found[id] = stack
	}
	return found
}

// stacks are those of all goroutines, the caller's first.
func stacks() []string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return strings.Split(string(bytes.TrimSpace(buf[:n])), "\n\n")
		}
	}
}
