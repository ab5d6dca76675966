package sqlstore

import (
	"database/sql"
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is what the two kinds of databases spell in two ways.
type dialect struct {
	types        *strings.Replacer
	tableOptions string
	keysInTable  bool
	lock, unlock string // of migrations; empty = the one writer is the lock

	forUpdate string // ends a SELECT whose rows stay as they are until commit
	skip      string // ends an INSERT that leaves existing rows as they are
	// raiseCursor ends the INSERT of cursors: only grow, another epoch replaces.
	raiseCursor string
	// setRange ends the INSERT of ranges.
	setRange string
	clear    string // the same, min_seq only grows, max_seq stays

	writing *sql.TxOptions
	reading *sql.TxOptions // one snapshot for all its statements

	// again tells that the transaction lost against another one, was rolled back,
	// and may be repeated at once.
	again func(error) bool
}

func mysqlDialect() *dialect {
	return &dialect{
		types: strings.NewReplacer("{name}", "VARBINARY(300)", "{id}", "BINARY(16)", "{short}", "VARBINARY(64)",
			"{body}", "LONGBLOB", "{int}", "BIGINT", "{bits}", "INT UNSIGNED", "{op}", "INT", "{kind}", "TINYINT UNSIGNED"),
		tableOptions: " ENGINE=InnoDB ROW_FORMAT=DYNAMIC",
		keysInTable:  true,
		lock:         `SELECT GET_LOCK(CONCAT('perseid:', LEFT(DATABASE(), 48)), 60)`,
		unlock:       `DO RELEASE_LOCK(CONCAT('perseid:', LEFT(DATABASE(), 48)))`,
		forUpdate:    " FOR UPDATE",
		skip:         ` ON DUPLICATE KEY UPDATE tl = tl`,
		// From left to right: epoch is compared before it is set.
		raiseCursor: ` ON DUPLICATE KEY UPDATE
			acked = IF(epoch = VALUES(epoch), GREATEST(acked, VALUES(acked)), VALUES(acked)),
			seen = IF(epoch = VALUES(epoch), GREATEST(seen, VALUES(seen)), VALUES(seen)),
			epoch = VALUES(epoch)`,
		setRange: ` ON DUPLICATE KEY UPDATE min_seq = VALUES(min_seq), max_seq = VALUES(max_seq)`,
		clear:    ` ON DUPLICATE KEY UPDATE min_seq = GREATEST(min_seq, VALUES(min_seq))`,
		// Without locks on gaps: only rows that are named are locked.
		writing: &sql.TxOptions{Isolation: sql.LevelReadCommitted},
		reading: &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
		again: func(err error) bool {
			var e *mysql.MySQLError
			return errors.As(err, &e) && (e.Number == deadlock || e.Number == duplicate || e.Number == writeConflict)
		},
	}
}

// Errors of MySQL; the last one is TiDB's.
const (
	unknownDatabase = 1049
	duplicate       = 1062 // a row that was not there when the transaction looked
	deadlock        = 1213
	writeConflict   = 9007
)

func sqliteDialect() *dialect {
	return &dialect{
		types: strings.NewReplacer("{name}", "BLOB", "{id}", "BLOB", "{short}", "BLOB", "{body}", "BLOB",
			"{int}", "INTEGER", "{bits}", "INTEGER", "{op}", "INTEGER", "{kind}", "INTEGER"),
		tableOptions: " STRICT",
		skip:         ` ON CONFLICT DO NOTHING`,
		raiseCursor: ` ON CONFLICT (mid, tl) DO UPDATE SET
			acked = CASE WHEN user_cursor.epoch = excluded.epoch THEN MAX(user_cursor.acked, excluded.acked) ELSE excluded.acked END,
			seen = CASE WHEN user_cursor.epoch = excluded.epoch THEN MAX(user_cursor.seen, excluded.seen) ELSE excluded.seen END,
			epoch = excluded.epoch`,
		setRange: ` ON CONFLICT (mid, tl) DO UPDATE SET min_seq = excluded.min_seq, max_seq = excluded.max_seq`,
		clear:    ` ON CONFLICT (mid, tl) DO UPDATE SET min_seq = MAX(user_cursor.min_seq, excluded.min_seq)`,
		reading:  &sql.TxOptions{ReadOnly: true},
		again: func(err error) bool {
			var e *sqlite.Error
			return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
		},
	}
}
