package redistore

import (
	"context"
	"fmt"
)

// EvalEach runs a script once for each key, which is its only one, with the
// arguments of that key (parallel to keys), for others who keep something in
// this Redis. Replies are parallel to keys. On a cluster each key is asked
// where it is. Scripts of one call may run in any order, also twice.
func (s *Store) EvalEach(ctx context.Context, source string, keys []string, args [][]any) ([]any, error) {
	sc := newScript(source)
	commands := make([]command, len(keys))
	for i, key := range keys {
		commands[i] = command{script: sc, keys: []string{key}, args: args[i]}
	}
	replies, err := s.run(ctx, commands)
	if err != nil {
		return nil, fmt.Errorf("script for %d keys: %w", len(keys), err)
	}
	return replies, nil
}
