package kafkastream

import (
	"sync"
	"time"
)

// pace lets pushes to one busy partition go together, at the end of an
// interval since the partition's last departure. A batch of a partition costs
// the broker, and each step behind it, hundreds of microseconds of processor
// time whatever it carries, so gathering gives most of that back where a room
// is busy. Where fewer than gather would come together nobody waits.
//
// The interval follows the load: it is twice what the log lately took to
// acknowledge. A log that answers fast is asked often; one that is slow,
// because it or the machine is busy, gets fewer and fuller batches.
//
// It is safe for concurrent use.
type pace struct {
	most time.Duration // longest interval; 0: nobody waits

	mu         sync.Mutex
	acked      time.Duration // moving average
	partitions map[int32]*pacedPartition
}

type pacedPartition struct {
	arrived  time.Time
	gap      time.Duration // between arrivals, moving average
	departed time.Time     // in the future while callers wait for it
}

// gather is how many pushes an interval must bring for one of them to wait.
const gather = 4

func newPace(most time.Duration) *pace {
	return &pace{most: most, partitions: map[int32]*pacedPartition{}}
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
	at := p.partitions[partition]
	if at == nil {
		at = &pacedPartition{gap: time.Second}
		p.partitions[partition] = at
	}
	at.gap += (min(now.Sub(at.arrived), time.Second) - at.gap) / 8
	at.arrived = now
	if !at.departed.After(now) {
		if interval := min(2*p.acked, p.most); interval >= gather*at.gap {
			at.departed = at.departed.Add(interval)
		}
		if at.departed.Before(now) {
			at.departed = now
		}
	}
	return at.departed.Sub(now)
}
