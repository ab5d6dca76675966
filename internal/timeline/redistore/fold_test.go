package redistore

import (
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// foldRuns runs the model of the fold on a real Redis, whose data is lost,
// rolled back, and whose identity changes as in a failover.
func foldRuns(t *testing.T, first, runs int, without timelinetest.Without, change func(*Store)) (wrong int) {
	t.Helper()
	w := realRedis(t)
	change(w.Store)
	var sum timelinetest.FoldResult
	for seed := first; seed < first+runs; seed++ {
		w.do("FLUSHALL")
		archive := timelinetest.NewArchive()
		archive.SwitchOff(without)
		got, err := timelinetest.FoldRun{Seed: uint64(seed), Window: w, Archive: archive, Generation: 1, Faults: seed%2 == 1, Steps: 200}.Run(t.Context())
		if err != nil {
			t.Fatalf("run %d: %v", seed, err)
		}
		if got.Problems != nil {
			wrong++
			t.Logf("run %d: %.300q", seed, got.Problems[0])
		}
		sum.Add(got)
	}
	t.Logf("%d runs, %d wrong: %d records, %d losses, %d shown; full %d, rewinds %d, dups %d, behind %d",
		runs, wrong, sum.Records, sum.Losses, sum.Pushed, sum.Full, sum.Rewinds, sum.Dups, sum.Behind)
	return wrong
}

func TestFoldHoldsOnRedis(t *testing.T) {
	if wrong := foldRuns(t, 0, 40, timelinetest.Without{}, func(*Store) {}); wrong > 0 {
		t.Errorf("%d runs are wrong", wrong)
	}
}

// The same rules as in memory, taken out of the scripts themselves.
func TestFoldControlsFailOnRedis(t *testing.T) {
	without := func(old, new string) func(*Store) {
		return func(s *Store) {
			source := s.scripts.append.Source
			if strings.Count(source, old) != 1 {
				t.Fatalf("%q is not once in the script", old)
			}
			s.scripts.append = redisconn.NewScript(strings.Replace(source, old, new, 1))
		}
	}
	noRewind := without("if inc ~= ARGV[3] then return 'REWIND' end", "")
	for _, control := range []struct {
		name   string
		runs   int
		fence  bool
		change func(*Store)
	}{
		{"guard", 2, false, without("if s.top > 0 and (gen < s.gen or (gen == s.gen and off <= s.off)) then --guard", "if false then")},
		{"incarnation", 6, false, func(s *Store) {
			noRewind(s)
			without("if s and s.inc ~= inc then s = nil end", "")(s)
		}},
		{"rewind", 6, false, noRewind},
		{"fence", 60, true, func(*Store) {}},
	} {
		t.Run(control.name, func(t *testing.T) {
			if foldRuns(t, 0, control.runs, timelinetest.Without{Fence: control.fence}, control.change) == 0 {
				t.Errorf("without the %s every run is right: the model does not test it", control.name)
			}
		})
	}
}
