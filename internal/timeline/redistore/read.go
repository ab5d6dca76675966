package redistore

import (
	"context"
	"fmt"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Read gives entries; see timeline.Window.
func (s *Store) Read(ctx context.Context, asks []timeline.WindowRead) ([]timeline.WindowPage, error) {
	pages := make([]timeline.WindowPage, len(asks))
	err := s.together(ctx, s.scripts.read, len(asks), func(i int) message.Timeline { return asks[i].Timeline }, nil, func(c *redisconn.Command, i int) {
		c.Keys = append(c.Keys, metaKey(asks[i].Timeline), logKey(asks[i].Timeline))
		c.Args = append(c.Args, number(asks[i].From), asks[i].Entries, asks[i].Bytes)
	}, func(i int, reply any) error {
		parts, err := redis.Values(reply, nil)
		if err != nil || len(parts) != 0 && (len(parts) < 5 || len(parts)%2 == 0) {
			return fmt.Errorf("%w: a page of %d", errReply, len(parts))
		}
		p := &pages[i]
		if p.WindowTop, err = topOf(asks[i].Timeline, parts); err != nil || p.Miss {
			return err
		}
		first, err := redis.Int64(parts[4], nil)
		if err != nil {
			return err
		}
		p.First = uint64(first)
		for part := parts[5:]; len(part) > 0; part = part[2:] {
			seq, err := redis.Int64(part[0], nil)
			if err != nil {
				return err
			}
			value, err := redis.Bytes(part[1], nil)
			if err != nil {
				return err
			}
			e, err := decode(uint64(seq), value)
			if err != nil {
				return fmt.Errorf("%s: %w", asks[i].Timeline, err)
			}
			p.Entries = append(p.Entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %d timelines: %w", len(asks), err)
	}
	return pages, nil
}

// topOf reads epoch, top, arch and floor; nothing is a miss.
func topOf(tl message.Timeline, parts []any) (timeline.WindowTop, error) {
	w := timeline.WindowTop{Top: timeline.Top{Timeline: tl}}
	if len(parts) == 0 {
		w.Miss = true
		return w, nil
	}
	if len(parts) < 4 {
		return w, errReply
	}
	n, err := redis.Int64s(parts[:4], nil)
	if err != nil {
		return w, fmt.Errorf("%w: %w", errReply, err)
	}
	w.Epoch, w.Seq, w.Arch, w.Floor = uint32(n[0]), uint64(n[1]), uint64(n[2]), uint64(n[3])
	return w, nil
}

// Tops are parallel to tls; see timeline.Window.
func (s *Store) Tops(ctx context.Context, tls []message.Timeline) ([]timeline.WindowTop, error) {
	tops := make([]timeline.WindowTop, len(tls))
	err := s.together(ctx, s.scripts.tops, len(tls), func(i int) message.Timeline { return tls[i] }, nil, func(c *redisconn.Command, i int) {
		c.Keys = append(c.Keys, metaKey(tls[i]))
	}, func(i int, reply any) error {
		parts, err := redis.Values(reply, nil)
		if err != nil {
			return err
		}
		tops[i], err = topOf(tls[i], parts)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tops of %d timelines: %w", len(tls), err)
	}
	return tops, nil
}

// Find looks among the recent ids; see timeline.Window.
func (s *Store) Find(ctx context.Context, tl message.Timeline, id message.ID) (at timeline.Position, archived, found bool, err error) {
	n, err := s.one(ctx, redisconn.Command{
		Script: s.scripts.find, Keys: []string{metaKey(tl), ringKey(tl)}, Args: []any{id[:], timeline.Recent(tl)},
	})
	if err != nil {
		return timeline.Position{}, false, false, fmt.Errorf("find in %s: %w", tl, err)
	}
	if len(n) != 3 {
		return timeline.Position{}, false, false, nil
	}
	return timeline.Position{Epoch: uint32(n[0]), Seq: uint64(n[1])}, n[1] <= n[2], true, nil
}

// one runs a script that returns numbers.
func (s *Store) one(ctx context.Context, c redisconn.Command) ([]int64, error) {
	how, err := s.howKnown(ctx)
	if err != nil {
		return nil, err
	}
	c.Args = append([]any{s.marker(), how}, c.Args...)
	replies, err := s.run(ctx, []redisconn.Command{c})
	if err != nil {
		return nil, err
	}
	if n, ok := replies[0].(int64); ok {
		return []int64{n}, nil
	}
	return redis.Int64s(replies[0], nil)
}

// Revoke empties entries; see timeline.Window.
func (s *Store) Revoke(ctx context.Context, tl message.Timeline, epoch uint32, seqs []uint64) error {
	args := []any{epoch}
	for _, seq := range seqs {
		args = append(args, number(seq))
	}
	if _, err := s.one(ctx, redisconn.Command{Script: s.scripts.revoke, Keys: []string{metaKey(tl), logKey(tl)}, Args: args}); err != nil {
		return fmt.Errorf("revoke in %s: %w", tl, err)
	}
	return nil
}

// RaiseFloor raises the floor and trims; see timeline.Window. What is more than
// 1,000 entries is trimmed by the next appends.
func (s *Store) RaiseFloor(ctx context.Context, tl message.Timeline, epoch uint32, floor uint64) error {
	_, err := s.one(ctx, redisconn.Command{
		Script: s.scripts.floor, Keys: []string{metaKey(tl), logKey(tl)}, Args: []any{epoch, number(floor)},
	})
	if err != nil {
		return fmt.Errorf("raise the floor of %s: %w", tl, err)
	}
	return nil
}
