package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

const entryColumns = `m.seq, m.gen, m.off, m.msg_id, m.kind, m.flags, m.op, m.sender, m.operator, m.source, m.client_id, m.ts_ms, m.expires_ms, m.body, m.revoked_ms`

// scanEntry reads entryColumns and what follows them.
func scanEntry(rows *sql.Rows, more ...any) (e timeline.Entry, err error) {
	var id, body sql.RawBytes
	var revokedMS int64
	m := &e.Message
	err = rows.Scan(append([]any{&e.Seq, &e.At.Generation, &e.At.Offset, &id, &m.Kind, &m.Flags, &m.Op, &m.Sender,
		&m.Operator, &m.Source, &m.ClientID, &m.AcceptedMS, &m.ExpiresMS, &body, &revokedMS}, more...)...)
	if err != nil {
		return timeline.Entry{}, err
	}
	copy(m.ID[:], id)
	if len(body) > 0 {
		m.Body = slices.Clone(body)
	}
	if revokedMS != 0 {
		e.Gone = timeline.Revoked
		e.Message = tombstone(m)
	}
	return e, nil
}

// tombstone is what is harmless of a message.
func tombstone(m *message.Message) message.Message {
	return message.Message{ID: m.ID, Kind: m.Kind, AcceptedMS: m.AcceptedMS}
}

var errEnough = errors.New("the limits are reached")

// Read returns rows; see timeline.ReadArchive. Rows up to the floor, which a
// seed may need, are not among them.
func (s *Store) Read(ctx context.Context, mid int64, ask timeline.ArchiveRead) ([]timeline.Entry, error) {
	if ask.To <= ask.From {
		return nil, nil
	}
	order := "ASC"
	if ask.Backwards {
		order = "DESC"
	}
	var entries []timeline.Entry
	limit, bytes := max(ask.Entries, 1), 0
	err := each(ctx, s.reader, func(rows *sql.Rows) error {
		var hidden bool
		e, err := scanEntry(rows, &hidden)
		if err != nil {
			return err
		}
		bytes += timeline.Weight(&e.Message)
		if len(entries) > 0 && bytes > ask.Bytes {
			return errEnough
		}
		if hidden && mid != 0 {
			e.Gone, e.Message = timeline.Hidden, tombstone(&e.Message)
		}
		entries = append(entries, e)
		return nil
	}, `SELECT `+entryColumns+`, h.seq IS NOT NULL FROM message m LEFT JOIN hidden h ON h.tl = m.tl AND h.mid = ? AND h.seq = m.seq
		WHERE m.tl = ? AND m.seq > ? AND m.seq <= ? AND m.seq > COALESCE((SELECT floor FROM timeline WHERE tl = ?), 0)
		ORDER BY m.seq `+order+` LIMIT ?`,
		mid, name(ask.Timeline), number(ask.From), number(ask.To), name(ask.Timeline), limit)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, wrap("read", err)
	}
	if ask.Backwards {
		slices.Reverse(entries)
	}
	return entries, nil
}

// Tops are parallel to tls; see timeline.ReadArchive.
func (s *Store) Tops(ctx context.Context, tls []message.Timeline) ([]timeline.ArchiveTop, error) {
	tops := make([]timeline.ArchiveTop, len(tls))
	at := make(map[message.Timeline]timeline.ArchiveTop, len(tls))
	for list := range slices.Chunk(tls, inOneList) {
		err := each(ctx, s.reader, func(rows *sql.Rows) error {
			var t timeline.ArchiveTop
			if err := rows.Scan(&t.Timeline, &t.Epoch, &t.Mode, &t.Floor, &t.Seq); err != nil {
				return err
			}
			at[t.Timeline] = t
			return nil
		}, `SELECT t.tl, t.epoch, t.mode, t.floor, (SELECT m.seq FROM message m WHERE m.tl = t.tl ORDER BY m.seq DESC LIMIT 1) FROM timeline t WHERE t.tl IN (`+marks(len(list), "?")+`)`,
			names(list)...)
		if err != nil {
			return nil, wrap("tops", err)
		}
	}
	for i, tl := range tls {
		tops[i] = at[tl]
		tops[i].Timeline = tl
	}
	return tops, nil
}

// countWithin bounds the positions that an unread count looks at, so that one
// who never read costs no more than others.
const countWithin = 16 * timeline.MaxUnread

// CountUnread counts rows; see timeline.ReadArchive. It looks at the newest
// 16,000 positions at most.
func (s *Store) CountUnread(ctx context.Context, mid int64, tl message.Timeline, from, to uint64, nowMS int64) (n int, err error) {
	if to <= from {
		return 0, nil
	}
	from = max(from, to-min(to, countWithin))
	err = s.reader.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT m.seq FROM message m
		LEFT JOIN hidden h ON h.tl = m.tl AND h.mid = ? AND h.seq = m.seq
		WHERE m.tl = ? AND m.seq > ? AND m.seq <= ? AND m.seq > COALESCE((SELECT floor FROM timeline WHERE tl = ?), 0)
		AND h.seq IS NULL AND m.revoked_ms = 0 AND m.sender <> ?
		AND (m.flags & ?) <> 0 AND (m.expires_ms = 0 OR m.expires_ms > ?) LIMIT ?) AS unread`,
		mid, name(tl), number(from), number(to), name(tl), mid, int64(message.Unread), nowMS, timeline.MaxUnread).Scan(&n)
	if err != nil {
		return 0, wrap("count unread", err)
	}
	return n, nil
}

// Find returns the row of an id, the first if there are more; see
// timeline.UserArchive.
func (s *Store) Find(ctx context.Context, tl message.Timeline, id message.ID) (e timeline.Entry, err error) {
	found := false
	err = each(ctx, s.reader, func(rows *sql.Rows) error {
		found = true
		e, err = scanEntry(rows)
		return err
	}, `SELECT `+entryColumns+` FROM message m WHERE m.tl = ? AND m.msg_id = ? ORDER BY m.seq LIMIT 1`, name(tl), id[:])
	if err == nil && !found {
		err = timeline.ErrNotFound
	}
	if err != nil {
		return timeline.Entry{}, wrap("find", err)
	}
	return e, nil
}
