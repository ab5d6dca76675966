package timeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/message"
)

// Hide hides positions from the reader alone; see logic.Editing.
func (s *Store) Hide(ctx context.Context, r Reader, tl message.Timeline, seqs []uint64) error {
	st, err := s.editable(ctx, r, tl, len(seqs))
	if err != nil {
		return fmt.Errorf("hide in %s: %w", tl, err)
	}
	// Only what exists: a client must not hide what nobody has said yet.
	seqs = slices.DeleteFunc(slices.Clone(seqs), func(seq uint64) bool { return seq == 0 || seq > st.top })
	if len(seqs) == 0 {
		return nil
	}
	if err := s.archive.Hide(ctx, r.Mid, tl, seqs); err != nil {
		return fmt.Errorf("hide in %s: %w", tl, err)
	}
	return nil
}

// Clear hides everything up to upTo from the reader.
func (s *Store) Clear(ctx context.Context, r Reader, tl message.Timeline, upTo uint64) error {
	st, err := s.editable(ctx, r, tl, 1)
	if err == nil {
		err = s.archive.Clear(ctx, r.Mid, tl, min(upTo, st.top))
	}
	if err != nil {
		return fmt.Errorf("clear %s: %w", tl, err)
	}
	return nil
}

func (s *Store) editable(ctx context.Context, r Reader, tl message.Timeline, n int) (stand, error) {
	if s.ModeOf(tl) == Off { // what is hidden now may be another message tomorrow
		return stand{}, ErrNoArchive
	}
	if n > MaxPageEntries {
		return stand{}, fmt.Errorf("%w: %d positions, at most %d", ErrTooMany, n, MaxPageEntries)
	}
	if r.Mid == 0 {
		return stand{}, ErrForbidden
	}
	if _, err := s.mayRead(ctx, r, tl); err != nil {
		return stand{}, err
	}
	stands, err := s.stands(ctx, []message.Timeline{tl})
	if err != nil {
		return stand{}, err
	}
	return stands[0], nil
}

// A position that is not archived yet is asked for again: its row is on its
// way, with the body that must not stay.
const (
	revokeWait = 2 * time.Second
	revokePoll = 20 * time.Millisecond
)

// Revoke empties a position for everybody; see logic.Editing. First the
// archive: the window may be loaded from it at any moment.
func (s *Store) Revoke(ctx context.Context, tl message.Timeline, seq uint64, by int64) (Entry, error) {
	e, err := s.revoke(ctx, tl, seq, by)
	if err != nil {
		return Entry{}, fmt.Errorf("revoke %s %d: %w", tl, seq, err)
	}
	return e, nil
}

func (s *Store) revoke(ctx context.Context, tl message.Timeline, seq uint64, by int64) (Entry, error) {
	stands, err := s.stands(ctx, []message.Timeline{tl})
	if err != nil {
		return Entry{}, err
	}
	st := stands[0]
	if seq == 0 || seq > st.top || seq <= st.floor {
		return Entry{}, ErrNotFound
	}
	var e Entry
	if s.ModeOf(tl) != Off {
		if err := s.revokeArchived(ctx, tl, seq, by); err != nil {
			return Entry{}, err
		}
		rows, err := s.archive.Read(ctx, 0, ArchiveRead{Timeline: tl, From: seq - 1, To: seq, Entries: 1, Bytes: MaxPageBytes})
		if err != nil {
			return Entry{}, err
		}
		if len(rows) > 0 {
			e = rows[0]
		}
	}
	if st.live {
		if err := s.window.Revoke(ctx, tl, st.epoch, []uint64{seq}); err != nil {
			return Entry{}, err
		}
	}
	if e.Seq == 0 {
		pages, err := s.window.Read(ctx, []WindowRead{{Timeline: tl, From: seq - 1, Entries: 1, Bytes: MaxPageBytes}})
		if err != nil {
			return Entry{}, err
		}
		if len(pages[0].Entries) == 0 || pages[0].Entries[0].Seq != seq {
			return Entry{}, ErrNotFound
		}
		e = pages[0].Entries[0]
	}
	e.empty(Revoked)
	return e, nil
}

func (s *Store) revokeArchived(ctx context.Context, tl message.Timeline, seq uint64, by int64) error {
	wait := time.NewTimer(revokeWait)
	defer wait.Stop()
	poll := time.NewTicker(revokePoll)
	defer poll.Stop()
	for {
		err := s.archive.Revoke(ctx, tl, seq, by, s.nowMS())
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
			return ErrBehind
		case <-poll.C:
		}
	}
}
