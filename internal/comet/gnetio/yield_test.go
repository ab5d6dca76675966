package gnetio

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Symptom: while a room of 10,000 was written to, a push to a small room waited
// for up to 10 ms in the comet's gRPC socket. Cause: with a busy loop on every
// P nobody asked the kernel which sockets had something.
func TestYieldLetsWaitersForTheNetworkRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	y, err := newYielder()
	if err != nil {
		t.Fatal(err)
	}
	defer y.close()
	// A waiter that the machine stops in its call of the kernel does not run, whoever
	// yields: one sample says little.
	const samples, waiters = 20, 10
	ran := 0
	for range samples {
		ran += waitersThatRan(t, y, waiters)
	}
	if ran < samples*waiters*3/4 {
		t.Errorf("%d of %d who waited for the network have run", ran, samples*waiters)
	}
}

// waitersThatRan is how many of those whose socket has something run while the
// yielder yields.
func waitersThatRan(t *testing.T, y *yielder, waiters int) int {
	var read atomic.Int32
	var waiting sync.WaitGroup
	var ins []*os.File
	for range waiters {
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		ins = append(ins, in)
		waiting.Go(func() {
			defer out.Close()
			var buf [1]byte
			if _, err := out.Read(buf[:]); err == nil {
				read.Add(1)
			}
		})
	}
	// More than once: now and then the scheduler takes a goroutine out of turn.
	const turns = 5
	for range turns { // until all of them wait
		y.yield()
	}
	for _, in := range ins {
		if _, err := in.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
	}
	for range turns {
		y.yield()
	}
	ran := int(read.Load())
	waiting.Wait()
	return ran
}

func TestYieldAllocatesNothing(t *testing.T) {
	y, err := newYielder()
	if err != nil {
		t.Fatal(err)
	}
	defer y.close()
	if n := testing.AllocsPerRun(100, y.yield); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkYield(b *testing.B) {
	y, err := newYielder()
	if err != nil {
		b.Fatal(err)
	}
	defer y.close()
	b.ReportAllocs()
	for b.Loop() {
		y.yield()
	}
}
