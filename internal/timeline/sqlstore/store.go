package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

const (
	maxAttempts  = 5 // of a transaction that loses against others
	connIdleFor  = 5 * time.Minute
	connLivesFor = 30 * time.Minute
	inOneList    = 500 // values of an IN list, rows of an INSERT without bodies
)

// Store is a timeline.Archive.
type Store struct {
	dialect *dialect
	writer  *sql.DB
	reader  *sql.DB // of MySQL the same
	log     *slog.Logger
}

var _ timeline.Archive = (*Store)(nil)

// Open connects, and makes database and tables when they are missing.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	if problems := cfg.Problems(); len(problems) > 0 || !cfg.On() {
		return nil, fmt.Errorf("archive: %s", strings.Join(append(problems, "a dsn is needed")[:max(1, len(problems))], "; "))
	}
	at, err := parse(&cfg)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	s := &Store{log: log}
	if at.mysql != nil {
		err = s.openMySQL(ctx, at.mysql, cfg.MaxConns)
	} else {
		err = s.openSQLite(at.sqlite, &cfg)
	}
	if err == nil {
		err = s.migrate(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the archive: %w", err), s.Close())
	}
	return s, nil
}

func (s *Store) openMySQL(ctx context.Context, cfg *mysql.Config, conns int) error {
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return err
	}
	s.dialect = mysqlDialect()
	s.writer = sql.OpenDB(connector)
	s.reader = s.writer
	pool(s.writer, conns)
	var e *mysql.MySQLError
	if err := s.writer.PingContext(ctx); errors.As(err, &e) && e.Number == unknownDatabase {
		if err := createDatabase(ctx, cfg); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	s.checkDurability(ctx)
	return nil
}

// checkDurability warns of a server that acknowledges what is not on its disk.
// One that does not know the setting is not asked further.
func (s *Store) checkDurability(ctx context.Context) {
	var flush int
	if err := s.writer.QueryRowContext(ctx, `SELECT @@innodb_flush_log_at_trx_commit`).Scan(&flush); err == nil && flush != 1 {
		s.log.Warn("the database acknowledges commits before they are on its disk: a power failure loses archived messages",
			"innodb_flush_log_at_trx_commit", flush)
	}
}

func createDatabase(ctx context.Context, cfg *mysql.Config) error {
	bare := cfg.Clone()
	bare.DBName = ""
	connector, err := mysql.NewConnector(bare)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	_, err = db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+cfg.DBName+"` CHARACTER SET utf8mb4")
	return errors.Join(err, db.Close())
}

// openSQLite opens the file twice: one connection writes, so that writers wait
// in Go and not in the busy timeout; readers see the last commit meanwhile.
func (s *Store) openSQLite(file string, cfg *Config) error {
	s.dialect = sqliteDialect()
	options := url.Values{
		"_busy_timeout": {strconv.FormatInt(cfg.LockWithin.Milliseconds(), 10)},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"NORMAL"},
		"_txlock":       {"immediate"},
	}
	if cfg.Sync {
		options.Set("_synchronous", "FULL")
	}
	var err error
	if s.writer, err = sql.Open("sqlite", file+"?"+options.Encode()); err != nil {
		return err
	}
	pool(s.writer, 1)
	options.Set("_query_only", "true")
	if s.reader, err = sql.Open("sqlite", file+"?"+options.Encode()); err != nil {
		return err
	}
	pool(s.reader, cfg.MaxConns-1)
	return nil
}

func pool(db *sql.DB, conns int) {
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(connIdleFor)
	db.SetConnMaxLifetime(connLivesFor)
}

// Close ends all connections. It may be called again.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.reader, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Ping asks the database.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.reader.PingContext(ctx); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// change runs f in a transaction, and again when it lost against another one;
// so f must begin anew each time. op names it in errors.
func (s *Store) change(ctx context.Context, op string, f func(*sql.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := inTx(ctx, s.writer, s.dialect.writing, f)
		if err == nil {
			return nil
		}
		if attempt == maxAttempts || !s.dialect.again(err) {
			return fmt.Errorf("archive: %s: %w", op, err)
		}
	}
}

// look runs f in one snapshot.
func (s *Store) look(ctx context.Context, op string, f func(*sql.Tx) error) error {
	if err := inTx(ctx, s.reader, s.dialect.reading, f); err != nil {
		return fmt.Errorf("archive: %s: %w", op, err)
	}
	return nil
}

func inTx(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the connection is closed when that fails
		return err
	}
	return commit(ctx, tx)
}

// commit gives up with ctx, which the driver of MySQL does not: its COMMIT
// waits for the server however long. What becomes of the transaction is then
// not known; the connection is closed by its read timeout.
func commit(ctx context.Context, tx *sql.Tx) error {
	done := make(chan error, 1)
	go func() { done <- tx.Commit() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("commit: %w", context.Cause(ctx))
	}
}

// querier is a transaction, or a database for a single statement.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each runs a query and calls f for every row.
func each(ctx context.Context, q querier, f func(*sql.Rows) error, query string, args ...any) (err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// name is a timeline as an argument: of bytes, so that it is compared as bytes.
func name(tl message.Timeline) []byte { return []byte(tl) }

// number is a seq as an argument. Clients may ask for more than there can be.
func number(seq uint64) int64 { return int64(min(seq, 1<<63-1)) }

// marks are n times text with commas between them.
func marks(n int, text string) string { return strings.Repeat(text+",", n-1) + text }

// alternatives are n times text with OR between them.
func alternatives(n int, text string) string { return strings.Repeat(text+" OR ", n-1) + text }

// names are timelines as arguments.
func names(tls []message.Timeline) []any {
	args := make([]any, len(tls))
	for i, tl := range tls {
		args[i] = name(tl)
	}
	return args
}
