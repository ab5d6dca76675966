// Package embedded runs the servers of the all-in-one in its process: a Kafka
// with its data on disk (kfake) and a Redis in memory (miniredis). They speak
// the real protocols over loopback sockets, so nothing else in Perseid knows
// of them.
//
// # Ownership
//
// The data directory belongs to one process at a time, which holds the lock on
// its file "lock"; the records are below "kafka", and the archive of timelines is
// the file "archive.db", which the package only names. Redis keeps nothing: what
// is in it is rebuilt by the running comets, and from the archive.
//
// # Concurrency
//
// Servers, Kafka and Redis are safe for concurrent use. New starts goroutines;
// they end with Close, those of clients' connections shortly after it.
//
// # Guarantees
//
// Acknowledged records and committed offsets survive Close and the death of
// the process; a power failure only with SyncWrites. Topics exist only if they
// are configured. The time to live of a key in Redis is met to about a second,
// with very many keys to ten.
//
// # Non-goals
//
// Clients on other hosts, more than one broker, a Redis that survives: that is
// what the real servers are for. miniredis keeps a counter per key name that
// ever existed, about 100 bytes each, which a process of months with ever new
// keys will notice.
package embedded
