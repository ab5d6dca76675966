package job_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

// stubPartition is a partition in memory: what was appended, and the committed
// offset from which the next claim goes on.
type stubPartition struct {
	t         testing.TB
	log       string
	partition int32

	mu        sync.Mutex
	records   []stream.Record
	committed int64
	claims    int32
	zombies   bool // a claim may go on after the next one; it commits nothing then
	changed   chan struct{}
}

func newStubPartition(t testing.TB, partition int32) *stubPartition {
	return &stubPartition{t: t, log: "push/1", partition: partition, changed: make(chan struct{})}
}

func (p *stubPartition) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *stubPartition) append(m message.Message, targets ...message.Target) int64 {
	return p.appendRecord(stream.Record{Message: m, Targets: targets, Size: len(m.Body) + 32*len(targets)})
}

func (p *stubPartition) appendRecord(r stream.Record) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Partition, r.Offset = p.partition, int64(len(p.records))
	p.records = append(p.records, r)
	p.notify()
	return r.Offset
}

// behind is nil when everything is committed.
func (p *stubPartition) behind() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.records); p.committed != int64(n) {
		return fmt.Errorf("partition %d: committed %d of %d", p.partition, p.committed, n)
	}
	return nil
}

// stubClaim is the ownership of a stubPartition. It bounds what is in flight
// and checks how it is used.
type stubClaim struct {
	p           *stubPartition
	maxInFlight int
	generation  int32

	mu        sync.Mutex
	next      int64
	complete  map[int64]bool
	revoked   bool
	released  bool
	dead      []int64
	deadError int // so many DeadLetter calls fail
}

var errDeadLetter = errors.New("dead-letter topic is away")

func (p *stubPartition) claim() *stubClaim {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims++
	return &stubClaim{p: p, maxInFlight: 5000, generation: p.claims, next: p.committed, complete: map[int64]bool{}}
}

func (c *stubClaim) Log() string      { return c.p.log }
func (c *stubClaim) Partition() int32 { return c.p.partition }

func (c *stubClaim) Generation() int32 { return c.generation }

func (c *stubClaim) Next(ctx context.Context, max int) ([]stream.Record, error) {
	for {
		c.p.mu.Lock()
		changed, committed := c.p.changed, c.p.committed
		var out []stream.Record
		c.mu.Lock()
		revoked := c.revoked
		if room := c.maxInFlight - int(c.next-committed); room > 0 && !revoked {
			end := min(int64(len(c.p.records)), c.next+int64(min(max, room)))
			out = append(out, c.p.records[c.next:end]...)
			c.next = end
		}
		c.mu.Unlock()
		c.p.mu.Unlock()
		if revoked {
			return nil, stream.ErrRevoked
		}
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *stubClaim) Complete(offset int64) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p.zombies && c.generation < c.p.claims {
		return
	}
	if c.released {
		c.p.t.Errorf("partition %d: offset %d completed after the release", c.p.partition, offset)
	}
	if c.complete[offset] || offset < c.p.committed || offset >= c.next {
		c.p.t.Errorf("partition %d: offset %d completed twice or never taken", c.p.partition, offset)
	}
	c.complete[offset] = true
	for c.complete[c.p.committed] {
		delete(c.complete, c.p.committed)
		c.p.committed++
	}
	c.p.notify()
}

func (c *stubClaim) DeadLetter(_ context.Context, r stream.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revoked {
		return stream.ErrRevoked
	}
	if c.deadError > 0 {
		c.deadError--
		return errDeadLetter
	}
	c.dead = append(c.dead, r.Offset)
	return nil
}

func (c *stubClaim) revoke() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.mu.Lock()
	c.revoked = true
	c.mu.Unlock()
	c.p.notify()
}

func (c *stubClaim) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = true
}
