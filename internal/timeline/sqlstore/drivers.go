// Package sqlstore keeps the archive of timelines in SQL: MySQL and what
// speaks its protocol (MariaDB, TiDB), and SQLite in the all-in-one.
//
// # Ownership
//
// The drivers are imported here and nowhere else.
package sqlstore

import (
	_ "github.com/go-sql-driver/mysql" // dialect of MySQL, MariaDB, TiDB
	_ "modernc.org/sqlite"             // dialect of the all-in-one, pure Go
)
