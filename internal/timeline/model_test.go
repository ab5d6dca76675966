package timeline_test

import (
	"testing"

	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

func TestStoreIsLikeNaiveLists(t *testing.T) {
	for seed := range uint64(8) {
		calls, err := timelinetest.ModelRun{
			Seed: seed, Window: timelinetest.NewWindow(), Archive: timelinetest.NewArchive(), Steps: 3000, Losses: seed%2 == 1,
		}.Run(t.Context())
		if err != nil {
			t.Errorf("%v", err)
		}
		t.Log(calls)
	}
}
