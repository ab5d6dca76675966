package stream

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// naive is the definition: offsets in a list, the mark found by walking.
type naive struct {
	offsets []int64
	bytes   map[int64]int
	done    map[int64]bool
	mark    int64
}

func (n *naive) add(offset int64, bytes int) {
	n.offsets = append(n.offsets, offset)
	n.bytes[offset] = bytes
}

func (n *naive) complete(offset int64) (int64, bool) {
	if _, known := n.bytes[offset]; !known {
		return 0, false
	}
	n.done[offset] = true
	mark := n.mark
	for _, o := range n.offsets {
		if !n.done[o] {
			break
		}
		mark = o + 1
	}
	if mark == n.mark {
		return 0, false
	}
	n.mark = mark
	return mark, true
}

func (n *naive) inFlight() (records, bytes int) {
	for _, o := range n.offsets {
		if o >= n.mark {
			records++
			bytes += n.bytes[o]
		}
	}
	return records, bytes
}

func TestTrackerAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 7))
		model := &naive{bytes: map[int64]int{}, done: map[int64]bool{}, mark: -1}
		var tr Tracker
		next := r.Int64N(1000)
		gaps := r.IntN(3) // none, few, many
		var open []int64
		for range 600 {
			switch {
			case r.IntN(10) < 5 || len(open) == 0:
				size := r.IntN(100)
				if err := tr.Add(next, size); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				model.add(next, size)
				open = append(open, next)
				next++
				if gaps > 0 && r.IntN(6/gaps) == 0 {
					next += r.Int64N(50)
				}
			default:
				i := r.IntN(min(len(open), 1+r.IntN(40)))
				offset := open[i]
				switch r.IntN(12) {
				case 0:
					offset = next + r.Int64N(5) // not added yet
				case 1:
					offset = open[0] - 1 - r.Int64N(60) // before, maybe in a gap, maybe complete
				default:
					open = append(open[:i], open[i+1:]...)
				}
				mark, moved := tr.Complete(offset)
				wantMark, wantMoved := model.complete(offset)
				if mark != wantMark || moved != wantMoved {
					t.Fatalf("seed %d: Complete(%d) = %d, %v; want %d, %v", seed, offset, mark, moved, wantMark, wantMoved)
				}
			}
			records, bytes := tr.InFlight()
			if wantRecords, wantBytes := model.inFlight(); records != wantRecords || bytes != wantBytes {
				t.Fatalf("seed %d: in flight %d, %d bytes; want %d, %d", seed, records, bytes, wantRecords, wantBytes)
			}
		}
	}
}

func TestTrackerRefusesOffsetsThatDoNotGrow(t *testing.T) {
	var tr Tracker
	if err := tr.Add(5, 10); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{5, 4, 0, -1} {
		if err := tr.Add(offset, 10); err == nil {
			t.Errorf("offset %d was added after 5", offset)
		}
	}
	if records, bytes := tr.InFlight(); records != 1 || bytes != 10 {
		t.Errorf("a refused offset counts: %d records, %d bytes", records, bytes)
	}
	if mark, moved := tr.Complete(5); mark != 6 || !moved {
		t.Errorf("Complete(5) = %d, %v", mark, moved)
	}
	if err := tr.Add(5, 10); err == nil {
		t.Error("offset 5 was added again after it was complete")
	}
	if mark, moved := tr.Complete(5); moved {
		t.Errorf("second Complete(5) moved the mark to %d", mark)
	}
}

func TestTrackerMemoryFollowsInFlight(t *testing.T) {
	var tr Tracker
	const backlog = 1 << 16
	for i := range int64(backlog) {
		if err := tr.Add(i, 1); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(backlog) {
		tr.Complete(i)
	}
	if len(tr.ring) > minRing {
		t.Errorf("%d entries are kept for nothing in flight", len(tr.ring))
	}
}

func TestTrackerConcurrentCompletions(t *testing.T) {
	const total, workers = 20_000, 8
	var tr Tracker
	var marks sync.Map
	offsets := make(chan int64, 256)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for o := range offsets {
				if mark, moved := tr.Complete(o); moved {
					if _, twice := marks.LoadOrStore(mark, true); twice {
						t.Errorf("mark %d was given twice", mark)
					}
				}
			}
		})
	}
	for i := range int64(total) {
		if err := tr.Add(i, 3); err != nil {
			t.Fatal(err)
		}
		offsets <- i
	}
	close(offsets)
	wg.Wait()
	if records, bytes := tr.InFlight(); records != 0 || bytes != 0 {
		t.Errorf("left in flight: %d records, %d bytes", records, bytes)
	}
	if _, ok := marks.Load(int64(total)); !ok {
		t.Errorf("the last mark is missing")
	}
}

func TestTrackerAllocatesNothingWhenWarm(t *testing.T) {
	var tr Tracker
	next := int64(0)
	step := func() {
		for range 32 {
			_ = tr.Add(next, 100)
			next++
		}
		for i := range int64(32) {
			tr.Complete(next - 1 - i)
		}
	}
	step()
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%.1f allocations per 32 records", n)
	}
}

func BenchmarkTracker(b *testing.B) {
	for _, depth := range []int64{1, 64, 4096} {
		b.Run("depth="+map[int64]string{1: "1", 64: "64", 4096: "4096"}[depth], func(b *testing.B) {
			b.ReportAllocs()
			var tr Tracker
			for i := range depth {
				_ = tr.Add(i, 100)
			}
			for i := int64(0); b.Loop(); i++ {
				_ = tr.Add(depth+i, 100)
				tr.Complete(i)
			}
		})
	}
}
