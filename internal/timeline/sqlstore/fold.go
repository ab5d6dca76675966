package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// standing is the fence of a partition and the life of the log it stands for.
// Owner and Rewinds are kept as signed numbers of the same bits.
type standing struct {
	log        string
	generation uint32
	fence      timeline.Fence
}

// readFence answers false when no fence stands.
func readFence(ctx context.Context, tx *sql.Tx, p timeline.Partition, lock string) (s standing, ok bool, err error) {
	var owner, rewinds int64
	err = tx.QueryRowContext(ctx, `SELECT log, gen, owner, rewinds FROM fold WHERE part = ?`+lock, p.Number).
		Scan(&s.log, &s.generation, &owner, &rewinds)
	if errors.Is(err, sql.ErrNoRows) {
		return standing{}, false, nil
	}
	s.fence = timeline.Fence{Owner: uint64(owner), Rewinds: uint64(rewinds)}
	return s, err == nil, err
}

// checkFence fails unless f stands. With a lock it stays so until the end of
// the transaction.
func checkFence(ctx context.Context, tx *sql.Tx, p timeline.Partition, f timeline.Fence, lock string) error {
	s, ok, err := readFence(ctx, tx, p, lock)
	switch {
	case err != nil:
		return err
	case ok && (s.generation != p.Generation || s.log != p.Log):
		return timeline.ErrLogChanged
	case !ok || s.fence != f:
		return &timeline.StaleFence{Stands: s.fence}
	}
	return nil
}

// TakeFence begins the life of a worker; see timeline.FoldArchive.
func (s *Store) TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (f timeline.Fence, err error) {
	err = s.change(ctx, "take the fence", func(tx *sql.Tx) error {
		stands, ok, err := readFence(ctx, tx, p, s.dialect.forUpdate)
		if err != nil {
			return err
		}
		if f, err = next(stands, ok, p, owner, over); err != nil {
			return err
		}
		if !ok {
			_, err = tx.ExecContext(ctx, `INSERT INTO fold (part, gen, log, owner, rewinds) VALUES (?, ?, ?, ?, ?)`,
				p.Number, p.Generation, []byte(p.Log), int64(f.Owner), int64(f.Rewinds))
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE fold SET gen = ?, log = ?, owner = ?, rewinds = ? WHERE part = ?`,
			p.Generation, []byte(p.Log), int64(f.Owner), int64(f.Rewinds), p.Number)
		return err
	})
	if err != nil {
		return timeline.Fence{}, err
	}
	return f, nil
}

// next is the fence that a worker gets.
func next(stands standing, ok bool, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fence, error) {
	switch {
	case !ok || p.Generation > stands.generation:
		return timeline.Fence{Owner: owner}, nil
	case p.Generation < stands.generation || p.Log != stands.log:
		return timeline.Fence{}, timeline.ErrLogChanged
	case owner > stands.fence.Owner:
		return timeline.Fence{Owner: owner}, nil
	case owner == stands.fence.Owner || over != nil && *over == stands.fence:
		return timeline.Fence{Owner: stands.fence.Owner, Rewinds: stands.fence.Rewinds + 1}, nil
	}
	return timeline.Fence{}, &timeline.StaleFence{Stands: stands.fence}
}

// RaiseFence begins the next life of a worker; see timeline.FoldArchive.
func (s *Store) RaiseFence(ctx context.Context, p timeline.Partition, f timeline.Fence) (timeline.Fence, error) {
	raised := timeline.Fence{Owner: f.Owner, Rewinds: f.Rewinds + 1}
	err := s.change(ctx, "raise the fence", func(tx *sql.Tx) error {
		if err := checkFence(ctx, tx, p, f, s.dialect.forUpdate); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE fold SET rewinds = ? WHERE part = ?`, int64(raised.Rewinds), p.Number)
		return err
	})
	if err != nil {
		return timeline.Fence{}, err
	}
	return raised, nil
}

// seedsInOneQuery bounds the parts of a compound query.
const seedsInOneQuery = 32

// Load returns seeds; see timeline.FoldArchive.
func (s *Store) Load(ctx context.Context, p timeline.Partition, f timeline.Fence, tls []message.Timeline) ([]timeline.Seed, error) {
	seeds := make([]timeline.Seed, len(tls))
	err := s.look(ctx, "load", func(tx *sql.Tx) error {
		if err := checkFence(ctx, tx, p, f, ""); err != nil {
			return err
		}
		for begin := 0; begin < len(tls); begin += seedsInOneQuery {
			end := min(begin+seedsInOneQuery, len(tls))
			if err := loadSeeds(ctx, tx, tls[begin:end], seeds[begin:end]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return seeds, nil
}

// loadSeeds reads the newest rows of each timeline, newest first, in one query.
func loadSeeds(ctx context.Context, tx *sql.Tx, tls []message.Timeline, seeds []timeline.Seed) error {
	query, args := make([]byte, 0, 256*len(tls)), make([]any, 0, 3*len(tls))
	for i, tl := range tls {
		if i > 0 {
			query = append(query, " UNION ALL "...)
		}
		// The derived table is what lets each part have an order and a limit.
		query = append(query, `SELECT * FROM (SELECT ? AS nr, t.epoch, t.mode, t.floor, m.seq, m.gen, m.off, m.msg_id
			FROM timeline t JOIN message m ON m.tl = t.tl WHERE t.tl = ? ORDER BY m.seq DESC LIMIT ?) AS part`...)
		args = append(args, i, name(tl), timeline.Recent(tl))
	}
	err := each(ctx, tx, func(rows *sql.Rows) error {
		var i int
		var epoch uint32
		var mode timeline.Mode
		var floor, seq uint64
		var at timeline.Offset
		var id sql.RawBytes
		if err := rows.Scan(&i, &epoch, &mode, &floor, &seq, &at.Generation, &at.Offset, &id); err != nil {
			return err
		}
		seed := &seeds[i]
		if seq > seed.Top {
			seed.Epoch, seed.Mode, seed.Floor, seed.Top, seed.Off = epoch, mode, floor, seq, at
		}
		recent := timeline.RecentID{Seq: seq}
		copy(recent.ID[:], id)
		seed.IDs = append(seed.IDs, recent)
		return nil
	}, string(query), args...)
	if err != nil {
		return err
	}
	for i := range seeds {
		oldestFirst(&seeds[i])
	}
	return nil
}

// oldestFirst sorts: a compound query promises no order, not among its parts
// and not in what is selected from an ordered one.
func oldestFirst(seed *timeline.Seed) {
	slices.SortFunc(seed.IDs, func(a, b timeline.RecentID) int { return cmp.Compare(a.Seq, b.Seq) })
}
