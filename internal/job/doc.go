// Package job moves what logic accepted to the comets: it reads a partition of
// the log, asks where the targets are (Router), hands each comet its part over
// ordered lanes (Edge), collects an outcome per target, and completes a record
// when all its targets have one.
//
//	Claim.Next -> Route -> split by (comet, lane) -> lane queue -> Dispatch stream
//	     ^                                                            |
//	     '-- Complete(offset) when the last push of the record is answered
//
// A batch with stored records goes through Storage instead: it appends, then
// locates, so that positions and locations come in one answer. The archiver
// has the rows written beside the dispatch, and a record whose archive is
// required completes when its rows are durable, too.
//
// # Ownership
//
// One goroutine per claim (Work) takes in, routes and splits; it owns its
// scratch memory. From the first stored record of a claim on it has a keeper:
// the fence, and an archiver with a goroutine, whose queue is what is not
// archived yet. A lane is one pair of goroutines with a queue bounded in
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
// Stored records are appended in the order of the log, under a fence that was
// taken before the first of them. When the store says that it is another than
// before, the worker raises the fence and appends again, in order, all that it
// holds and is not archived; a position that was shown and comes out as another
// stops the partition with an alarm. Another's fence ends the worker.
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
