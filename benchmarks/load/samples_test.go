package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Against a comparison of each sample with each span.
func TestSamplesOutsideSpans(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var spans []Span
		for range r.IntN(8) {
			from := r.Int64N(1000)
			spans = append(spans, Span{from, from + r.Int64N(60)})
		}
		var s samples
		var want []int64
		by := r.Int64N(30)
		for range 300 {
			due, took := r.Int64N(1000), r.Int64N(40)
			s.add(due, took)
			if !slices.ContainsFunc(spans, func(sp Span) bool { return sp.From-by <= due && due <= sp.To }) {
				want = append(want, took)
			}
		}
		var remains Remainder
		s.outside(Widened(spans, time.Duration(by)), &remains)
		h := &remains.Latency
		slices.Sort(want)
		if share := float64(len(want)) / 300; remains.Share() != share {
			t.Fatalf("%g remained, want %g", remains.Share(), share)
		}
		if h.Count != uint64(len(want)) || len(want) > 0 && h.MaxNS != want[len(want)-1] {
			t.Fatalf("%v: %d samples up to %d, want %d: %v", spans, h.Count, h.MaxNS, len(want), want)
		}
	}
}

func TestSamplesAreThinnedOutEvenly(t *testing.T) {
	var s samples
	const n = 5 * maxSamples
	for i := range int64(n) {
		s.add(i, i)
	}
	var remains Remainder
	s.outside(nil, &remains)
	h := &remains.Latency
	if remains.Share() != 1 {
		t.Errorf("%g remained", remains.Share())
	}
	if h.Count > maxSamples || h.Count < maxSamples/2 {
		t.Errorf("%d of at most %d samples", h.Count, maxSamples)
	}
	for _, q := range []float64{0.01, 0.25, 0.5, 0.75, 0.99} {
		if got := float64(h.Quantile(q)); got < 0.98*q*n || got > 1.02*q*n+10 {
			t.Errorf("quantile %g is %g of %d", q, got, n)
		}
	}
	s.reset()
	s.add(1, 1)
	if len(s.list) != 1 {
		t.Errorf("%d samples after a reset and one more", len(s.list))
	}
}
