package job_test

import (
	"testing"
	"time"

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

// Symptom: for ten seconds after a comet was killed, pushes to clients of all
// other comets were late by up to that. Cause: what was for the dead one waited
// for the dispatch timeout, and a partition may have only so much in flight.
// Nobody listens at a dead comet's address; that ends the waiting.
func TestDeadCometHoldsUpNobody(t *testing.T) {
	w := newWorld(t, "dead", "a")
	w.connect("dead", "kd", 0)
	id := w.connect("a", "ka", 0)
	w.comets["dead"].stop()
	cfg := testConfig()
	cfg.DispatchTimeout = 5 * patience
	j, p, _ := w.one(cfg)
	const dead, more = 500, 60
	for i := range dead {
		p.append(text("k:kd", i), message.ToKey("kd"))
	}
	p.append(text("k:ka", 0), message.ToKey("ka"))
	checkWithin(t, patience, "everything for the dead", func() error {
		return p.behind()
	})
	began := time.Now()
	for i := range more { // and from then on
		p.append(text("k:kd", dead+i), message.ToKey("kd"))
		p.append(text("k:ka", 1+i), message.ToKey("ka"))
		committed(t, p)
	}
	// Without waiting it is milliseconds; with a second for each it is a minute.
	if took := time.Since(began); took > patience/2 {
		t.Errorf("%d more took %s", 2*more, took)
	}
	if err := checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"k:ka": 1 + more}); err != nil {
		t.Error(err)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 1 + more, job.Unreachable: dead + more})
}
