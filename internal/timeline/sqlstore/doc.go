// Package sqlstore keeps the archive of timelines in SQL: MySQL and what
// speaks its protocol (MariaDB, TiDB), and SQLite in the all-in-one.
//
// # Ownership
//
// The tables belong to this package; schema.go says what is in them. The
// drivers are imported here and nowhere else. A SQLite file belongs to one
// process at a time.
//
// # Concurrency
//
// All methods are safe for concurrent use. Any number of processes may share a
// MySQL database: fences are row locks there. Writers of a SQLite file wait
// for each other in the process.
//
// # Guarantees
//
// Each method is one transaction, or one statement. What returned nil is
// durable as far as the server keeps what it acknowledges (of MySQL:
// innodb_flush_log_at_trx_commit = 1, the default). An error says nothing about
// what was applied, and every method may be repeated. A transaction that the
// server gave up for another one is repeated here a few times.
package sqlstore
