package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Symptom in goim (L1, F-003.13): a client that reconnects with its key is
// unreachable by key and user once the old connection's late disconnect comes,
// because that removes the mapping by name. Here the same keys reconnect
// 10,000 times across two comets, and the old connection always ends after
// the new one is in.
func TestReconnectRace(t *testing.T) {
	const keys = 100
	reconnects := 10_000
	if testing.Short() {
		reconnects = 1_000
	}
	c := newCluster(t)
	c.patient()
	logic := c.start("logic", "logic-1")
	comets := []*daemon{c.start("comet", "comet-1"), c.start("comet", "comet-2")}
	c.start("job", "job-1")
	hc := httpClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	type seat struct {
		mu   sync.Mutex
		live *goim
		got  map[string]bool // on the live connection
	}
	seats := make([]*seat, keys)
	for i := range seats {
		seats[i] = &seat{}
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	var late sync.WaitGroup // old connections that are still to end
	for w := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 9))
			for round := 0; ; round++ {
				for k := w; k < keys; k += 16 {
					if done.Add(1) > int64(reconnects) {
						return
					}
					s := seats[k]
					got := map[string]bool{}
					cl, err := connect(ctx, comets[rnd.IntN(2)].addrs["tcp"],
						fmt.Sprintf(`{"mid":%d,"key":"key-%d","accepts":[1000]}`, 1000+k, k),
						func(_ wire.Op, body []byte) {
							s.mu.Lock()
							defer s.mu.Unlock()
							got[string(body)] = true
						})
					if err != nil {
						t.Errorf("reconnect of key-%d: %v", k, err)
						return
					}
					s.mu.Lock()
					old := s.live
					s.live, s.got = cl, got
					s.mu.Unlock()
					if old != nil {
						lateness := time.Duration(rnd.IntN(20)) * time.Millisecond // is what is tested
						late.Go(func() {
							<-time.After(lateness)
							old.close()
						})
					}
				}
			}
		})
	}
	wg.Wait()
	late.Wait()
	defer func() {
		for _, s := range seats {
			if s.live != nil {
				s.live.close()
			}
		}
	}()

	// Every late disconnect has been handled when the comets have only the
	// live sessions left.
	waitFor(t, time.Minute, func() error {
		sum := 0.0
		for _, d := range comets {
			n, err := d.metric(ctx, hc, "perseid_sessions")
			if err != nil {
				return err
			}
			sum += n
		}
		if sum != keys {
			return fmt.Errorf("%g sessions, want %d", sum, keys)
		}
		return nil
	})
	expect := func(s *seat, body string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.got[body] {
			return fmt.Errorf("%q has not come", body)
		}
		return nil
	}
	for k, s := range seats {
		for _, q := range []string{fmt.Sprintf("keys?operation=1000&keys=key-%d", k), fmt.Sprintf("mids?operation=1000&mids=%d", 1000+k)} {
			if status, answer, err := post(ctx, hc, "http://"+logic.addrs["http"]+"/goim/push/"+q, "text/plain", q); err != nil || status != 200 {
				t.Fatalf("%s: %d %s %v", q, status, answer, err)
			}
			waitFor(t, patience, func() error { return expect(s, q) })
		}
	}
	t.Logf("%d reconnects: all %d live sessions are reachable by key and by user", reconnects, keys)
}
