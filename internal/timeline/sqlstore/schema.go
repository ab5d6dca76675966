package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// migrations are the tables, in the order of their making; one that was
// released is never changed. {name}, {id}, {short}, {body}, {int} (64 bits),
// {bits} (32, without sign), {op} (32) and {kind} (8) are types of the dialect. Every statement may be run again: MySQL commits each by
// itself, so that a migration may have ended in its middle.
//
//   - fold: the fence that stands, and the life of the log it stands for.
//   - timeline: what is so for all rows of a timeline; made with the first one.
//   - message: one row per position; the last Recent(tl) are never deleted.
//   - user_cursor: how far a user is in a timeline, and what part of it is for
//     the user (min_seq < seq <= max_seq; max_seq 0 = no end).
//   - room: serializes changes of its members and counts them.
func migrations() [][]string {
	return [][]string{{
		`CREATE TABLE IF NOT EXISTS fold (
			part {op} NOT NULL, gen {bits} NOT NULL, log {name} NOT NULL, owner {int} NOT NULL, rewinds {int} NOT NULL,
			PRIMARY KEY (part))`,
		`CREATE TABLE IF NOT EXISTS timeline (
			tl {name} NOT NULL, epoch {bits} NOT NULL, floor {int} NOT NULL, mode {kind} NOT NULL, created_ms {int} NOT NULL,
			PRIMARY KEY (tl))`,
		`CREATE TABLE IF NOT EXISTS message (
			tl {name} NOT NULL, seq {int} NOT NULL, epoch {bits} NOT NULL, gen {bits} NOT NULL, off {int} NOT NULL,
			msg_id {id} NOT NULL, kind {kind} NOT NULL, flags {bits} NOT NULL, op {op} NOT NULL, sender {int} NOT NULL,
			operator {short} NOT NULL, source {short} NOT NULL, client_id {short} NOT NULL,
			ts_ms {int} NOT NULL, expires_ms {int} NOT NULL, body {body} NOT NULL,
			revoked_by {int} NOT NULL, revoked_ms {int} NOT NULL,
			PRIMARY KEY (tl, seq){key message_by_id tl, msg_id})`,
		`CREATE TABLE IF NOT EXISTS hidden (
			tl {name} NOT NULL, mid {int} NOT NULL, seq {int} NOT NULL,
			PRIMARY KEY (tl, mid, seq))`,
		`CREATE TABLE IF NOT EXISTS user_cursor (
			mid {int} NOT NULL, tl {name} NOT NULL, epoch {bits} NOT NULL, acked {int} NOT NULL, seen {int} NOT NULL,
			min_seq {int} NOT NULL, max_seq {int} NOT NULL,
			PRIMARY KEY (mid, tl))`,
		`CREATE TABLE IF NOT EXISTS room (
			tl {name} NOT NULL, members {bits} NOT NULL,
			PRIMARY KEY (tl))`,
		`CREATE TABLE IF NOT EXISTS room_member (
			tl {name} NOT NULL, mid {int} NOT NULL, role {kind} NOT NULL, joined_seq {int} NOT NULL,
			PRIMARY KEY (tl, mid){key room_member_by_mid mid, tl})`,
		`{index message_by_id ON message (tl, msg_id)}`,
		`{index room_member_by_mid ON room_member (mid, tl)}`,
	}}
}

// spell writes a migration's statement in the dialect; empty = it has none.
// MySQL has no "CREATE INDEX IF NOT EXISTS", so its keys are in the table.
func (d *dialect) spell(statement string) string {
	if definition, ok := strings.CutPrefix(statement, "{index "); ok {
		if d.keysInTable {
			return ""
		}
		return "CREATE INDEX IF NOT EXISTS " + strings.TrimSuffix(definition, "}")
	}
	for {
		before, rest, ok := strings.Cut(statement, "{key ")
		if !ok {
			break
		}
		definition, after, _ := strings.Cut(rest, "}")
		key := ""
		if d.keysInTable {
			name, columns, _ := strings.Cut(definition, " ")
			key = ", KEY " + name + " (" + columns + ")"
		}
		statement = before + key + after
	}
	return d.types.Replace(statement) + d.tableOptions
}

// migrate brings the tables to this version. One process at a time does it: of
// MySQL by a named lock, of SQLite by its one writer.
func (s *Store) migrate(ctx context.Context) (err error) {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if s.dialect.lock != "" {
		var got sql.NullInt64
		if err := conn.QueryRowContext(ctx, s.dialect.lock).Scan(&got); err != nil {
			return err
		}
		if got.Int64 != 1 {
			return errors.New("another process holds the lock of the migrations")
		}
		defer func() {
			// The lock ends with the connection, too.
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), s.dialect.unlock)
		}()
	}
	if _, err := conn.ExecContext(ctx, s.dialect.spell(`CREATE TABLE IF NOT EXISTS migration (version {int} NOT NULL, applied_ms {int} NOT NULL, PRIMARY KEY (version))`)); err != nil {
		return err
	}
	var version int
	if err := conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM migration`).Scan(&version); err != nil {
		return err
	}
	all := migrations()
	if version > len(all) {
		return fmt.Errorf("the tables are of version %d, this program knows %d: it is older than the last one that ran", version, len(all))
	}
	for i := version; i < len(all); i++ {
		for _, statement := range all[i] {
			if text := s.dialect.spell(statement); text != "" {
				if _, err := conn.ExecContext(ctx, text); err != nil {
					return fmt.Errorf("migration %d: %w", i+1, err)
				}
			}
		}
		if _, err := conn.ExecContext(ctx, `INSERT INTO migration (version, applied_ms) VALUES (?, ?)`, i+1, time.Now().UnixMilli()); err != nil {
			return fmt.Errorf("migration %d: %w", i+1, err)
		}
		s.log.Info("the tables of the archive were made", "version", i+1)
	}
	return nil
}
