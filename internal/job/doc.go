// Package job moves what logic accepted to the comets: it reads a partition of
// the log, asks where the targets are (Router), hands each comet its part over
// ordered lanes (Edge), collects an outcome per target, and completes a record
// when all its targets have one.
//
//	Claim.Next -> Route -> split by (comet, lane) -> lane queue -> Dispatch stream
//	     ^                                                            |
//	     '-- Complete(offset) when the last push of the record is answered
//
// # Ownership
//
// One goroutine per claim (Work) takes in, routes and splits; it owns its
// scratch memory. A lane is one pair of goroutines with a queue bounded in
// bytes; it owns the stream. A comet is one life (incarnation) of an edge node
// as this job sees it; it owns its lanes, its room index and its connection,
// and closes them when the life is over. The set of comets is an immutable
// snapshot behind an atomic pointer; nothing on the way of a message takes a
// lock that is wider than one lane or one claim.
//
// # Guarantees
//
// Within one partition and lane, the pushes to one life of a comet go out in
// offset order, each at most once per stream; after a broken stream all
// unanswered ones are sent again, in order, and the comet answers REPEAT for
// those it had applied. A record is completed only when every target has an
// outcome, and never after its claim was given up. Nothing is dropped without
// a count: a target ends as one Outcome.
//
// A partition waits while logic does not answer, and while the dead-letter
// topic does not take an unreadable record; it skips neither. It waits for a
// comet no longer than the dispatch timeout.
//
// # Non-goals
//
// Offsets, rebalances and bounds on what is in flight are the business of
// package stream. Liveness of comets is decided by logic's lease list, read
// with every Route, not by the state of connections.
package job
