package scenario

import (
	"bytes"
	"flag"
	"slices"
	"testing"
)

// slowAtFirst runs a scenario, three attempts at most, on a machine that is too
// slow for all but each good-th attempt.
func slowAtFirst(t *testing.T, name string, good int, flags ...string) *Report {
	t.Helper()
	i := slices.IndexFunc(scenarios(), func(s scenario) bool { return s.name == name })
	s, opt := scenarios()[i], common()
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	opt.flags(fs)
	if err := fs.Parse(append(append(newGoim(t).flags(), flags...), "-attempts", "3")); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	asked := 0
	b, err := newBench(opt, name, nil, &errs, testChild, func(*SystemUse) bool { asked++; return asked%good > 0 })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.run(t.Context(), b); err != nil {
		t.Fatal(err, errs.String())
	}
	return b.report
}

// An attempt of a slow machine is kept apart, and the next one starts clean:
// the bare loop and the room go on with their numbers, churned clients are back.
func TestAttempts(t *testing.T) {
	t.Parallel()
	t.Run("room", func(t *testing.T) {
		t.Parallel()
		r := slowAtFirst(t, "room", 3, "-limit", "-rate", "50,20")
		wantAttempts(t, r, 4, 8)
		if r.Results["50 messages/s: p99 / bare round p50"] <= 0 {
			t.Errorf("%v", r.Results)
		}
	})
	t.Run("churn", func(t *testing.T) {
		t.Parallel()
		wantAttempts(t, slowAtFirst(t, "churn", 2, "-rate", "50", "-churn", "20", "-churners", "10"), 2, 2)
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		wantAttempts(t, slowAtFirst(t, "idle", 2), 1, 0) // one step is one connect
	})
	t.Run("connect", func(t *testing.T) {
		t.Parallel()
		r := slowAtFirst(t, "connect", 3, "-repeat", "2", "-limit")
		if len(r.Connects) != 4 || len(r.DisturbedConnects) != 8 || r.Results["connections/s"] <= 0 {
			t.Errorf("%d connects, %d disturbed, %v", len(r.Connects), len(r.DisturbedConnects), r.Results)
		}
	})
}

// The last attempt counts, and the report says what it was like.
func TestAttemptsEnd(t *testing.T) {
	t.Parallel()
	r := slowAtFirst(t, "room", 1000, "-rate", "50")
	wantAttempts(t, r, 1, 2)
	if !slices.Contains(r.Notes, "50 messages/s: processors were slow for more than 0.02 of the time in all of its 3 attempts") {
		t.Errorf("%q", r.Notes)
	}
}

func wantAttempts(t *testing.T, r *Report, steps, disturbed int) {
	t.Helper()
	if len(r.Steps) != steps || len(r.Disturbed) != disturbed {
		t.Errorf("%d steps, %d disturbed, want %d and %d", len(r.Steps), len(r.Disturbed), steps, disturbed)
	}
	for _, list := range [][]Step{r.Steps, r.Disturbed} {
		for i := range list {
			st := &list[i]
			c := &st.Classes[0]
			if st.Idle == nil && (c.Lost+c.Duplicates+c.Inversions > 0 || c.Delivered != uint64(c.Conns)*st.Accepted || c.Delivered == 0) {
				t.Errorf("%s: %+v", st.Name, c)
			}
		}
	}
}

func TestSlowMachine(t *testing.T) {
	t.Parallel()
	o := common()
	for _, tc := range []struct {
		speed *SpeedUse
		want  bool
	}{
		{nil, false}, // not known
		{&SpeedUse{SlowShare: o.maxSlow}, false},
		{&SpeedUse{SlowShare: o.maxSlow + 0.001}, true},
	} {
		if got := o.slowMachine(&SystemUse{Speed: tc.speed}); got != tc.want {
			t.Errorf("%+v: %v", tc.speed, got)
		}
	}
}
