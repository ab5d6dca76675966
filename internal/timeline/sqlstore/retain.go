package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Retain deletes old rows; see timeline.UserArchive.
func (s *Store) Retain(ctx context.Context, tl message.Timeline, floor uint64) (more bool, err error) {
	err = s.change(ctx, "retain", func(tx *sql.Tx) error {
		more = false
		var old, top uint64
		err := tx.QueryRowContext(ctx, `SELECT floor, COALESCE((SELECT m.seq FROM message m WHERE m.tl = timeline.tl ORDER BY m.seq DESC LIMIT 1), 0)
			FROM timeline WHERE tl = ?`+s.dialect.forUpdate, name(tl)).Scan(&old, &top)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		floor := min(floor, top)
		reached, done, err := forget(ctx, tx, tl, old, floor)
		if err != nil {
			return err
		}
		more = !done
		_, err = tx.ExecContext(ctx, `UPDATE timeline SET floor = ? WHERE tl = ?`, number(max(old, reached)), name(tl))
		return err
	})
	return more && err == nil, err
}

// forget does one step from the floor that was to the one that is wanted, and
// answers how far it came. Rows that a seed needs lose their bodies; they are
// deleted once newer ones have taken their place.
func forget(ctx context.Context, tx *sql.Tx, tl message.Timeline, old, floor uint64) (reached uint64, done bool, err error) {
	var needed uint64 // the oldest row that a seed needs
	err = tx.QueryRowContext(ctx, `SELECT seq FROM message WHERE tl = ? ORDER BY seq DESC LIMIT 1 OFFSET ?`, name(tl), timeline.Recent(tl)-1).Scan(&needed)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, false, err
	}
	budget := timeline.MaxWriteRows
	if needed > 0 {
		n, last, err := span(ctx, tx, tl, 0, min(floor, needed-1), budget)
		if err != nil {
			return 0, false, err
		}
		if n > 0 {
			if _, err := tx.ExecContext(ctx, `DELETE FROM message WHERE tl = ? AND seq <= ?`, name(tl), number(last)); err != nil {
				return 0, false, err
			}
		}
		if budget -= n; budget == 0 {
			return last, false, nil
		}
		old = max(old, min(floor, needed-1))
	}
	n, last, err := span(ctx, tx, tl, old, floor, budget)
	if err != nil {
		return 0, false, err
	}
	if n > 0 {
		if _, err := tx.ExecContext(ctx, `UPDATE message SET body = ? WHERE tl = ? AND seq > ? AND seq <= ?`, []byte{}, name(tl), number(old), number(last)); err != nil {
			return 0, false, err
		}
	}
	if n == budget {
		return last, false, nil
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM hidden WHERE tl = ? AND seq <= ?`, name(tl), number(floor))
	return floor, true, err
}

// span counts at most limit rows with from < seq <= to and tells the last.
func span(ctx context.Context, tx *sql.Tx, tl message.Timeline, from, to uint64, limit int) (n int, last uint64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MAX(seq), 0) FROM
		(SELECT seq FROM message WHERE tl = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?) AS oldest`,
		name(tl), number(from), number(to), limit).Scan(&n, &last)
	return n, last, err
}

// olderAtOnce is how many timelines one query looks at.
const olderAtOnce = 500

// Older lists timelines with old rows; see timeline.UserArchive. The clocks of
// logics may differ, so "accepted before" is so only up to that difference: the
// seq is found by halving.
func (s *Store) Older(ctx context.Context, after message.Timeline, beforeMS int64, limit int) ([]timeline.Top, error) {
	var tops []timeline.Top
	for len(tops) < limit {
		seen := 0
		var old []candidate
		// The oldest row above the floor decides, by one look at the primary key.
		err := each(ctx, s.reader, func(rows *sql.Rows) error {
			var c candidate
			var acceptedMS sql.NullInt64
			if err := rows.Scan(&c.top.Timeline, &c.top.Epoch, &c.low, &c.high, &acceptedMS); err != nil {
				return err
			}
			seen++
			after = c.top.Timeline
			if acceptedMS.Valid && acceptedMS.Int64 < beforeMS {
				old = append(old, c)
			}
			return nil
		}, `SELECT t.tl, t.epoch, t.floor, COALESCE((SELECT m.seq FROM message m WHERE m.tl = t.tl ORDER BY m.seq DESC LIMIT 1), 0),
			(SELECT m.ts_ms FROM message m WHERE m.tl = t.tl AND m.seq > t.floor ORDER BY m.seq LIMIT 1)
			FROM timeline t WHERE t.tl > ? ORDER BY t.tl LIMIT ?`, name(after), olderAtOnce)
		if err != nil {
			return nil, wrap("older", err)
		}
		for _, c := range slices.Clip(old)[:min(len(old), limit-len(tops))] {
			if c.top.Seq, err = s.lastBefore(ctx, c, beforeMS); err != nil {
				return nil, wrap("older", err)
			}
			tops = append(tops, c.top)
		}
		if seen < olderAtOnce {
			break
		}
	}
	return tops, nil
}

type candidate struct {
	top       timeline.Top
	low, high uint64 // its rows are in low < seq <= high; the first is old
}

// lastBefore halves the range until the first row above low is the last old one.
func (s *Store) lastBefore(ctx context.Context, c candidate, beforeMS int64) (found uint64, err error) {
	for low, high := c.low, c.high; low < high; {
		middle := low + (high-low)/2
		var seq uint64
		var acceptedMS int64
		err := s.reader.QueryRowContext(ctx, `SELECT seq, ts_ms FROM message WHERE tl = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT 1`,
			name(c.top.Timeline), number(middle), number(high)).Scan(&seq, &acceptedMS)
		switch {
		case errors.Is(err, sql.ErrNoRows): // a hole of BestEffort
			high = middle
		case err != nil:
			return 0, err
		case acceptedMS < beforeMS:
			found, low = seq, seq
		default:
			high = middle
		}
	}
	return found, nil
}
