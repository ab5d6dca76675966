package scenario

import (
	"testing"
	"time"
)

// Symptom: where the machine stood still for longer than -settle, messages that
// had arrived counted as lost. Cause: that time counted as one in which nothing
// arrived, although nobody could look.
func TestAStandstillIsNoSilence(t *testing.T) {
	t.Parallel()
	const settle, standstill = 300 * time.Millisecond, 5 * time.Second
	var q silence
	at := int64(0)
	look := func(got uint64, after time.Duration) time.Duration {
		at += int64(after)
		return q.look(got, at)
	}
	if look(10, lookEvery) != 0 || look(10, standstill) > settle || look(20, lookEvery) != 0 {
		t.Errorf("a standstill counts: %+v", q)
	}
	for range settle / lookEvery {
		if look(20, lookEvery) > settle {
			t.Errorf("too early: %+v", q)
		}
	}
	if look(20, lookEvery) <= settle {
		t.Errorf("the silence is not noticed: %+v", q)
	}
}
