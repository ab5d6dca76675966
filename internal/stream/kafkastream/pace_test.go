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
	p := newPace(time.Second)
	for range 200 {
		p.observe(4 * time.Millisecond)
	}
	now, busy := p.walk(1, time.Now(), 200, 500*time.Microsecond)
	if busy < 7*time.Millisecond || busy > 8*time.Millisecond {
		t.Errorf("on a busy partition the longest wait is %v, want nearly twice the 4ms of the log", busy)
	}
	departures := map[time.Time]int{}
	for range 160 { // ten intervals
		departures[now.Add(p.next(1, now))]++
		now = now.Add(500 * time.Microsecond)
	}
	if len(departures) < 9 || len(departures) > 12 {
		t.Errorf("160 pushes in ten intervals left at %d times", len(departures))
	}
	if _, wait := p.walk(2, now, 200, 3*time.Millisecond); wait != 0 {
		t.Errorf("where an interval brings less than %d pushes, one waits %v", gather, wait)
	}
	now = now.Add(time.Minute)
	if wait := p.next(1, now); wait != 0 {
		t.Errorf("after a pause a push waits %v", wait)
	}
}

func TestPaceFollowsTheLog(t *testing.T) {
	p := newPace(20 * time.Millisecond)
	now := time.Now()
	for _, c := range []struct{ acked, longest time.Duration }{
		{2 * time.Millisecond, 4 * time.Millisecond}, {8 * time.Millisecond, 16 * time.Millisecond},
		{time.Second, 20 * time.Millisecond}, {time.Millisecond, 2 * time.Millisecond},
	} {
		for range 200 {
			p.observe(c.acked)
		}
		var got time.Duration
		if now, got = p.walk(1, now, 400, 200*time.Microsecond); got > c.longest+c.longest/100 || got < c.longest*8/10 {
			t.Errorf("acknowledged in %v: the longest wait is %v, want about %v", c.acked, got, c.longest)
		}
	}
	none := newPace(0)
	none.observe(time.Second)
	if _, wait := none.walk(1, now, 100, time.Microsecond); wait != 0 {
		t.Error("without a bound somebody waits")
	}
}
