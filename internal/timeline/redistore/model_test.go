package redistore

import (
	"testing"

	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// 100,000 calls of the store over the real scripts, each compared with naive
// lists.
func TestStoreOnRedisIsLikeNaiveLists(t *testing.T) {
	w := realRedis(t)
	for seed := range uint64(5) {
		w.do("FLUSHALL")
		calls, err := timelinetest.ModelRun{
			Seed: seed, Window: w, Archive: timelinetest.NewArchive(), Steps: 20_000, FirstMid: int64(seed) * 10, Losses: seed >= 3,
		}.Run(t.Context())
		if err != nil {
			t.Errorf("%v", err)
		}
		t.Log(calls)
	}
}
