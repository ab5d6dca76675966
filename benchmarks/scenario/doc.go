// Package scenario is the command `perseid bench`: it drives clients and
// publishers of benchmarks/load against a running Perseid or goim, measures
// the server's processes from outside, and writes a report as JSON.
//
// # Guarantees
//
// A run is bounded in time and leaves nothing behind: children end with it,
// and connections with them. It talks to loopback addresses only, unless it is
// told otherwise. What limits a result is said in it: a step whose clients or
// publishers were busy themselves is marked as client-bound.
//
// # Concurrency
//
// A scenario is one goroutine. Beside it run the progress line and the sampler
// of memory, which share only what a mutex guards.
package scenario
