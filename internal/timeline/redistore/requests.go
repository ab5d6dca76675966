package redistore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/redisconn"
)

// Remember keeps what an Idempotency-Key was first used for; see
// logic.Requests. The key itself is not stored: callers choose it.
func (s *Store) Remember(ctx context.Context, key string, id message.ID, sum [sha256.Size]byte, ttl time.Duration) (first message.ID, same bool, err error) {
	hash := sha256.Sum256([]byte(key))
	name := "req:{" + hex.EncodeToString(hash[:16]) + "}"
	// Whoever sets it, the GET behind it reads what stands.
	replies, err := s.run(ctx, []redisconn.Command{
		{Name: "SET", Keys: []string{name}, Args: []any{name, append(id[:], sum[:]...), "NX", "PX", ttl.Milliseconds()}},
		{Name: "GET", Keys: []string{name}, Args: []any{name}},
	})
	if err != nil {
		return message.ID{}, false, fmt.Errorf("remember a request: %w", err)
	}
	value, err := redis.Bytes(replies[1], nil)
	if err != nil || len(value) != len(id)+len(sum) {
		return message.ID{}, false, fmt.Errorf("remember a request: %w", errReply)
	}
	return message.ID(value[:len(id)]), [sha256.Size]byte(value[len(id):]) == sum, nil
}
