package kafkastream

import (
	"sync"
	"time"
)

// pace lets pushes to one partition go together: one that comes alone goes at
// once, those that come within an interval of the partition's last departure
// go at its end. A batch of a partition costs the broker, and each step behind
// it, hundreds of microseconds of processor time whatever it carries, so
// gathering gives most of that back when a room is busy; where pushes spread
// over partitions, or are few, nobody waits.
//
// The interval follows the load: it is twice what the log lately took to
// acknowledge. A log that answers fast is asked often; one that is slow,
// because it or the machine is busy, gets fewer and fuller batches.
//
// It is safe for concurrent use.
type pace struct {
	most time.Duration // longest interval; 0: nobody waits

	mu       sync.Mutex
	acked    time.Duration       // moving average
	departed map[int32]time.Time // the last departure by partition; in the future while callers wait for it
}

func newPace(most time.Duration) *pace {
	return &pace{most: most, departed: map[int32]time.Time{}}
}

// observe tells how long the log took to acknowledge a request.
func (p *pace) observe(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked += (took - p.acked) / 8
}

// next returns how long a push to the partition has to wait.
func (p *pace) next(partition int32, now time.Time) time.Duration {
	if p.most <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.departed[partition]
	if !at.After(now) {
		at = at.Add(min(2*p.acked, p.most))
		if at.Before(now) {
			at = now
		}
		p.departed[partition] = at
	}
	return at.Sub(now)
}
