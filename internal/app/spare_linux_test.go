package app

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// printSlack makes this test binary a process that calls SpareWakeups and
// tells its pid, and the timer slack of a new thread.
const printSlack = "PERSEID_TEST_PRINT_SLACK"

func init() {
	if os.Getenv(printSlack) == "" {
		return
	}
	if os.Getenv(spared) == "" {
		fmt.Println(os.Getpid())
	}
	SpareWakeups()
	done := make(chan int)
	go func() {
		runtime.LockOSThread() // a thread of its own, gone with the goroutine
		slack, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
		done <- slack
	}()
	fmt.Println(<-done, os.Getpid())
	os.Exit(0)
}

func TestSpareWakeups(t *testing.T) {
	slack := func(preset uintptr) (before, after, slack int) {
		cmd := exec.Command(os.Args[0], "-test.run=none")
		cmd.Env = append(os.Environ(), printSlack+"=1")
		if preset > 0 {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			was, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, preset, 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(was), 0, 0, 0) }()
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if n, err := fmt.Sscan(string(out), &before, &slack, &after); n != 3 {
			t.Fatalf("%v: %q", err, out)
		}
		return before, after, slack
	}
	before, after, got := slack(0)
	if got != int(timerSlack) || before != after {
		t.Errorf("slack %d ns of process %d, that was %d; want %d and the same process", got, after, before, timerSlack)
	}
	preset := uintptr(7 * timerSlack) // as systemd's TimerSlackNSec sets it
	if _, _, got := slack(preset); got != int(preset) {
		t.Errorf("slack %d ns, want the %d that the operator has set", got, preset)
	}
}
