package wheel

import (
	"math/rand/v2"
	"testing"
)

type session struct {
	timer    Timer[*session]
	id       int
	deadline int64 // 0 = stopped
}

func newSession(id int) *session {
	s := &session{id: id}
	s.timer.Value = s
	return s
}

func TestFiresWithinOneTickOfTheDeadline(t *testing.T) {
	w := New[*session](100, 16, 1_000_000)
	s := newSession(1)
	w.Set(&s.timer, 1_000_250)
	var firedAt int64
	for now := int64(1_000_000); now < 1_001_000 && firedAt == 0; now += 10 {
		w.Advance(now, func(*session) { firedAt = now })
	}
	if firedAt < 1_000_250 || firedAt > 1_000_350 {
		t.Errorf("fired at +%d, want +250 to +350", firedAt-1_000_000)
	}
	if s.timer.Active() || w.Len() != 0 {
		t.Errorf("still active after it fired")
	}
}

// Random sets, stops and advances against a plain list: every timer fires
// exactly once, not before its deadline and at most a tick after the first
// Advance that could.
func TestAgainstAList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const tick = 10
	now := int64(5_000)
	w := New[*session](tick, 8, now)
	sessions := make([]*session, 200)
	for i := range sessions {
		sessions[i] = newSession(i)
	}
	for range 20_000 {
		s := sessions[rnd.IntN(len(sessions))]
		switch rnd.IntN(4) {
		case 0, 1:
			deadline := now + int64(rnd.IntN(400)) - 20
			w.Set(&s.timer, deadline)
			s.deadline = max(deadline, now) // one in the past counts from now
		case 2:
			s.deadline = 0
			w.Stop(&s.timer)
		case 3:
			now += int64(rnd.IntN(60))
			if rnd.IntN(50) == 0 {
				now += 1_000
			}
			w.Advance(now, func(f *session) {
				if f.deadline == 0 || f.deadline > now {
					t.Fatalf("timer %d with deadline %d fired at %d", f.id, f.deadline, now)
				}
				f.deadline = 0
				if rnd.IntN(3) == 0 { // a callback may stop and set others and itself
					other := sessions[rnd.IntN(len(sessions))]
					other.deadline = 0
					w.Stop(&other.timer)
					f.deadline = now + 50
					w.Set(&f.timer, f.deadline)
				}
			})
			active := 0
			for _, s := range sessions {
				if s.deadline != 0 {
					active++
					if s.deadline < now-2*tick {
						t.Fatalf("timer %d with deadline %d has not fired at %d", s.id, s.deadline, now)
					}
				}
				if s.timer.Active() != (s.deadline != 0) {
					t.Fatalf("timer %d: active %v, deadline %d", s.id, s.timer.Active(), s.deadline)
				}
			}
			if w.Len() != active {
				t.Fatalf("Len %d, want %d", w.Len(), active)
			}
		}
	}
}

func TestAllocates0(t *testing.T) {
	w := New[*session](100, 64, 0)
	s := newSession(1)
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += 100
		w.Set(&s.timer, now+50)
		w.Advance(now, func(*session) {})
	}); n != 0 {
		t.Errorf("%v allocations per timer", n)
	}
}

func BenchmarkSetAdvance(b *testing.B) {
	w := New[*session](100, 512, 0)
	sessions := make([]*session, 20_000)
	for i := range sessions {
		sessions[i] = newSession(i)
		w.Set(&sessions[i].timer, int64(i))
	}
	now := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 100
		w.Advance(now, func(s *session) { w.Set(&s.timer, now+60_000) })
	}
}
