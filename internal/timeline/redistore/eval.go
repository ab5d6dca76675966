package redistore

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/internal/redisconn"
)

// EvalEach runs a script once for each key, which is its only one, with the
// arguments of that key (parallel to keys), for others who keep something in
// this Redis. Replies are parallel to keys. On a cluster each key is asked
// where it is. Scripts of one call may run in any order, also twice.
func (s *Store) EvalEach(ctx context.Context, source string, keys []string, args [][]any) ([]any, error) {
	sc := redisconn.NewScript(source)
	commands := make([]redisconn.Command, len(keys))
	for i, key := range keys {
		commands[i] = redisconn.Command{Script: sc, Keys: []string{key}, Args: args[i]}
	}
	replies, err := s.run(ctx, commands)
	if err != nil {
		return nil, fmt.Errorf("script for %d Keys: %w", len(keys), err)
	}
	return replies, nil
}
