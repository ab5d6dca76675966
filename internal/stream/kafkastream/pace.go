package kafkastream

import (
	"sync"
	"time"
)

// pace lets pushes to rooms of one busy partition go together, one interval
// after the partition's last departure. A batch costs the broker, and each step
// behind it, much the same whatever it carries, so gathering gives most of that
// back where a room is busy. Where fewer than gather would come together nobody
// waits.
//
// It is safe for concurrent use.
type pace struct {
	interval time.Duration // 0: nobody waits

	mu         sync.Mutex
	partitions map[int32]*pacedPartition
}

type pacedPartition struct {
	arrived  time.Time
	gap      time.Duration // between arrivals, moving average
	departed time.Time     // in the future while callers wait for it
}

// gather is how many pushes an interval must bring for one of them to wait.
const gather = 8

func newPace(interval time.Duration) *pace {
	return &pace{interval: interval, partitions: map[int32]*pacedPartition{}}
}

// next returns how long a push to the partition has to wait.
func (p *pace) next(partition int32, now time.Time) time.Duration {
	if p.interval <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.partitions[partition]
	if at == nil {
		at = &pacedPartition{gap: time.Second}
		p.partitions[partition] = at
	}
	at.gap += (min(now.Sub(at.arrived), time.Second) - at.gap) / 8
	at.arrived = now
	if !at.departed.After(now) {
		if p.interval >= gather*at.gap {
			at.departed = at.departed.Add(p.interval)
		}
		if at.departed.Before(now) {
			at.departed = now
		}
	}
	return at.departed.Sub(now)
}
