package load

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
)

// TestMain also is the child of the tests of Swarm.
func TestMain(m *testing.M) {
	if os.Getenv("PERSEID_TEST_LOAD_CHILD") != "" {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	leakcheck.Main(m)
}

func testChild() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PERSEID_TEST_LOAD_CHILD=1")
	return cmd
}

func testConfig(server string, classes ...Class) Config {
	return Config{
		Servers: []string{server}, Path: "/sub", Classes: classes, FirstMid: 1, Streams: 1,
		Drain: 20 * time.Millisecond, AuthTimeout: time.Minute, Loops: 1, Parts: 1,
	}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// openAll opens a fleet's connections and waits until they are ready.
func openAll(t *testing.T, f *Fleet) {
	t.Helper()
	if err := f.Open(Ramp{InFlight: 64}); err != nil {
		t.Fatal(err)
	}
	awaitStats(t, f, func(s *Stats) bool {
		if len(s.Failures) > 0 {
			t.Fatalf("failures: %v", s.Failures)
		}
		return s.Pending == 0
	})
}

func awaitStats(t *testing.T, f *Fleet, ok func(*Stats) bool) Stats {
	t.Helper()
	s, err := Await(bounded(t), 5*time.Millisecond, func() (Stats, error) { return f.Stats(), nil }, ok)
	if err != nil {
		t.Fatalf("%v; classes %+v", err, s.Classes)
	}
	return s
}
