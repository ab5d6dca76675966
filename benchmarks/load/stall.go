package load

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stalls are the times when processors of the machine stood still, added up.
// Another guest of the host that had them, an interrupt that took long, or a
// thread of a kernel without preemption (PREEMPT_NONE) that does not let go
// looks like that; the machine's own processes do not.
type Stalls struct {
	Count   int
	Total   time.Duration
	Longest time.Duration
	// Work is how long the same piece of work took each time, some
	// microseconds: a processor may be slow without standing still, for want
	// of a clock rate or because its host takes it away for shorter than a
	// stall, very often.
	Work Hist
	// Disturbed is when one processor stood still or was slow: a piece of
	// work took over 1.5 times the median. The spans do not overlap.
	Disturbed []Span
}

const (
	stallTick = time.Millisecond
	// shortestStall is longer than what softirqs may take at a time (2 ms,
	// MAX_SOFTIRQ_TIME of Linux).
	shortestStall = 3 * time.Millisecond
	stallPriority = 50 // of 1 to 99
	// A piece of work every workTicks takes half a per cent of a processor.
	workTicks = 5
	workSteps = 20_000
)

// stallWatch has a thread on each processor that sleeps a millisecond at a
// time and notes when it wakes up late. They have a real-time priority, so no
// ordinary process keeps them waiting.
type stallWatch struct {
	stopped atomic.Bool
	threads sync.WaitGroup
	mu      sync.Mutex
	seen    Stalls // since they were last asked for
}

// newStallWatch fails without the right to a real-time priority.
func newStallWatch() (*stallWatch, error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("processors: %w", err)
	}
	// The threads sleep in the kernel without the runtime's knowledge.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + allowed.Count())
	w := &stallWatch{}
	begun, wanted := make(chan error), 0
	for cpu := 0; wanted < allowed.Count(); cpu++ {
		if allowed.IsSet(cpu) {
			wanted++
			w.threads.Go(func() { w.watch(cpu, begun) })
		}
	}
	var errs []error
	for range wanted {
		errs = append(errs, <-begun)
	}
	if err := errors.Join(errs...); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *stallWatch) watch(cpu int, begun chan<- error) {
	runtime.LockOSThread() // and ends with the goroutine
	var only unix.CPUSet
	only.Set(cpu)
	err := unix.SchedSetaffinity(0, &only)
	if err == nil {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: stallPriority}, 0)
	}
	if err != nil {
		begun <- fmt.Errorf("a real-time priority on processor %d: %w", cpu, err)
		return
	}
	begun <- nil
	product, now := int64(1), rawClock()
	last, wasSlow := now, false // the end of the last piece of work
	var pace pace
	for tick := 0; !w.stopped.Load(); tick++ {
		began := now
		now = sleepTick()
		if late := now - began - stallTick; late >= shortestStall {
			w.mu.Lock()
			w.seen.Count++
			w.seen.Total += late
			w.seen.Longest = max(w.seen.Longest, late)
			w.seen.Disturbed = append(w.seen.Disturbed, Span{int64(began), int64(now)})
			w.mu.Unlock()
		}
		if tick%workTicks > 0 {
			continue
		}
		began = now
		now, product = work(product)
		took := int64(now - began)
		slow := pace.slow(took)
		w.mu.Lock()
		w.seen.Work.Record(took)
		if slow || wasSlow {
			w.seen.Disturbed = append(w.seen.Disturbed, Span{int64(last), int64(now)})
		}
		w.mu.Unlock()
		last, wasSlow = now, slow
	}
}

// pace knows how long a piece of work usually takes on a processor.
type pace struct {
	all    Hist
	median int64 // 0: not known yet
}

const paceEvery = 64 // pieces, before the median is looked up, and again

// slow tells whether this one took longer than usual.
func (p *pace) slow(took int64) bool {
	if p.all.Record(took); p.all.Count%paceEvery == 0 {
		p.median = p.all.Quantile(0.5)
	}
	return p.median > 0 && took > p.median*3/2
}

// sleepTick sleeps and says what time it is. Go's scheduler, which would make
// this thread wait for others, has no say in it: it makes system calls without
// telling, and has no point where the runtime could stop it.
//
//go:nosplit
func sleepTick() time.Duration {
	tick := unix.Timespec{Nsec: int64(stallTick)}
	_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&tick)), 0, 0, 0)
	return rawClock()
}

// work multiplies, each time what came out before, and says what time it is.
// The result is returned, so that it has to be computed.
//
//go:nosplit
func work(product int64) (time.Duration, int64) {
	for i := range workSteps {
		product = product*31 + int64(i)
	}
	return rawClock(), product
}

// rawClock is what Clock reads.
//
//go:nosplit
func rawClock() time.Duration {
	var now unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Sec*1e9 + now.Nsec)
}

// take returns what was seen since the last call.
func (w *stallWatch) take() Stalls {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = Stalls{}
	seen.Disturbed = union(seen.Disturbed)
	return seen
}

func (w *stallWatch) close() {
	w.stopped.Store(true)
	w.threads.Wait()
}
