// Package redistore keeps the windows of timelines in Redis 7, one server or a
// cluster: it is timeline.Window.
//
// # Keys
//
//	tl:{<tag>}:meta   hash: inc, mode, epoch, top, gen, off, arch, floor, first, bytes
//	tl:{<tag>}:log    hash: seq -> value, see encode
//	tl:{<tag>}:ids    string: a ring of the last Recent ids, 16 bytes each; that of seq n is in slot (n-1) mod Recent
//	cur:{u:<mid>}     hash: timeline -> "<epoch> <acked> <read>", with a TTL
//	perseid:incarnation  string: a random marker
//
// <tag> is the timeline; one with a brace in it has a hash of its name as the
// tag and the name behind it. The three keys of a timeline expire together.
//
// The log is a hash and not a stream, because an entry must be emptied where it
// stands (revoke), and found by its offset (a binary search over seqs). The ids
// are a ring and not a hash, because "exactly the last 256" is then what the
// format can hold, 4 KiB instead of 23, and one GET serves a batch.
//
// # Incarnation
//
// It is "run_id:master_replid:marker", read inside each script: the first
// changes with a restart, the second with a failover (the run id alone would
// come back after a failback), the marker with FLUSHALL. The first replica that
// a master gets, or gets again after repl-backlog-ttl without one, changes the
// replication id, too: the workers rewind, which is harmless, and timelines
// without an archive begin a new epoch. A server without these
// INFO fields (miniredis) has the marker alone, which it never persists.
//
// On a cluster every range of slots has the token of its master, without a
// marker, since a script sees one slot only: a FLUSHALL there goes unnoticed
// where something waits for the archive, and ends in a conflict that stops the
// partition. A slot that moves is a rewind, because its state names the master
// that wrote it. Timelines share a script only within a slot.
//
// The check is in every script. Measured (benchmarks/results/incarnation.txt):
// 7.9 µs of Redis per script, 26 % of one that serves a single record, 1.4 % of
// one that serves 64. A check outside the script would be free, but something
// else could answer the script than what was checked. So timelines share
// scripts, up to 64 timelines, 256 records and 1 MiB each: such a script takes
// one to five milliseconds, in which Redis serves nobody else.
//
// # Guarantees
//
// A script is atomic per timeline. A call that returns an error may have done
// all, a part, or nothing of its work; every call may be repeated.
//
// # Concurrency
//
// A Store is safe for concurrent use. It starts no goroutine that outlives a
// call.
package redistore
