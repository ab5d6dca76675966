package redistore

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Advance raises cursors; see timeline.Window.
func (s *Store) Advance(ctx context.Context, mid int64, to, seeds []timeline.UserCursor) ([]timeline.KnownCursor, error) {
	c := redisconn.Command{Script: s.scripts.advance, Keys: []string{cursorKey(mid)}, Args: []any{s.cfg.CursorTTL.Milliseconds(), len(seeds)}}
	for _, list := range [][]timeline.UserCursor{seeds, to} {
		for _, u := range list {
			c.Args = append(c.Args, string(u.Timeline), strconv.FormatUint(uint64(u.Epoch), 10),
				number(u.Acked), number(u.Read))
		}
	}
	replies, err := s.run(ctx, []redisconn.Command{c})
	if err != nil {
		return nil, fmt.Errorf("advance %d cursors of %d: %w", len(to), mid, err)
	}
	parts, err := redis.Values(replies[0], nil)
	if err != nil || len(parts) != len(to) {
		return nil, fmt.Errorf("advance cursors of %d: %w", mid, errReply)
	}
	known := make([]timeline.KnownCursor, len(to))
	for i, part := range parts {
		known[i].Timeline = to[i].Timeline
		n, err := redis.Int64s(part, nil)
		if err != nil || len(n) != 0 && len(n) != 4 {
			return nil, fmt.Errorf("advance cursors of %d: %w", mid, errReply)
		}
		if len(n) == 4 {
			known[i].Epoch, known[i].Acked, known[i].Read = uint32(n[0]), uint64(n[1]), uint64(n[2])
			known[i].Known, known[i].Moved = true, n[3] == 1
		}
	}
	return known, nil
}

// Cursors are parallel to tls; see timeline.Window.
func (s *Store) Cursors(ctx context.Context, mid int64, tls []message.Timeline) ([]timeline.KnownCursor, error) {
	if len(tls) == 0 {
		return nil, ctx.Err()
	}
	args := []any{cursorKey(mid)}
	for _, tl := range tls {
		args = append(args, string(tl))
	}
	replies, err := s.run(ctx, []redisconn.Command{{Name: "HMGET", Keys: []string{cursorKey(mid)}, Args: args}})
	if err != nil {
		return nil, fmt.Errorf("cursors of %d: %w", mid, err)
	}
	values, err := redis.Values(replies[0], nil)
	if err != nil || len(values) != len(tls) {
		return nil, fmt.Errorf("cursors of %d: %w", mid, errReply)
	}
	known := make([]timeline.KnownCursor, len(tls))
	for i, value := range values {
		known[i].Timeline = tls[i]
		if text, ok := value.([]byte); ok {
			known[i].UserCursor, known[i].Known = parseCursor(tls[i], string(text))
		}
	}
	return known, nil
}

// parseCursor reads "<epoch> <acked> <read>"; what cannot be read is not known.
func parseCursor(tl message.Timeline, text string) (timeline.UserCursor, bool) {
	c := timeline.UserCursor{Timeline: tl}
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return c, false
	}
	epoch, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil {
		return c, false
	}
	acked, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return c, false
	}
	read, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return c, false
	}
	c.Epoch, c.Acked, c.Read = uint32(epoch), acked, read
	return c, true
}
