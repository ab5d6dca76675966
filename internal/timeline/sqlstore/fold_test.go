package sqlstore

import (
	"os"
	"strconv"
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

// The whole store over the real archive, each call compared with naive lists.
// PERSEID_TEST_MODEL_STEPS=25000 makes it 100,000 calls on each dialect.
func TestTheStoreOnSQLIsLikeNaiveLists(t *testing.T) {
	t.Parallel()
	steps := 1000
	if long := os.Getenv("PERSEID_TEST_MODEL_STEPS"); long != "" {
		var err error
		if steps, err = strconv.Atoi(long); err != nil {
			t.Fatal(err)
		}
	}
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		for seed := range uint64(4) {
			calls, err := timelinetest.ModelRun{
				Seed: 200 + seed, Window: timelinetest.NewWindow(), Archive: s, Steps: steps, FirstMid: int64(100_000 * (seed + 1)), Losses: seed%2 == 1,
			}.Run(t.Context())
			if err != nil {
				t.Error(err)
			}
			t.Log(calls)
		}
	}, func(c *Config) { c.Sync = false }) // nothing is killed here
}
