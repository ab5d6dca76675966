package scenario

import (
	"errors"
	"testing"
)

func TestCapacity(t *testing.T) {
	t.Parallel()
	g := newGoim(t)
	r, code := run(t, g, "capacity", "-rate", "20", "-target", "100us")
	if code != 0 || len(notesOfTheRun(r)) == 0 || r.Results["highest messages/s"] != 0 {
		t.Errorf("an impossible target: code %d, %v, %v", code, r.Results, r.Notes)
	}
	// Every hundredth message is lost: no step of 400 ms above 250/s is clean.
	g.drop = func(_ int64, message int) bool { return message%100 == 99 }
	r, code = run(t, g, "capacity", "-rate", "20", "-target", "1m")
	if got, ok := r.Results["highest messages/s"]; code != 0 || !ok || got > 250 {
		t.Errorf("code %d, %v, %v", code, r.Results, r.Notes)
	}
}

func TestSearchForTheHighestRate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ first, limit, want float64 }{
		{20, 250, 250}, {20, 251, 250}, {20, 249, 240}, {20, 10, 10}, {20, 0.5, 0}, {100, 1e9, 1_587_200},
	} {
		got, err := search(tc.first, func(rate float64) (bool, error) { return rate <= tc.limit, nil })
		if err != nil || got != tc.want {
			t.Errorf("from %g with a limit of %g: %g, %v", tc.first, tc.limit, got, err)
		}
	}
	broken := errors.New("broken")
	if _, err := search(1, func(float64) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}
