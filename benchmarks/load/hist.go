package load

import "math/bits"

// Hist is a histogram of durations in nanoseconds with 128 linear steps per
// power of two: a quantile is at most 0.8 % above the exact one. The zero
// value is empty and ready. It belongs to one goroutine.
type Hist struct {
	Counts []uint64 // sized by the largest value seen
	Count  uint64
	SumNS  int64
	MaxNS  int64
}

const histBits = 7

// slot of a value: below 256 each has its own.
func slot(ns int64) int {
	v := uint64(ns)
	shift := max(0, bits.Len64(v)-histBits-1)
	return shift<<histBits + int(v>>shift)
}

// slotMax is the largest value of a slot.
func slotMax(i int) int64 {
	shift := max(0, i>>histBits-1)
	return int64(uint64(i-shift<<histBits+1)<<shift - 1)
}

// Record adds one value; a negative one counts as 0.
func (h *Hist) Record(ns int64) { h.RecordN(ns, 1) }

// RecordN adds a value n times.
func (h *Hist) RecordN(ns int64, n uint64) {
	ns = max(0, ns)
	i := slot(ns)
	if i >= len(h.Counts) {
		h.Counts = append(h.Counts, make([]uint64, i+1-len(h.Counts)+256)...)
	}
	h.Counts[i] += n
	h.Count += n
	h.SumNS += ns * int64(n)
	h.MaxNS = max(h.MaxNS, ns)
}

// Merge adds all of o.
func (h *Hist) Merge(o *Hist) {
	if len(o.Counts) > len(h.Counts) {
		h.Counts = append(h.Counts, make([]uint64, len(o.Counts)-len(h.Counts))...)
	}
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
	h.Count += o.Count
	h.SumNS += o.SumNS
	h.MaxNS = max(h.MaxNS, o.MaxNS)
}

// Quantile is the value that the fraction q of all values does not exceed, 0
// of an empty histogram.
func (h *Hist) Quantile(q float64) int64 {
	if h.Count == 0 {
		return 0
	}
	rank := uint64(q * float64(h.Count))
	if float64(rank) < q*float64(h.Count) {
		rank++
	}
	rank = max(rank, 1)
	seen := uint64(0)
	for i, n := range h.Counts {
		if seen += n; seen >= rank {
			return min(slotMax(i), h.MaxNS)
		}
	}
	return h.MaxNS
}

// MeanNS is the exact mean.
func (h *Hist) MeanNS() float64 {
	if h.Count == 0 {
		return 0
	}
	return float64(h.SumNS) / float64(h.Count)
}

// Above is how many values are in higher slots than ns.
func (h *Hist) Above(ns int64) (n uint64) {
	for _, c := range h.Counts[min(slot(ns)+1, len(h.Counts)):] {
		n += c
	}
	return n
}

// Clone is a copy that shares nothing.
func (h *Hist) Clone() Hist {
	c := *h
	c.Counts = append([]uint64(nil), h.Counts...)
	return c
}

// Reset empties it and keeps its memory.
func (h *Hist) Reset() {
	clear(h.Counts)
	h.Count, h.SumNS, h.MaxNS = 0, 0, 0
}
