package redistore

import (
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
)

func TestRequests(t *testing.T) {
	mini := miniredis.RunT(t)
	for name, addr := range map[string]string{"miniredis": mini.Addr(), "redis": testdeps.Redis(t).Addr} {
		t.Run(name, func(t *testing.T) { testRequests(t, open(t, addr)) })
	}
	s := open(t, mini.Addr())
	sum := sha256.Sum256([]byte("later"))
	mini.FastForward(2 * time.Minute)
	if id, same, err := s.Remember(t.Context(), "key", message.ID{9}, sum, time.Minute); err != nil || !same || id != (message.ID{9}) {
		t.Errorf("after its time: %v %v %v", id, same, err)
	}
}

// One of many at the same time is the first; all others learn which.
func testRequests(t *testing.T, s *Store) {
	sums := [][sha256.Size]byte{sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b"))}
	type answer struct {
		id   message.ID
		same bool
	}
	answers := make([]answer, 20)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			id, same, err := s.Remember(t.Context(), "key", message.ID{byte(i % 2), 1}, sums[i%2], time.Minute)
			if err != nil {
				t.Error(err)
			}
			answers[i] = answer{id, same}
		})
	}
	all.Wait()
	first := answers[0].id
	for i, a := range answers {
		if a.id != first || a.same != (byte(i%2) == first[0]) {
			t.Errorf("%d: %v, the first is %v", i, a, first)
		}
	}
	if id, same, err := s.Remember(t.Context(), "other", message.ID{7}, sums[0], time.Minute); err != nil || !same || id != (message.ID{7}) {
		t.Errorf("another key: %v %v %v", id, same, err)
	}
}
