package app

import (
	"os"
	"runtime"

	"github.com/perseid-im/perseid/internal/comet/gnetio"
)

// SpareProc gives Go one P (its right to run code) more than a comet has event
// loops. It returns how many these are: the setting listen.loops without it
// would follow the number of Ps.
//
// A loop that waits in the kernel for its clients keeps its P until Go's
// sysmon takes it away, which looks every 10 ms when little happens. Without a
// spare one the loops of a nearly idle comet hold all there are, and a push
// from a job lies in its socket for so long (benchmarks/results/stages.txt).
//
// GOMAXPROCS in the environment is the operator's, and stays.
func SpareProc(loops int) int {
	loops = gnetio.EventLoops(loops)
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) <= loops {
		runtime.GOMAXPROCS(loops + 1)
	}
	return loops
}
