package job_test

import (
	"testing"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

// Symptom: a partition stood still for ever after some hundred pushes to a user
// with a few thousand sessions had come at once. Cause: the sessions of a whole
// batch did not fit into one answer of logic (16 MiB, or presence's deadline),
// and the same batch was asked for again and again.
func TestTargetsWithManySessions(t *testing.T) {
	const pushes = 60
	w := newWorld(t, "a")
	var first uint64
	for i := range 10 {
		if id := w.connect("a", string(rune('a'+i)), 7); i == 0 {
			first = id
		}
	}
	for _, l := range w.logics {
		l.mu.Lock()
		l.mostLocations = 100
		l.mu.Unlock()
	}
	j, p, _ := w.one(testConfig())
	for i := range pushes {
		p.append(text("u:7", i), message.ToUser(7))
	}
	committed(t, p)
	if err := checkSession(w.comets["a"].bodies(first), map[message.Timeline]int{"u:7": pushes}); err != nil {
		t.Error(err)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 10 * pushes})
}
