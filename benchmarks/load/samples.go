package load

import (
	"cmp"
	"slices"
	"time"
)

// Span is from one time by Clock to another.
type Span struct{ From, To int64 }

// Widened are spans that begin earlier, joined where they overlap or touch.
func Widened(spans []Span, by time.Duration) []Span {
	wide := slices.Clone(spans)
	for i := range wide {
		wide[i].From -= int64(by)
	}
	return union(wide)
}

// union sorts spans and joins those that overlap or touch.
func union(spans []Span) []Span {
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	joined := spans[:0]
	for _, s := range spans {
		if n := len(joined); n > 0 && s.From <= joined[n-1].To {
			joined[n-1].To = max(joined[n-1].To, s.To)
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}

// samples keeps latencies with the times when the messages were due, so that
// those can be left out that were due in a span which is known only later.
// Where there are more than maxSamples it thins them out evenly.
type samples struct {
	list  []sample
	every int // so many are one in the list; 0 is 1
	since int // the last that was kept
}

type sample struct{ due, took int64 }

// maxSamples of a class in a loop take 8 MB.
const maxSamples = 1 << 19

func (s *samples) add(due, took int64) {
	if s.since++; s.since < s.every {
		return
	}
	s.since = 0
	if len(s.list) == maxSamples {
		for i := range maxSamples / 2 {
			s.list[i] = s.list[2*i]
		}
		s.list, s.every = s.list[:maxSamples/2], max(1, s.every)*2
	}
	s.list = append(s.list, sample{due, took})
}

func (s *samples) reset() { *s = samples{list: s.list[:0]} }

// Remainder is the latency of the messages that were not left out.
type Remainder struct {
	Latency Hist
	Of      uint64 // samples, with those that were left out
}

func (r *Remainder) merge(o *Remainder) {
	r.Latency.Merge(&o.Latency)
	r.Of += o.Of
}

// Share is how much remained.
func (r *Remainder) Share() float64 { return float64(r.Latency.Count) / float64(max(1, r.Of)) }

// outside adds to r those that were due in none of the spans, which are as
// union leaves them.
func (s *samples) outside(spans []Span, r *Remainder) {
	r.Of += uint64(len(s.list))
	for _, one := range s.list {
		next, _ := slices.BinarySearchFunc(spans, one.due, func(s Span, due int64) int { return cmp.Compare(s.To, due) })
		if next == len(spans) || spans[next].From > one.due {
			r.Latency.Record(one.took)
		}
	}
}
