// Package wheel is a timing wheel for the deadlines of very many connections:
// one wheel per event loop, no goroutine, no allocation and constant cost per
// timer.
//
// The owner tells the time with Advance; a timer fires between its deadline
// and one tick after it. Deadlines beyond one revolution stay in their slot
// and are looked at once per revolution. A deadline that is often moved
// further out (a heartbeat) is best left where it is and moved when it fires.
//
// # Ownership
//
// A Wheel and its timers belong to one goroutine.
package wheel

// Timer is one deadline. It is embedded where the deadline belongs; Value is
// what Advance hands to the callback. The zero value is a stopped timer.
type Timer[T any] struct {
	Value      T
	prev, next *Timer[T]
	slot       int32 // 1 + index of the slot; 0 = stopped
	deadlineMS int64
}

// Active tells whether the timer is set.
func (t *Timer[T]) Active() bool { return t.slot != 0 }

// Wheel holds timers by the tick of their deadline.
type Wheel[T any] struct {
	tickMS int64
	slots  []*Timer[T]
	tick   int64 // ticks before this one are done
	active int
	due    Timer[T] // head of the list in work; its slot is always 0
}

// New makes a wheel whose time starts at nowMS. tickMS and slots are raised to
// 1 if smaller.
func New[T any](tickMS int64, slots int, nowMS int64) *Wheel[T] {
	tickMS = max(tickMS, 1)
	return &Wheel[T]{tickMS: tickMS, slots: make([]*Timer[T], max(slots, 1)), tick: nowMS / tickMS}
}

// Len is the number of active timers.
func (w *Wheel[T]) Len() int { return w.active }

// Set lets the timer fire at deadlineMS, whether it was set before or not. A
// deadline in the past fires at the next tick.
func (w *Wheel[T]) Set(t *Timer[T], deadlineMS int64) {
	w.Stop(t)
	t.deadlineMS = deadlineMS
	// Rounded up, so that the slot's tick is never before the deadline.
	tick := max((deadlineMS+w.tickMS-1)/w.tickMS, w.tick)
	i := int(tick % int64(len(w.slots)))
	t.slot = int32(i + 1)
	t.next = w.slots[i]
	if t.next != nil {
		t.next.prev = t
	}
	w.slots[i] = t
	w.active++
}

// Stop takes the timer out; stopping a stopped timer does nothing.
func (w *Wheel[T]) Stop(t *Timer[T]) {
	if t.slot == 0 {
		return
	}
	if t.prev != nil { // another timer, or the head of the list in work
		t.prev.next = t.next
	} else {
		w.slots[t.slot-1] = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.prev, t.next, t.slot = nil, nil, 0
	w.active--
}

// Advance fires every timer whose deadline is at or before nowMS. fire may
// set and stop any timer of the wheel, the one it was called for included.
func (w *Wheel[T]) Advance(nowMS int64, fire func(T)) {
	now := nowMS / w.tickMS
	if now-w.tick >= int64(len(w.slots)) {
		w.tick = now - int64(len(w.slots)) + 1 // each slot once is enough
	}
	for w.tick <= now {
		i := int(w.tick % int64(len(w.slots)))
		w.tick++ // before any callback: what it sets goes behind this tick
		// The slot is taken off whole; timers of later revolutions go back.
		head := &w.due
		head.next, w.slots[i] = w.slots[i], nil
		if head.next != nil {
			head.next.prev = head
		}
		for head.next != nil {
			t := head.next
			head.next = t.next
			if t.next != nil {
				t.next.prev = head
			}
			t.prev, t.next, t.slot = nil, nil, 0
			w.active--
			if t.deadlineMS > nowMS {
				w.Set(t, t.deadlineMS)
				continue
			}
			fire(t.Value)
		}
	}
}
