package app

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is how late the kernel may wake a thread that sleeps (prctl(2),
// PR_SET_TIMERSLACK; the kernel's default is 50 microseconds). Go's runtime has
// a thread that looks after the others every 20 microseconds as long as the
// process is not idle, and again each time it leaves idleness. In a daemon that
// is woken often and does little each time that thread takes up to half of the
// processor time (benchmarks/results/timer-slack.txt). Nothing here waits for
// less than a millisecond.
const timerSlack = time.Millisecond

// spared marks a process that was started by SpareWakeups.
const spared = "PERSEID_SPARED_WAKEUPS"

// SpareWakeups gives the whole process the timerSlack, unless it has more. A
// thread gets the slack of the thread that started it, and the runtime's own
// threads run before main: so the process starts itself once more, with the
// same pid, files and environment. Call it first. Where that is not possible
// the process goes on as it is.
func SpareWakeups() {
	if os.Getenv(spared) != "" {
		_ = os.Unsetenv(spared)
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(slack) >= timerSlack {
		return
	}
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return
	}
	path, err := os.Readlink("/proc/self/exe")
	if err != nil || strings.HasSuffix(path, " (deleted)") {
		return
	}
	_ = syscall.Exec(path, os.Args, append(os.Environ(), spared+"=1"))
}
