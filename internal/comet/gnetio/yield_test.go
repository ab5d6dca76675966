package gnetio

import (
	"os"
	"runtime"
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
	const waiters = 10
	var read atomic.Int32
	var ins []*os.File
	for range waiters {
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(); _ = out.Close() }()
		ins = append(ins, in)
		go func() {
			var buf [1]byte
			if _, err := out.Read(buf[:]); err == nil {
				read.Add(1)
			}
		}()
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
	if n := read.Load(); n != waiters {
		t.Errorf("%d of %d who waited for the network have run", n, waiters)
	}
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
