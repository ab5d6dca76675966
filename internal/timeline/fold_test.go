package timeline_test

import (
	"testing"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// foldRuns runs the model on memory ports and returns how many runs went wrong.
func foldRuns(t *testing.T, runs int, without timelinetest.Without, faults bool) (wrong int, sum timelinetest.FoldResult) {
	t.Helper()
	for seed := range runs {
		window, archive := timelinetest.NewWindow(), timelinetest.NewArchive()
		window.SwitchOff(without)
		archive.SwitchOff(without)
		got, err := timelinetest.FoldRun{Seed: uint64(seed), Window: window, Archive: archive, Generation: 1, Faults: faults}.Run(t.Context())
		if err != nil {
			t.Fatalf("run %d: %v", seed, err)
		}
		if got.Problems != nil {
			if wrong++; without == (timelinetest.Without{}) {
				t.Errorf("run %d: %q", seed, got.Problems)
			} else if wrong == 1 {
				t.Logf("run %d: %q", seed, got.Problems)
			}
		}
		sum.Add(got)
	}
	t.Logf("%d runs, %d wrong: %d records, %d losses, %d shown; full %d, rewinds %d, dups %d, behind %d",
		runs, wrong, sum.Records, sum.Losses, sum.Pushed, sum.Full, sum.Rewinds, sum.Dups, sum.Behind)
	return wrong, sum
}

func TestFoldHoldsInRandomRuns(t *testing.T) {
	for _, faults := range []bool{false, true} {
		_, sum := foldRuns(t, 500, timelinetest.Without{}, faults)
		if sum.Full == 0 || sum.Rewinds == 0 || sum.Dups == 0 || sum.Behind == 0 {
			t.Errorf("the runs do not touch everything: %+v", sum)
		}
	}
}

// Each rule is there because runs go wrong without it: a model that passes
// without a rule would not test that rule.
func TestFoldControlsFail(t *testing.T) {
	for _, control := range []struct {
		name    string
		runs    int
		without timelinetest.Without
	}{
		{"guard", 5, timelinetest.Without{Guard: true}},
		{"incarnation", 20, timelinetest.Without{Incarnation: true}},
		{"rewind", 20, timelinetest.Without{Rewind: true}},
		{"fence", 200, timelinetest.Without{Fence: true}},
	} {
		t.Run(control.name, func(t *testing.T) {
			if wrong, _ := foldRuns(t, control.runs, control.without, false); wrong == 0 {
				t.Errorf("without the %s every run is right: the model does not test it", control.name)
			}
		})
	}
}
