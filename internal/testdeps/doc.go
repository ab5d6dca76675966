// Package testdeps gives a test the real servers and clients it needs: Redis,
// Kafka, MariaDB, the bilibili/discovery server, npm's ws and a browser. It is
// imported by tests only.
//
// scripts/deps.sh installs the parts and knows every command line; this package
// starts them, waits until they do real work, and ends them. A part that this
// machine lacks skips the test, see [Skip].
//
// # Ownership
//
// A [Server] or [Process] belongs to the test that asked for it and dies in its
// cleanup. The broker behind [Kafka] and the server behind [MariaDB] belong to the
// test binary: they start with the first call and are shared, so a test isolates
// itself by [NewTopic] and its own group names, and by [Database].
//
// # Concurrency
//
// The functions may be called by parallel tests. One Server is used by one
// goroutine at a time; a Process by any.
//
// # Guarantees
//
// Nothing outlives the test binary, not even when it is killed: a guard process
// at the other end of a pipe kills what is left as soon as the pipe closes. The
// kernel's parent-death signal is not used, because it follows the thread that
// started the child and not the process: a thread that ends with a locked
// goroutine would take a server with it. For the same reason no goroutine waits
// for a child, and leak checks see none of ours.
//
// # Environment
//
//   - PERSEID_TEST_KAFKA: a running broker's address, used by [Kafka] instead of
//     starting one ("deps.sh start" writes it).
//   - PERSEID_TEST_MARIADB: the same for [MariaDB].
//   - PERSEID_TEST_SKIPS: a file that gets one line for each skipped test.
//   - PERSEID_TEST_REQUIRE=1: a missing part fails the test.
//   - PERSEID_CACHE, PERSEID_KAFKA_HEAP, PERSEID_MARIADB_POOL: see scripts/deps.sh help.
package testdeps
