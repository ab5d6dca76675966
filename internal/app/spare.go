package app

import "runtime/debug"

// Logic and job hold little and allocate much: with Go's default their
// collector runs many times a second over a few megabytes. They may grow to
// gcPercent above what they hold instead, which is some tens of megabytes. A
// comet keeps Go's default: it holds much.
const gcPercent = 400

// SpareGC sets that, unless the operator has set GOGC: then it is not Go's
// default of 100.
func SpareGC() {
	if was := debug.SetGCPercent(gcPercent); was != 100 {
		debug.SetGCPercent(was)
	}
}
