package kafkastream

import (
	"sync"
	"time"
)

// pace lets callers go together: one that comes alone goes at once, those that
// come within an interval of the last departure go at its end. A produce
// request costs the broker, and each step behind it, hundreds of microseconds
// whatever it carries, so at a high rate a few milliseconds save most of the
// pipeline's processor time; at a low rate nobody waits.
//
// It is safe for concurrent use.
type pace struct {
	interval time.Duration // 0: nobody waits

	mu       sync.Mutex
	departed time.Time // the last departure; in the future while callers wait for it
}

// next returns how long the caller has to wait.
func (p *pace) next(now time.Time) time.Duration {
	if p.interval <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.departed.After(now) {
		return p.departed.Sub(now)
	}
	p.departed = p.departed.Add(p.interval)
	if p.departed.Before(now) {
		p.departed = now
	}
	return p.departed.Sub(now)
}
