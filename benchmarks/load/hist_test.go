package load

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Quantiles against the exact ones of the sorted values, over all magnitudes.
func TestHistAgainstExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, spread := range []int64{100, 1e4, 1e7, 1e10, 1e12} {
		var h, a, b Hist
		var values []int64
		sum := int64(0)
		for i := range 20_000 {
			v := r.Int64N(r.Int64N(spread) + 1)
			values = append(values, v)
			sum += v
			h.Record(v)
			if i%2 == 0 {
				a.Record(v)
			} else {
				b.Record(v)
			}
		}
		a.Merge(&b)
		slices.Sort(values)
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			rank := max(1, int(q*float64(len(values))))
			exact := values[rank-1]
			got := h.Quantile(q)
			if got < exact || float64(got) > float64(exact)*1.008+1 {
				t.Errorf("spread %d: quantile %g is %d, exact %d", spread, q, got, exact)
			}
			if above, _ := slices.BinarySearch(values, got+1); h.Above(got) != uint64(len(values)-above) {
				t.Errorf("spread %d: %d above %d, exact %d", spread, h.Above(got), got, len(values)-above)
			}
			if merged := a.Quantile(q); merged != got {
				t.Errorf("spread %d: quantile %g is %d merged, %d at once", spread, q, merged, got)
			}
		}
		if h.MaxNS != values[len(values)-1] || h.SumNS != sum || h.Count != uint64(len(values)) {
			t.Errorf("%d %d %d", h.MaxNS, h.SumNS, h.Count)
		}
	}
	var empty Hist
	if empty.Quantile(0.5) != 0 || empty.MeanNS() != 0 {
		t.Error("an empty histogram is not 0")
	}
}

// A tracker that forgets nothing decides as judge does, as long as judge
// forgets nothing either.
func TestJudgeAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var g *gaps
		next, missing := uint32(0), int32(0)
		seen := map[uint32]bool{}
		for range 300 {
			seq := uint32(max(0, int(next)+r.IntN(9)-6))
			want := duplicated
			highest := seq >= next
			switch {
			case highest && seq == next:
				next++
				seen[seq] = true
				continue
			case highest:
				want = skipped
			case !seen[seq]:
				want = inverted
			}
			seen[seq] = true
			v, m := judge(&g, &next, 1, seq)
			missing += m
			if g != nil && g.forgotten {
				break // from here on it does not know
			}
			if v != want {
				t.Fatalf("seq %d, next %d: %d, want %d", seq, next, v, want)
			}
		}
		if g == nil || g.forgotten {
			continue
		}
		if int(missing) != int(next)-len(seen) {
			t.Fatalf("%d missing, want %d", missing, int(next)-len(seen))
		}
	}
}

func TestJudgeForgetsTheOldest(t *testing.T) {
	var g *gaps
	next, missing := uint32(0), int32(0)
	for i := range uint32(maxGaps + 10) {
		_, m := judge(&g, &next, 0, 2*i+1)
		missing += m
	}
	if v, _ := judge(&g, &next, 0, 0); v != ambiguous {
		t.Errorf("forgotten: %d", v)
	}
	if v, m := judge(&g, &next, 0, 2*maxGaps); v != inverted || m != -1 {
		t.Errorf("remembered: %d, %d", v, m)
	}
	if missing != maxGaps+10 {
		t.Errorf("%d missing", missing)
	}
}
