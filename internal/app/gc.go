package app

import "runtime/debug"

// How far a heap may grow above what is held before it is collected, in
// percent (GOGC).
const (
	// SpareGC is for logic and job. They hold little and allocate much: with
	// Go's default their collector runs many times a second over a few
	// megabytes. It costs some tens of megabytes.
	SpareGC = 400
	// DenseGC is for a comet, which holds much and allocates little: with
	// Go's default, much of the memory of idle connections is garbage of
	// their handshakes.
	DenseGC = 60
)

// TuneGC sets that, unless the operator has set GOGC: then it is not Go's
// default of 100.
func TuneGC(percent int) {
	if was := debug.SetGCPercent(percent); was != 100 {
		debug.SetGCPercent(was)
	}
}
