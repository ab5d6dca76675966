package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

func wrap(op string, err error) error { return fmt.Errorf("archive: %s: %w", op, err) }

// SaveCursors raises stored cursors; see timeline.UserArchive.
func (s *Store) SaveCursors(ctx context.Context, cursors map[int64][]timeline.UserCursor) error {
	type row struct {
		mid int64
		timeline.UserCursor
	}
	var rows []row
	for mid, list := range cursors {
		for _, c := range list {
			rows = append(rows, row{mid, c})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	// In one order, so that two writers do not wait for each other.
	slices.SortFunc(rows, func(x, y row) int { return cmp.Or(cmp.Compare(x.mid, y.mid), cmp.Compare(x.Timeline, y.Timeline)) })
	return s.change(ctx, "save cursors", func(tx *sql.Tx) error {
		for list := range slices.Chunk(rows, inOneList) {
			args := make([]any, 0, 5*len(list))
			for _, c := range list {
				args = append(args, c.mid, name(c.Timeline), c.Epoch, number(c.Acked), number(c.Read))
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO user_cursor (mid, tl, epoch, acked, seen, min_seq, max_seq) VALUES `+
				marks(len(list), "(?, ?, ?, ?, ?, 0, 0)")+s.dialect.raiseCursor, args...)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Cursors are parallel to tls; see timeline.UserArchive.
func (s *Store) Cursors(ctx context.Context, mid int64, tls []message.Timeline) ([]timeline.UserCursor, error) {
	at := make(map[message.Timeline]timeline.UserCursor, len(tls))
	for list := range slices.Chunk(tls, inOneList) {
		err := each(ctx, s.reader, func(rows *sql.Rows) error {
			var c timeline.UserCursor
			err := rows.Scan(&c.Timeline, &c.Epoch, &c.Acked, &c.Read)
			at[c.Timeline] = c
			return err
		}, `SELECT tl, epoch, acked, seen FROM user_cursor WHERE mid = ? AND tl IN (`+marks(len(list), "?")+`)`, append([]any{mid}, names(list)...)...)
		if err != nil {
			return nil, wrap("cursors", err)
		}
	}
	cursors := make([]timeline.UserCursor, len(tls))
	for i, tl := range tls {
		cursors[i] = at[tl]
		cursors[i].Timeline = tl
	}
	return cursors, nil
}

// Hide hides positions; see timeline.UserArchive.
func (s *Store) Hide(ctx context.Context, mid int64, tl message.Timeline, seqs []uint64) error {
	seqs = slices.Compact(slices.Sorted(slices.Values(seqs)))
	return s.change(ctx, "hide", func(tx *sql.Tx) error {
		for list := range slices.Chunk(seqs, inOneList) {
			args := make([]any, 0, 3*len(list))
			for _, seq := range list {
				args = append(args, name(tl), mid, number(seq))
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO hidden (tl, mid, seq) VALUES `+marks(len(list), "(?, ?, ?)")+s.dialect.skip, args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// Revoke makes a tombstone; see timeline.UserArchive.
func (s *Store) Revoke(ctx context.Context, tl message.Timeline, seq uint64, by int64, nowMS int64) error {
	return s.change(ctx, "revoke", func(tx *sql.Tx) error {
		var revokedMS int64
		err := tx.QueryRowContext(ctx, `SELECT revoked_ms FROM message WHERE tl = ? AND seq = ?`+s.dialect.forUpdate, name(tl), number(seq)).Scan(&revokedMS)
		if errors.Is(err, sql.ErrNoRows) {
			return timeline.ErrNotFound
		}
		if err != nil || revokedMS != 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE message SET body = ?, revoked_by = ?, revoked_ms = ? WHERE tl = ? AND seq = ?`,
			[]byte{}, by, max(nowMS, 1), name(tl), number(seq))
		return err
	})
}

const newRange = `INSERT INTO user_cursor (mid, tl, epoch, acked, seen, min_seq, max_seq) VALUES `

// Clear raises Range.Min; see timeline.UserArchive.
func (s *Store) Clear(ctx context.Context, mid int64, tl message.Timeline, upTo uint64) error {
	return s.change(ctx, "clear", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, newRange+`(?, ?, 0, 0, 0, ?, 0)`+s.dialect.clear, mid, name(tl), number(upTo))
		return err
	})
}

// Range of mid in tl; see timeline.UserArchive.
func (s *Store) Range(ctx context.Context, mid int64, tl message.Timeline) (r timeline.Range, err error) {
	err = s.reader.QueryRowContext(ctx, `SELECT min_seq, max_seq FROM user_cursor WHERE mid = ? AND tl = ?`, mid, name(tl)).Scan(&r.Min, &r.Max)
	if errors.Is(err, sql.ErrNoRows) {
		return timeline.Range{}, nil
	}
	if err != nil {
		return timeline.Range{}, wrap("range", err)
	}
	return r, nil
}

// Views are what mid may see; see timeline.UserArchive.
func (s *Store) Views(ctx context.Context, mid int64, asks []timeline.ViewAsk) ([]timeline.View, error) {
	at := make(map[message.Timeline]*timeline.View, len(asks))
	views := make([]timeline.View, len(asks))
	err := s.look(ctx, "views", func(tx *sql.Tx) error {
		clear(at)
		clear(views)
		for list := range slices.Chunk(asks, inOneList) {
			if err := lookAtViews(ctx, tx, mid, list, at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, ask := range asks {
		v := at[ask.Timeline]
		views[i] = timeline.View{Range: v.Range, Member: v.Member}
		for _, seq := range v.Hidden {
			if seq > ask.From && seq <= ask.To {
				views[i].Hidden = append(views[i].Hidden, seq)
			}
		}
	}
	return views, nil
}

func lookAtViews(ctx context.Context, tx *sql.Tx, mid int64, asks []timeline.ViewAsk, at map[message.Timeline]*timeline.View) error {
	tls := []any{mid}
	for _, ask := range asks {
		if at[ask.Timeline] == nil {
			at[ask.Timeline] = &timeline.View{}
		}
		tls = append(tls, name(ask.Timeline))
	}
	in := marks(len(asks), "?") + ")"
	var tl message.Timeline
	err := each(ctx, tx, func(rows *sql.Rows) error {
		var r timeline.Range
		err := rows.Scan(&tl, &r.Min, &r.Max)
		at[tl].Range = r
		return err
	}, `SELECT tl, min_seq, max_seq FROM user_cursor WHERE mid = ? AND tl IN (`+in, tls...)
	if err != nil {
		return err
	}
	err = each(ctx, tx, func(rows *sql.Rows) error {
		err := rows.Scan(&tl)
		at[tl].Member = true
		return err
	}, `SELECT tl FROM room_member WHERE mid = ? AND tl IN (`+in, tls...)
	if err != nil {
		return err
	}
	args := []any{mid}
	for _, ask := range asks {
		args = append(args, name(ask.Timeline), number(ask.From), number(ask.To))
	}
	return each(ctx, tx, func(rows *sql.Rows) error {
		var seq uint64
		err := rows.Scan(&tl, &seq)
		at[tl].Hidden = append(at[tl].Hidden, seq)
		return err
	}, `SELECT tl, seq FROM hidden WHERE mid = ? AND (`+alternatives(len(asks), `(tl = ? AND seq > ? AND seq <= ?)`)+`) ORDER BY tl, seq`, args...)
}
