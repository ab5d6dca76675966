package sqlstore

import (
	"testing"

	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// The model of the whole fold - losses, crashes, zombies, lost answers - with a
// real database behind it.
func TestTheFoldOnSQL(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		var all timelinetest.FoldResult
		for i := range uint64(8) {
			got, err := timelinetest.FoldRun{
				Seed: 100 + i, Window: timelinetest.NewWindow(), Archive: s, Generation: uint32(i + 1), FirstMid: int64(1000 * (i + 1)),
				Faults: i%2 == 1, Steps: 150,
			}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all.Add(got)
		}
		for _, problem := range all.Problems {
			t.Error(problem)
		}
		if all.Records < 250 || all.Losses == 0 || all.Rewinds == 0 || all.Dups == 0 {
			t.Errorf("the runs met too little: %+v", all)
		}
		t.Logf("%d records, %d losses, %d rewinds, %d dups", all.Records, all.Losses, all.Rewinds, all.Dups)
	})
}
