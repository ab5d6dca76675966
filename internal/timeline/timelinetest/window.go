// Package timelinetest holds what tests of stored messages share: a window and
// an archive in memory that follow the ports of timeline to the letter, and
// suites that every adapter of a port must pass.
//
// # Concurrency
//
// Everything here is safe for concurrent use.
package timelinetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Window is a timeline.Window in memory that can lose what it has.
type Window struct {
	mu      sync.Mutex
	lives   int
	states  map[message.Timeline]*state
	cursors map[int64]map[message.Timeline]timeline.UserCursor
	nowMS   func() int64
	fault   Fault
	without Without
}

var _ timeline.Window = (*Window)(nil)

// Fault decides the fate of a call of a port, by the name of its method: err
// is what the caller gets, applied whether the call did its work all the same.
type Fault func(method string) (applied bool, err error)

// Without switches rules off, for controls that must fail.
type Without struct {
	Guard       bool // offsets and recent ids are not looked at
	Incarnation bool // the incarnation is not looked at
	Rewind      bool // a batch asked under another incarnation is served under this one
	Fence       bool // rows are taken under any fence
}

// NewWindow is an empty window in its first incarnation.
func NewWindow() *Window {
	return &Window{
		lives:   1,
		states:  map[message.Timeline]*state{},
		cursors: map[int64]map[message.Timeline]timeline.UserCursor{},
		nowMS:   func() int64 { return time.Now().UnixMilli() },
	}
}

// SetClock replaces the window's clock.
func (w *Window) SetClock(nowMS func() int64) { w.locked(func() { w.nowMS = nowMS }) }

// SetFault makes calls fail; nil ends it.
func (w *Window) SetFault(f Fault) { w.locked(func() { w.fault = f }) }

// SwitchOff switches rules off.
func (w *Window) SwitchOff(o Without) { w.locked(func() { w.without = o }) }

// Snapshot is a moment of a Window.
type Snapshot struct {
	states  map[message.Timeline]*state
	cursors map[int64]map[message.Timeline]timeline.UserCursor
}

// Snapshot keeps this moment for Lose.
func (w *Window) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Snapshot{w.states, w.cursors}.clone()
}

func (s Snapshot) clone() Snapshot {
	c := Snapshot{map[message.Timeline]*state{}, map[int64]map[message.Timeline]timeline.UserCursor{}}
	for tl, st := range s.states {
		c.states[tl] = st.clone()
	}
	for mid, cursors := range s.cursors {
		c.cursors[mid] = maps.Clone(cursors)
	}
	return c
}

// Lose begins the next incarnation with what it had at that moment; the zero
// Snapshot is an empty store.
func (w *Window) Lose(to Snapshot) {
	c := to.clone()
	w.locked(func() { w.lives, w.states, w.cursors = w.lives+1, c.states, c.cursors })
}

// Restart begins the next incarnation with everything kept.
func (w *Window) Restart() { w.locked(func() { w.lives++ }) }

// Forget forgets an idle timeline, as the idle TTL does; it tells whether it
// may.
func (w *Window) Forget(tl message.Timeline) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.states[tl]
	if s == nil || s.mode == timeline.Required && s.arch < s.top {
		return false
	}
	delete(w.states, tl)
	return true
}

func (w *Window) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// call runs f unless a fault forbids it.
func (w *Window) call(ctx context.Context, method string, f func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault != nil {
		if applied, err := w.fault(method); err != nil {
			if applied {
				f()
			}
			return fmt.Errorf("%s: %w", method, err)
		}
	}
	f()
	return nil
}

func (w *Window) incarnation() timeline.Incarnation {
	return timeline.Incarnation(fmt.Sprintf("life-%d", w.lives))
}

// Incarnation is the current one; see timeline.Window.
func (w *Window) Incarnation(ctx context.Context) (inc timeline.Incarnation, err error) {
	err = w.call(ctx, "Incarnation", func() { inc = w.incarnation() })
	return inc, err
}

// Ping fails only by a Fault.
func (w *Window) Ping(ctx context.Context) error { return w.call(ctx, "Ping", func() {}) }

// state is one timeline.
type state struct {
	mode    timeline.Mode
	epoch   uint32
	inc     timeline.Incarnation
	top     uint64
	off     timeline.Offset
	arch    uint64
	floor   uint64
	bytes   int64
	entries []timeline.Entry // oldest first, seqs contiguous up to top
	recent  []timeline.RecentID
}

func (s *state) clone() *state {
	c := *s
	c.entries, c.recent = slices.Clone(s.entries), slices.Clone(s.recent)
	return &c
}

// Append gives positions; see timeline.Window.
func (w *Window) Append(ctx context.Context, inc timeline.Incarnation, batch []timeline.WindowAppend) (results []timeline.WindowAppended, err error) {
	err = w.call(ctx, "Append", func() {
		results = make([]timeline.WindowAppended, len(batch))
		for i := range batch {
			results[i] = w.append(inc, &batch[i])
		}
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

func (w *Window) append(inc timeline.Incarnation, b *timeline.WindowAppend) timeline.WindowAppended {
	now := w.nowMS()
	if inc != w.incarnation() && !w.without.Incarnation && !w.without.Rewind {
		return timeline.WindowAppended{Status: timeline.Rewind}
	}
	s := w.states[b.Timeline]
	if s != nil && s.inc != w.incarnation() && !w.without.Incarnation {
		s = nil
	}
	if s != nil && s.mode != b.Mode {
		if s.mode == timeline.Required && s.arch < s.top {
			return timeline.WindowAppended{Status: timeline.Full, Epoch: s.epoch}
		}
		s = nil
	}
	if s == nil {
		if b.Seed == nil || now-b.Seed.AskedMS > timeline.MaxSeedAgeMS {
			return timeline.WindowAppended{Status: timeline.Reload, NowMS: now}
		}
		s = seeded(b)
		s.inc = w.incarnation()
		w.states[b.Timeline] = s
	}
	s.trim(b.Keep)
	result := timeline.WindowAppended{Epoch: s.epoch}
	for _, r := range b.Records {
		got, ok := w.apply(s, b, r)
		if !ok {
			result.Status = timeline.Full
			break
		}
		result.Verdicts = append(result.Verdicts, got)
	}
	return result
}

func seeded(b *timeline.WindowAppend) *state {
	return &state{
		mode: b.Mode, epoch: b.Seed.Epoch, top: b.Seed.Top, off: b.Seed.Off, arch: b.Seed.Top, floor: b.Seed.Floor,
		recent: slices.Clone(b.Seed.IDs),
	}
}

func (w *Window) apply(s *state, b *timeline.WindowAppend, r timeline.Pending) (timeline.Appended, bool) {
	at := func(v timeline.Verdict, seq uint64) (timeline.Appended, bool) {
		return timeline.Appended{Verdict: v, Position: timeline.Position{Epoch: s.epoch, Seq: seq}, Mode: s.mode}, true
	}
	if !w.without.Guard {
		if s.top > 0 && r.At.Compare(s.off) <= 0 {
			return at(timeline.Repeat, s.byOffset(r.At))
		}
		if seq := s.byID(r.Message.ID); seq != 0 {
			s.off = r.At
			return at(timeline.Dup, seq)
		}
	}
	size := int64(timeline.Weight(r.Message))
	if s.full(b.Keep, size) {
		// What may go goes, so that hard bounds that are no wider than the others,
		// or a message that is wider than the difference, do not stop it for good.
		k := b.Keep
		k.Entries, k.Bytes = min(k.Entries, k.HardEntries-1), min(k.Bytes, k.HardBytes-size)
		if s.trim(k); s.full(b.Keep, size) {
			return timeline.Appended{}, false
		}
	}
	s.top++
	s.off = r.At
	s.bytes += size
	s.entries = append(s.entries, timeline.Entry{Seq: s.top, At: r.At, Message: *r.Message})
	s.recent = append(s.recent, timeline.RecentID{ID: r.Message.ID, Seq: s.top})
	if n := timeline.Recent(b.Timeline); len(s.recent) > n {
		s.recent = slices.Clone(s.recent[len(s.recent)-n:])
	}
	return at(timeline.New, s.top)
}

// full: an empty window takes any message.
func (s *state) full(k timeline.Keep, size int64) bool {
	return len(s.entries) > 0 && (len(s.entries) >= k.HardEntries || s.bytes+size > k.HardBytes)
}

func (s *state) byOffset(at timeline.Offset) uint64 {
	i := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].At.Compare(at) >= 0 })
	if i < len(s.entries) && s.entries[i].At == at {
		return s.entries[i].Seq
	}
	return 0
}

func (s *state) byID(id message.ID) uint64 {
	for _, r := range s.recent {
		if r.ID == id {
			return r.Seq
		}
	}
	return 0
}

func (s *state) trim(k timeline.Keep) {
	for len(s.entries) > 0 && (len(s.entries) > k.Entries || s.bytes > k.Bytes || s.entries[0].Seq <= s.floor) {
		if s.mode == timeline.Required && s.entries[0].Seq > s.arch {
			return
		}
		s.drop()
	}
}

// drop takes the oldest entry away. Without an archive it is nowhere else.
func (s *state) drop() {
	s.bytes -= int64(timeline.Weight(&s.entries[0].Message))
	if s.mode == timeline.Off {
		s.floor = max(s.floor, s.entries[0].Seq)
	}
	s.entries = s.entries[1:]
}

// live is the state of a timeline that is not missing.
func (w *Window) live(tl message.Timeline) *state {
	s := w.states[tl]
	if s == nil || s.inc != w.incarnation() && !w.without.Incarnation {
		return nil
	}
	return s
}

// MarkArchived raises arch; see timeline.Window.
func (w *Window) MarkArchived(ctx context.Context, marks []timeline.Top) error {
	return w.call(ctx, "MarkArchived", func() {
		for _, m := range marks {
			if s := w.live(m.Timeline); s != nil && s.epoch == m.Epoch {
				s.arch = max(s.arch, min(m.Seq, s.top))
			}
		}
	})
}
