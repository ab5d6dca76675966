//go:build failpoint

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestProbability(t *testing.T) {
	for armed, want := range map[string]float64{
		"": 0, "a.b:0.5": 0.5, "x.y:1,a.b:0.25": 0.25, "a.*:0.1": 0.1, "*:1": 1, "a.bc:1": 0, "b.*:1": 0, "a.b": 0, "a.b:x": 0,
	} {
		if got := probability(armed, "a.b"); got != want {
			t.Errorf("%q: %g, want %g", armed, got, want)
		}
	}
}

// The process ends as by kill -9, at once.
func TestHitKills(t *testing.T) {
	if os.Getenv("PERSEID_TEST_HIT") != "" {
		Hit("a.b")
		return
	}
	for armed, killed := range map[string]bool{"a.b:1": true, "a.b:0": false, "": false} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHitKills$")
		cmd.Env = append(os.Environ(), "PERSEID_TEST_HIT=1", "PERSEID_FAIL="+armed)
		err := cmd.Run()
		exit, _ := errors.AsType[*exec.ExitError](err)
		if got := exit != nil && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL; got != killed || !killed && err != nil {
			t.Errorf("%q: %v", armed, err)
		}
	}
}
