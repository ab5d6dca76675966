package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// lockRoom makes changes of a room wait for each other and tells its size.
func (s *Store) lockRoom(ctx context.Context, tx *sql.Tx, tl message.Timeline) (members int, known bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT members FROM room WHERE tl = ?`+s.dialect.forUpdate, name(tl)).Scan(&members)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return members, err == nil, err
}

func setSize(ctx context.Context, tx *sql.Tx, tl message.Timeline, members int, known bool) error {
	query := `INSERT INTO room (members, tl) VALUES (?, ?)`
	if known {
		query = `UPDATE room SET members = ? WHERE tl = ?`
	}
	_, err := tx.ExecContext(ctx, query, members, name(tl))
	return err
}

// who are those of mids that are members, ascending, without repeats.
func who(ctx context.Context, tx *sql.Tx, tl message.Timeline, mids []int64) ([]int64, error) {
	var found []int64
	for list := range slices.Chunk(mids, inOneList) {
		args := []any{name(tl)}
		for _, mid := range list {
			args = append(args, mid)
		}
		err := each(ctx, tx, func(rows *sql.Rows) error {
			var mid int64
			err := rows.Scan(&mid)
			found = append(found, mid)
			return err
		}, `SELECT mid FROM room_member WHERE tl = ? AND mid IN (`+marks(len(list), "?")+`)`, args...)
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Join adds members; see timeline.MemberArchive. It answers
// timeline.ErrTooMany when there would be more than limit.
func (s *Store) Join(ctx context.Context, tl message.Timeline, members []timeline.Member, history bool, limit int) error {
	if len(members) == 0 {
		return nil
	}
	return s.change(ctx, "join", func(tx *sql.Tx) error {
		size, known, err := s.lockRoom(ctx, tx, tl)
		if err != nil {
			return err
		}
		mids := make([]int64, len(members))
		for i, m := range members {
			mids[i] = m.Mid
		}
		old, err := who(ctx, tx, tl, mids)
		if err != nil {
			return err
		}
		for _, m := range members {
			if _, again := slices.BinarySearch(old, m.Mid); again {
				if _, err := tx.ExecContext(ctx, `UPDATE room_member SET role = ? WHERE tl = ? AND mid = ?`, int(m.Role), name(tl), m.Mid); err != nil {
					return err
				}
				continue
			}
			if size++; size > limit {
				return fmt.Errorf("%w: the room may have %d members", timeline.ErrTooMany, limit)
			}
			if err := s.enter(ctx, tx, tl, m, history); err != nil {
				return err
			}
			i, _ := slices.BinarySearch(old, m.Mid)
			old = slices.Insert(old, i, m.Mid) // named twice: the second time changes the role
		}
		return setSize(ctx, tx, tl, size, known)
	})
}

// enter adds one member. One who has left before sees nothing of the time in
// between, nor of the time before it: a range has no holes.
func (s *Store) enter(ctx context.Context, tx *sql.Tx, tl message.Timeline, m timeline.Member, history bool) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO room_member (tl, mid, role, joined_seq) VALUES (?, ?, ?, ?)`,
		name(tl), m.Mid, int(m.Role), number(m.JoinedSeq)); err != nil {
		return err
	}
	if history {
		var left uint64
		err := tx.QueryRowContext(ctx, `SELECT max_seq FROM user_cursor WHERE mid = ? AND tl = ?`+s.dialect.forUpdate, m.Mid, name(tl)).Scan(&left)
		if errors.Is(err, sql.ErrNoRows) || err == nil && left == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, newRange+`(?, ?, 0, 0, 0, ?, 0)`+s.dialect.setRange, m.Mid, name(tl), number(m.JoinedSeq))
	return err
}

// Leave removes members; see timeline.MemberArchive. Max 0 would be "no end":
// one who leaves an empty room may see nothing.
func (s *Store) Leave(ctx context.Context, tl message.Timeline, mids []int64, top uint64) error {
	if len(mids) == 0 {
		return nil
	}
	return s.change(ctx, "leave", func(tx *sql.Tx) error {
		size, known, err := s.lockRoom(ctx, tx, tl)
		if err != nil || !known {
			return err
		}
		leaving, err := who(ctx, tx, tl, mids)
		if err != nil {
			return err
		}
		for _, mid := range leaving {
			if _, err := tx.ExecContext(ctx, `DELETE FROM room_member WHERE tl = ? AND mid = ?`, name(tl), mid); err != nil {
				return err
			}
			var low uint64
			err := tx.QueryRowContext(ctx, `SELECT min_seq FROM user_cursor WHERE mid = ? AND tl = ?`+s.dialect.forUpdate, mid, name(tl)).Scan(&low)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if top == 0 {
				low = 1
			}
			if _, err := tx.ExecContext(ctx, newRange+`(?, ?, 0, 0, 0, ?, ?)`+s.dialect.setRange, mid, name(tl), number(low), number(max(top, 1))); err != nil {
				return err
			}
		}
		return setSize(ctx, tx, tl, size-len(leaving), true)
	})
}

// Member is one member; see timeline.MemberArchive.
func (s *Store) Member(ctx context.Context, tl message.Timeline, mid int64) (timeline.Member, error) {
	m := timeline.Member{Mid: mid}
	err := s.reader.QueryRowContext(ctx, `SELECT role, joined_seq FROM room_member WHERE tl = ? AND mid = ?`, name(tl), mid).Scan(&m.Role, &m.JoinedSeq)
	if errors.Is(err, sql.ErrNoRows) {
		err = timeline.ErrNotFound
	}
	if err != nil {
		return timeline.Member{}, wrap("member", err)
	}
	return m, nil
}

// Members lists by mid; see timeline.MemberArchive.
func (s *Store) Members(ctx context.Context, tl message.Timeline, after int64, limit int) ([]timeline.Member, error) {
	var members []timeline.Member
	err := each(ctx, s.reader, func(rows *sql.Rows) error {
		var m timeline.Member
		err := rows.Scan(&m.Mid, &m.Role, &m.JoinedSeq)
		members = append(members, m)
		return err
	}, `SELECT mid, role, joined_seq FROM room_member WHERE tl = ? AND mid > ? ORDER BY mid LIMIT ?`, name(tl), after, max(limit, 0))
	if err != nil {
		return nil, wrap("members", err)
	}
	return members, nil
}

// Rooms lists by timeline; see timeline.MemberArchive.
func (s *Store) Rooms(ctx context.Context, mid int64, after message.Timeline, limit int) ([]timeline.Membership, error) {
	var rooms []timeline.Membership
	err := each(ctx, s.reader, func(rows *sql.Rows) error {
		var m timeline.Membership
		err := rows.Scan(&m.Timeline, &m.Role, &m.Range.Min, &m.Range.Max)
		rooms = append(rooms, m)
		return err
	}, `SELECT r.tl, r.role, COALESCE(c.min_seq, 0), COALESCE(c.max_seq, 0) FROM room_member r
		LEFT JOIN user_cursor c ON c.mid = r.mid AND c.tl = r.tl WHERE r.mid = ? AND r.tl > ? ORDER BY r.tl LIMIT ?`,
		mid, name(after), max(limit, 0))
	if err != nil {
		return nil, wrap("rooms", err)
	}
	return rooms, nil
}
