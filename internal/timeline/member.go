package timeline

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/internal/message"
)

// MaxListed bounds what one call changes or lists.
const MaxListed = 1000

// Join makes durable members; see logic.Rooms. JoinedSeq is the room's top now,
// 0 where positions do not last.
func (s *Store) Join(ctx context.Context, room message.Timeline, members []Member) error {
	top, err := s.roomTop(ctx, room, len(members))
	if err != nil {
		return fmt.Errorf("join %s: %w", room, err)
	}
	joining := make([]Member, len(members))
	for i, m := range members {
		m.JoinedSeq = top
		joining[i] = m
	}
	if err := s.archive.Join(ctx, room, joining, s.cfg.JoinHistory, s.cfg.MaxMembers); err != nil {
		return fmt.Errorf("join %s: %w", room, err)
	}
	return nil
}

// Leave ends memberships; what was said until now stays readable.
func (s *Store) Leave(ctx context.Context, room message.Timeline, mids []int64) error {
	top, err := s.roomTop(ctx, room, len(mids))
	if err != nil {
		return fmt.Errorf("leave %s: %w", room, err)
	}
	if err := s.archive.Leave(ctx, room, mids, top); err != nil {
		return fmt.Errorf("leave %s: %w", room, err)
	}
	return nil
}

func (s *Store) roomTop(ctx context.Context, room message.Timeline, n int) (uint64, error) {
	if s.archive == nil {
		return 0, ErrNoArchive
	}
	if n > MaxListed {
		return 0, fmt.Errorf("%w: %d members, at most %d", ErrTooMany, n, MaxListed)
	}
	if _, ok := room.Room(); !ok {
		return 0, ErrNotFound
	}
	if s.ModeOf(room) == Off {
		return 0, nil
	}
	stands, err := s.stands(ctx, []message.Timeline{room})
	if err != nil {
		return 0, err
	}
	return stands[0].top, nil
}

// Member is one member, or ErrNotFound.
func (s *Store) Member(ctx context.Context, room message.Timeline, mid int64) (Member, error) {
	if s.archive == nil {
		return Member{}, ErrNoArchive
	}
	m, err := s.archive.Member(ctx, room, mid)
	if err != nil {
		return Member{}, fmt.Errorf("member %d of %s: %w", mid, room, err)
	}
	return m, nil
}

// Members lists members by mid, above after.
func (s *Store) Members(ctx context.Context, room message.Timeline, after int64, limit int) ([]Member, error) {
	if s.archive == nil {
		return nil, ErrNoArchive
	}
	members, err := s.archive.Members(ctx, room, after, min(max(limit, 1), MaxListed))
	if err != nil {
		return nil, fmt.Errorf("members of %s: %w", room, err)
	}
	return members, nil
}

// RoomsOf lists the rooms of a user by name, above after.
func (s *Store) RoomsOf(ctx context.Context, mid int64, after message.Timeline, limit int) ([]Membership, error) {
	if s.archive == nil {
		return nil, ErrNoArchive
	}
	rooms, err := s.archive.Rooms(ctx, mid, after, min(max(limit, 1), MaxListed))
	if err != nil {
		return nil, fmt.Errorf("rooms of %d: %w", mid, err)
	}
	return rooms, nil
}
