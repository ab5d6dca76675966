package load

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/internal/testdeps"
)

// Symptom: the first third of a second counted as disturbed. Cause: the median
// that stood for "not known yet" overflowed.
func TestPace(t *testing.T) {
	var p pace
	for i := range paceEvery - 1 {
		if p.slow(int64(100 + i%2*1000)) {
			t.Fatalf("piece %d is slow although nothing is known", i)
		}
	}
	for range 3 * paceEvery {
		if p.slow(100) || p.slow(140) {
			t.Fatal("what is usual is slow")
		}
	}
	if !p.slow(220) {
		t.Error("what takes over 1.5 times as long is not slow")
	}
}

// A stopped process is late like one whose machine stands still.
func TestStallWatchNoticesThatNothingRan(t *testing.T) {
	ctx := bounded(t)
	child, err := Start(testChild)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := child.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := child.Call(ctx, "Watch", struct{}{}, &struct{}{}); err != nil {
		if strings.Contains(err.Error(), unix.EPERM.Error()) {
			testdeps.Skip(t, err.Error())
		}
		t.Fatal(err)
	}
	// Symptom: 198.9 of 200 ms were seen, and waited for in vain. Cause: a process
	// stops some time after it was told to.
	const stopped = 200 * time.Millisecond
	var sum Stalls
	for sum.Longest < stopped/2 || sum.Work.Count == 0 {
		if err := syscall.Kill(child.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		<-time.After(stopped) // this is the stall, not a wait for something
		if err := syscall.Kill(child.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		var s Stalls
		if err := child.Call(ctx, "Stalls", struct{}{}, &s); err != nil {
			t.Fatalf("%v; the longest was %s", err, sum.Longest)
		}
		sum.Count += s.Count
		sum.Total += s.Total
		sum.Longest = max(sum.Longest, s.Longest)
		sum.Work.Merge(&s.Work)
		sum.Disturbed = append(sum.Disturbed, s.Disturbed...)
	}
	// At 10 GHz a multiplication of three cycles would take 0.3 ns.
	if !slices.ContainsFunc(sum.Disturbed, func(s Span) bool { return s.To-s.From >= int64(sum.Longest) }) {
		t.Errorf("a stall of %s is disturbed in %v", sum.Longest, sum.Disturbed)
	}
	if sum.Count < 1 || sum.Total < sum.Longest || sum.Work.Quantile(0) < workSteps*3/10 {
		t.Errorf("seen: %+v", sum)
	}
	if err := child.Call(ctx, "Watch", struct{}{}, &struct{}{}); err == nil {
		t.Error("a second watch")
	}
}
