package gnetio

import (
	"os"
	"runtime"
)

// yielder lets goroutines run that wait for the network, while a loop has more
// to write than one turn takes.
//
// Such a loop keeps its P, Go's right to run code. runtime.Gosched would give
// it to goroutines that are known to be ready, and only who finds none asks the
// kernel whose sockets are. With a busy loop on every P that is left to sysmon,
// every 10 ms: so long a push from a job lay in its socket while a big room was
// written to (benchmarks/results/stages.txt). So the loop asks for itself: it
// sends itself a byte through a pipe, which arrives by the look at the kernel
// that finds all the others too.
type yielder struct {
	in, out *os.File // of the pipe
	one     [1]byte
	back    chan struct{}
}

func newYielder() (*yielder, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	y := &yielder{in: in, out: out, back: make(chan struct{})}
	go y.run()
	return y, nil
}

func (y *yielder) run() {
	defer close(y.back)
	var buf [1]byte
	for {
		if _, err := y.out.Read(buf[:]); err != nil {
			return // closed
		}
		runtime.Gosched() // behind those that were found with this goroutine
		y.back <- struct{}{}
	}
}

// yield is called on the loop. It takes some microseconds if nobody is ready.
func (y *yielder) yield() {
	if _, err := y.in.Write(y.one[:]); err == nil {
		<-y.back
	}
}

// close may be called when the loop has ended.
func (y *yielder) close() {
	_ = y.in.Close()
	<-y.back
	_ = y.out.Close()
}
