package stream

import (
	"fmt"
	"sort"
	"sync"
)

// Tracker decides which offset of one partition may be committed: the one
// after the longest prefix of records that are all complete. Records complete
// in any order. The zero value is ready for use.
//
// In flight are all records from the mark on, also those that are complete but
// wait for an earlier one: a bound on InFlight therefore bounds what a restart
// would repeat, and the memory of whoever keeps the records.
//
// # Concurrency
//
// All methods are safe for concurrent use.
type Tracker struct {
	mu sync.Mutex
	// A ring of a power of two of entries: n of them from head on, offsets
	// growing. The first one is never done.
	ring  []tracked
	head  int
	n     int
	bytes int
	last  int64 // highest offset ever added
	some  bool  // last is valid
}

type tracked struct {
	offset int64
	bytes  int
	done   bool
}

// minRing keeps a quiet partition from growing and shrinking its ring.
const minRing = 64

// Add says that the record at offset is being worked on. Offsets come in
// growing order; gaps are normal (transaction markers, compaction). An offset
// that is not above all earlier ones is an error and changes nothing.
func (t *Tracker) Add(offset int64, bytes int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.some && offset <= t.last {
		return fmt.Errorf("stream: offset %d was added after offset %d", offset, t.last)
	}
	if t.n == len(t.ring) {
		t.resize(max(minRing, 2*len(t.ring)))
	}
	t.ring[(t.head+t.n)&(len(t.ring)-1)] = tracked{offset: offset, bytes: bytes}
	t.n++
	t.bytes += bytes
	t.last, t.some = offset, true
	return nil
}

// Complete says that the record at offset needs no more work. moved tells
// whether the mark grew; mark is then the offset to commit: that of the record
// to read next. An offset that was never added, or is complete already, is
// ignored, so a late second outcome does no harm.
func (t *Tracker) Complete(offset int64) (mark int64, moved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.find(offset)
	if !ok {
		return 0, false
	}
	t.at(i).done = true
	for t.n > 0 {
		e := t.at(0)
		if !e.done {
			break
		}
		mark, moved = e.offset+1, true
		t.bytes -= e.bytes
		t.head = (t.head + 1) & (len(t.ring) - 1)
		t.n--
	}
	// A ring that once held a backlog is given back when it is nearly empty.
	if moved && len(t.ring) > minRing && t.n <= len(t.ring)/8 {
		t.resize(len(t.ring) / 4)
	}
	return mark, moved
}

// InFlight is the number of records from the mark on, and their bytes.
func (t *Tracker) InFlight() (records, bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n, t.bytes
}

func (t *Tracker) at(i int) *tracked { return &t.ring[(t.head+i)&(len(t.ring)-1)] }

// find is the index of offset. Without gaps the first guess is right; a gap
// can only move a record towards the head, so the rest is a binary search
// below the guess.
func (t *Tracker) find(offset int64) (int, bool) {
	if t.n == 0 || offset < t.at(0).offset || offset > t.last {
		return 0, false
	}
	i := int(min(offset-t.at(0).offset, int64(t.n-1)))
	if t.at(i).offset != offset {
		i = sort.Search(i, func(j int) bool { return t.at(j).offset >= offset })
	}
	return i, t.at(i).offset == offset
}

func (t *Tracker) resize(size int) {
	size = max(size, minRing)
	ring := make([]tracked, size)
	for i := range t.n {
		ring[i] = *t.at(i)
	}
	t.ring, t.head = ring, 0
}
