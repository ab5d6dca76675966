package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Bounds of one INSERT: a server refuses a query above max_allowed_packet (16
// MiB by default), and a body may take twice its size in the text of a query.
const (
	insertRows  = 250
	insertBytes = 1 << 20
)

const (
	messageColumns = `tl, seq, epoch, gen, off, msg_id, kind, flags, op, sender, operator, source, client_id, ts_ms, expires_ms, body, revoked_by, revoked_ms`
	messageMarks   = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)`
)

// Write makes rows durable; see timeline.FoldArchive.
func (s *Store) Write(ctx context.Context, p timeline.Partition, f timeline.Fence, rows []timeline.Row) (skipped int, err error) {
	if len(rows) > timeline.MaxWriteRows {
		return 0, fmt.Errorf("archive: write of %d rows: at most %d", len(rows), timeline.MaxWriteRows)
	}
	err = s.change(ctx, "write", func(tx *sql.Tx) error {
		skipped = 0
		if err := checkFence(ctx, tx, p, f, s.dialect.forUpdate); err != nil {
			return err
		}
		if err := s.keepTimelines(ctx, tx, rows); err != nil {
			return err
		}
		for part := range parts(rows) {
			n, err := s.insert(ctx, tx, part)
			if err != nil {
				return err
			}
			skipped += n
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return skipped, nil
}

// parts cuts rows into what one INSERT takes.
func parts(rows []timeline.Row) func(yield func([]timeline.Row) bool) {
	return func(yield func([]timeline.Row) bool) {
		for len(rows) > 0 {
			n, size := 0, 0
			for n < len(rows) && n < insertRows && (n == 0 || size+len(rows[n].Message.Body) <= insertBytes) {
				size += len(rows[n].Message.Body)
				n++
			}
			if !yield(rows[:n]) {
				return
			}
			rows = rows[n:]
		}
	}
}

// insert answers how many rows of BestEffort were skipped because their
// positions have other messages.
func (s *Store) insert(ctx context.Context, tx *sql.Tx, rows []timeline.Row) (skipped int, err error) {
	args := make([]any, 0, 16*len(rows))
	for i := range rows {
		r, m := &rows[i], rows[i].Message
		body := m.Body
		if body == nil {
			body = []byte{} // nil is NULL
		}
		args = append(args, name(r.Timeline), number(r.Seq), r.Epoch, r.At.Generation, r.At.Offset, m.ID[:], int(m.Kind), uint32(m.Flags),
			m.Op, m.Sender, []byte(m.Operator), []byte(m.Source), []byte(m.ClientID), m.AcceptedMS, m.ExpiresMS, body)
	}
	result, err := tx.ExecContext(ctx, `INSERT INTO message (`+messageColumns+`) VALUES `+marks(len(rows), messageMarks)+s.dialect.skip, args...)
	if err != nil {
		return 0, err
	}
	if added, err := result.RowsAffected(); err != nil || added == int64(len(rows)) {
		return 0, err
	}
	return compare(ctx, tx, rows)
}

// compare finds rows whose positions have other messages.
func compare(ctx context.Context, tx *sql.Tx, rows []timeline.Row) (skipped int, err error) {
	type place struct {
		tl  message.Timeline
		seq uint64
	}
	stand := make(map[place]message.ID, len(rows))
	args := make([]any, 0, 2*len(rows))
	for i := range rows {
		args = append(args, name(rows[i].Timeline), number(rows[i].Seq))
	}
	// Their order in VALUES is that of the primary key.
	err = each(ctx, tx, func(r *sql.Rows) error {
		var at place
		var id sql.RawBytes
		if err := r.Scan(&at.tl, &at.seq, &id); err != nil {
			return err
		}
		stand[at] = message.ID(id)
		return nil
	}, `SELECT tl, seq, msg_id FROM message WHERE `+alternatives(len(rows), `(tl = ? AND seq = ?)`), args...)
	if err != nil {
		return 0, err
	}
	for i := range rows {
		r := &rows[i]
		id := stand[place{r.Timeline, r.Seq}]
		switch {
		case id == r.Message.ID:
		case r.Mode == timeline.Required:
			return 0, &timeline.Conflict{Timeline: r.Timeline, Seq: r.Seq, Stands: id, Refused: r.Message.ID}
		default:
			skipped++
		}
	}
	return skipped, nil
}

// keepTimelines makes the rows of timelines that have none, and gives each the
// epoch and the mode of its last row in the batch.
func (s *Store) keepTimelines(ctx context.Context, tx *sql.Tx, rows []timeline.Row) error {
	type state struct {
		epoch uint32
		mode  timeline.Mode
	}
	wanted := map[message.Timeline]state{}
	for i := range rows {
		wanted[rows[i].Timeline] = state{rows[i].Epoch, rows[i].Mode}
	}
	// Sorted, so that two writers take locks in one order.
	var tls []message.Timeline
	for tl := range wanted {
		tls = append(tls, tl)
	}
	slices.Sort(tls)
	nowMS := time.Now().UnixMilli()
	for list := range slices.Chunk(tls, inOneList) {
		known := make(map[message.Timeline]state, len(list))
		err := each(ctx, tx, func(r *sql.Rows) error {
			var tl message.Timeline
			var is state
			err := r.Scan(&tl, &is.epoch, &is.mode)
			known[tl] = is
			return err
		}, `SELECT tl, epoch, mode FROM timeline WHERE tl IN (`+marks(len(list), "?")+`)`, names(list)...)
		if err != nil {
			return err
		}
		var fresh []any
		for _, tl := range list {
			want := wanted[tl]
			is, ok := known[tl]
			if !ok {
				fresh = append(fresh, name(tl), want.epoch, int(want.mode), nowMS)
			} else if is != want {
				if _, err := tx.ExecContext(ctx, `UPDATE timeline SET epoch = ?, mode = ? WHERE tl = ?`, want.epoch, int(want.mode), name(tl)); err != nil {
					return err
				}
			}
		}
		if len(fresh) > 0 {
			if _, err := tx.ExecContext(ctx, `INSERT INTO timeline (tl, epoch, floor, mode, created_ms) VALUES `+
				marks(len(fresh)/4, "(?, ?, 0, ?, ?)"), fresh...); err != nil {
				return err
			}
		}
	}
	return nil
}
