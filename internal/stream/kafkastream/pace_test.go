package kafkastream

import (
	"testing"
	"time"
)

func TestPaceGathersCallersOfAnInterval(t *testing.T) {
	const interval = 4 * time.Millisecond
	start := time.Now()
	at := func(ms float64) time.Time { return start.Add(time.Duration(ms * float64(time.Millisecond))) }
	p := pace{interval: interval}
	for _, step := range []struct{ at, leaves float64 }{
		{0, 0},                   // alone: at once
		{1, 4}, {2, 4}, {3.9, 4}, // together at the end of the interval
		{4.1, 8}, {7, 8}, // the next interval begins at the departure
		{30, 30}, // after a pause: at once
		{30.5, 34},
	} {
		if got := at(step.at).Add(p.next(at(step.at))); !got.Equal(at(step.leaves)) {
			t.Fatalf("who came at %v ms leaves at %v, want %v ms", step.at, got.Sub(start), step.leaves)
		}
	}
	none := pace{}
	if none.next(start) != 0 || none.next(start) != 0 {
		t.Fatal("without an interval somebody waits")
	}
}
