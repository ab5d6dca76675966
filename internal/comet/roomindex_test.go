package comet

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// Symptom: a comet with hundreds of thousands of rooms answered no joins
// for a while in each online_interval. Cause: all rooms were counted, and told what
// the cluster has, under the lock that a loop needs for a join or leave.
func TestJoinsDoNotWaitForCounts(t *testing.T) {
	const rooms = 50_000
	x := newRoomIndex(time.Second, func() {})
	var known []*roomCount // some of them
	told := map[string]int32{}
	for i := range rooms {
		key := fmt.Sprintf("live://%d", i)
		if rc := x.enter(key); i%500 == 0 {
			known = append(known, rc)
		}
		told[key] = 1
	}
	// between runs work, and look again and again in between, as far as the lock
	// is free.
	between := func(work, look func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			work()
		}()
		for ; ; runtime.Gosched() {
			x.mu.Lock()
			look()
			x.mu.Unlock()
			select {
			case <-done:
				return
			default:
			}
		}
	}

	// Who looks may be held up until the work is done, so it is done again; under
	// the lock as a whole nobody ever comes in between.
	begun, round := false, int32(0)
	waitFor(t, "the lock before all rooms were told what the cluster has", func() bool {
		round++
		for key := range told {
			told[key] = round
		}
		between(func() { x.setCluster(told) }, func() {
			some := 0
			for _, rc := range known {
				if rc.cluster.Load() == round {
					some++
				}
			}
			begun = begun || some > 0 && some < len(known)
		})
		return begun
	})

	moved := int32(0)
	waitFor(t, "the lock before all rooms were counted", func() bool {
		var counts map[string]int32
		between(func() { counts = x.counts() }, func() {
			moved++
			for _, rc := range known {
				rc.local.Store(moved)
			}
		})
		seen := map[int32]bool{}
		for i := 0; i < rooms; i += 500 {
			seen[counts[fmt.Sprintf("live://%d", i)]] = true
		}
		if len(counts) != rooms {
			t.Fatalf("%d of %d rooms counted", len(counts), rooms)
		}
		return len(seen) > 1
	})
}
