package kafkastream

import (
	"testing"
	"time"
)

// walk lets n pushes come to a partition, gap apart, and returns when it ended
// and the longest wait of the second half.
func (p *pace) walk(partition int32, from time.Time, n int, gap time.Duration) (end time.Time, longest time.Duration) {
	for i := range n {
		wait := p.next(partition, from)
		if i > n/2 {
			longest = max(longest, wait)
		}
		from = from.Add(gap)
	}
	return from, longest
}

func TestPaceGathersWhereMuchComes(t *testing.T) {
	p := newPace(8 * time.Millisecond)
	now, busy := p.walk(1, time.Now(), 200, 500*time.Microsecond)
	if busy < 7*time.Millisecond || busy > 8*time.Millisecond {
		t.Errorf("on a busy partition the longest wait is %v, want nearly the interval of 8ms", busy)
	}
	departures := map[time.Time]int{}
	for range 160 { // ten intervals
		departures[now.Add(p.next(1, now))]++
		now = now.Add(500 * time.Microsecond)
	}
	if len(departures) < 9 || len(departures) > 12 {
		t.Errorf("160 pushes in ten intervals left at %d times", len(departures))
	}
	if _, wait := p.walk(2, now, 200, 2*time.Millisecond); wait != 0 {
		t.Errorf("where an interval brings less than %d pushes, one waits %v", gather, wait)
	}
	now = now.Add(time.Minute)
	if wait := p.next(1, now); wait != 0 {
		t.Errorf("after a pause a push waits %v", wait)
	}
	if _, wait := newPace(0).walk(1, now, 100, time.Microsecond); wait != 0 {
		t.Error("without an interval somebody waits")
	}
}
