package kafkastream

import (
	"testing"
	"time"
)

func TestPaceGathersCallersOfAnInterval(t *testing.T) {
	start := time.Now()
	at := func(ms float64) time.Time { return start.Add(time.Duration(ms * float64(time.Millisecond))) }
	p := newPace(time.Second)
	p.acked = 2 * time.Millisecond
	for _, step := range []struct{ at, leaves float64 }{
		{0, 0},                   // alone: at once
		{1, 4}, {2, 4}, {3.9, 4}, // together at the end of the interval
		{4.1, 8}, {7, 8}, // the next interval begins at the departure
		{30, 30}, // after a pause: at once
		{30.5, 34},
	} {
		if got := at(step.at).Add(p.next(1, at(step.at))); !got.Equal(at(step.leaves)) {
			t.Fatalf("who came at %v ms leaves at %v, want %v ms", step.at, got.Sub(start), step.leaves)
		}
	}
	if wait := p.next(2, at(31)); wait != 0 {
		t.Fatalf("a push to a quiet partition waits %v", wait)
	}
}

func TestPaceFollowsTheLog(t *testing.T) {
	p := newPace(20 * time.Millisecond)
	now := time.Now()
	for _, c := range []struct{ acked, interval time.Duration }{
		{2 * time.Millisecond, 4 * time.Millisecond}, {8 * time.Millisecond, 16 * time.Millisecond},
		{time.Second, 20 * time.Millisecond}, {time.Millisecond, 2 * time.Millisecond},
	} {
		for range 200 {
			p.observe(c.acked)
		}
		now = now.Add(time.Minute)
		p.next(1, now)
		if wait := p.next(1, now); (wait - c.interval).Abs() > c.interval/100 {
			t.Errorf("acknowledged in %v: the next goes after %v, want %v", c.acked, wait, c.interval)
		}
	}
	none := newPace(0)
	none.observe(time.Second)
	if none.next(1, now) != 0 || none.next(1, now) != 0 {
		t.Error("without a bound somebody waits")
	}
}
