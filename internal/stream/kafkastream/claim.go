package kafkastream

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/IBM/sarama"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

// claim is one partition from assignment to revocation, over all its workers.
//
// Records wait in queue, move to taken when a worker gets them, and leave it
// when the mark passes them. queue is bounded by pausing the partition, taken
// by Next. The channel of sarama is emptied at once in any case: its feeder
// serves all partitions of a broker and must not wait for one worker.
type claim struct {
	claimed
	revocation chan struct{} // closed by revoke

	mu          sync.Mutex
	queue       []*sarama.ConsumerMessage
	queuedBytes int
	taken       []*sarama.ConsumerMessage // from the mark on, offsets growing
	tracker     *stream.Tracker           // of the current worker
	paused      bool
	revoked     bool
	wake        chan struct{} // holds one token when Next should look again
}

// claimed is what a claim knows of its partition and of the world. The
// functions are called under the lock of the claim, except dead.
type claimed struct {
	partition    int32
	generation   int32  // of the group, when the partition was assigned
	log          string // incarnation of the topic
	maxRecords   int
	maxBytes     int
	maxBodyBytes int
	mark         func(offset int64) // gives an offset to the next commit
	pause        func(paused bool)  // stops or resumes the fetches
	lag          func(last int64)   // told the last offset that the worker got
	dead         func(ctx context.Context, msg *sarama.ConsumerMessage, why error) error
}

func newClaim(of claimed) *claim {
	return &claim{
		claimed:    of,
		revocation: make(chan struct{}),
		tracker:    new(stream.Tracker),
		wake:       make(chan struct{}, 1),
	}
}

// rawBytes is the size of a record in the log, without Kafka's framing.
func rawBytes(msg *sarama.ConsumerMessage) int {
	n := len(msg.Key) + len(msg.Value)
	for _, h := range msg.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// fill takes records from sarama until the channel closes or ended does; then
// the partition is no longer ours.
func (c *claim) fill(messages <-chan *sarama.ConsumerMessage, ended <-chan struct{}) {
	defer c.revoke()
	for {
		select {
		case msg, ok := <-messages:
			if !ok {
				return
			}
			c.push(msg)
		case <-ended:
			return
		}
	}
}

func (c *claim) push(msg *sarama.ConsumerMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, msg)
	c.queuedBytes += rawBytes(msg)
	if !c.paused && (len(c.queue) >= c.maxRecords || c.queuedBytes >= c.maxBytes) {
		c.paused = true
		c.pause(true)
	}
	c.poke()
}

// revoke ends the supply: Next answers ErrRevoked from now on.
func (c *claim) revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.revoked {
		c.revoked = true
		c.queue, c.queuedBytes = nil, 0
		close(c.revocation)
		c.poke()
	}
}

func (c *claim) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// start hands the partition to a worker. What an earlier one has not brought
// below the mark comes again, as it would after a restart of the process.
func (c *claim) start() *tenure {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.taken) > 0 {
		c.queue = append(c.taken[:len(c.taken):len(c.taken)], c.queue...)
		for _, msg := range c.taken {
			c.queuedBytes += rawBytes(msg)
		}
		c.taken = nil
	}
	c.tracker = new(stream.Tracker)
	c.poke()
	return &tenure{claim: c}
}

// tenure is a claim in the hands of one worker.
type tenure struct {
	*claim
	over    bool                      // guarded by claim.mu; nothing marks any more
	batch   []*sarama.ConsumerMessage // of the worker's goroutine, as records
	records []stream.Record
}

var _ stream.Claim = (*tenure)(nil)

// end takes the claim away from the worker.
func (t *tenure) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

func (t *tenure) Log() string       { return t.log }
func (t *tenure) Partition() int32  { return t.partition }
func (t *tenure) Generation() int32 { return t.generation }

// Next implements stream.Claim.
func (t *tenure) Next(ctx context.Context, max int) ([]stream.Record, error) {
	for {
		batch, err := t.take(max)
		if err != nil {
			return nil, err
		}
		if len(batch) > 0 {
			t.records = t.records[:0]
			for _, msg := range batch {
				t.records = append(t.records, t.read(msg))
			}
			return t.records, nil
		}
		select {
		case <-t.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take moves up to max records from queue to taken, as far as the bounds of
// what may be in flight allow. One record is allowed when nothing is.
func (t *tenure) take(max int) ([]*sarama.ConsumerMessage, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked || t.over {
		return nil, stream.ErrRevoked
	}
	records, bytes := t.tracker.InFlight()
	n := 0
	for n < len(t.queue) && (n == 0 || n < max) {
		msg := t.queue[n]
		if records > 0 && (records >= t.maxRecords || bytes+rawBytes(msg) > t.maxBytes) {
			break
		}
		if err := t.tracker.Add(msg.Offset, rawBytes(msg)); err != nil {
			return nil, fmt.Errorf("partition %d: %w", t.partition, err)
		}
		records, bytes = records+1, bytes+rawBytes(msg)
		t.queuedBytes -= rawBytes(msg)
		n++
	}
	t.batch = append(t.batch[:0], t.queue[:n]...)
	t.taken = append(t.taken, t.batch...)
	clear(t.queue[:n])
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil // the array goes with the backlog
	}
	if t.paused && len(t.queue) <= t.maxRecords/2 && t.queuedBytes <= t.maxBytes/2 {
		t.paused = false
		t.pause(false)
	}
	if n > 0 {
		t.lag(t.batch[n-1].Offset)
	}
	return t.batch, nil
}

func (t *tenure) read(msg *sarama.ConsumerMessage) stream.Record {
	r := stream.Record{Partition: msg.Partition, Offset: msg.Offset, Size: rawBytes(msg)}
	m, targets, err := decode(msg.Value, t.maxBodyBytes)
	if err != nil {
		m, targets = message.Message{}, nil
	}
	r.Message, r.Targets, r.Err = m, targets, err
	return r
}

// Complete implements stream.Claim. A call after the worker returned is
// ignored: what it says may be about a record that another worker has again.
func (t *tenure) Complete(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	mark, moved := t.tracker.Complete(offset)
	if !moved {
		return
	}
	n := sort.Search(len(t.taken), func(i int) bool { return t.taken[i].Offset >= mark })
	clear(t.taken[:n])
	if t.taken = t.taken[n:]; len(t.taken) == 0 {
		t.taken = nil
	}
	t.mark(mark)
	t.poke()
}

// DeadLetter implements stream.Claim. It tries until the record is durable,
// ctx ends or the partition is revoked.
func (t *tenure) DeadLetter(ctx context.Context, r stream.Record) error {
	t.mu.Lock()
	i := sort.Search(len(t.taken), func(i int) bool { return t.taken[i].Offset >= r.Offset })
	var msg *sarama.ConsumerMessage
	if i < len(t.taken) && t.taken[i].Offset == r.Offset {
		msg = t.taken[i]
	}
	t.mu.Unlock()
	if msg == nil {
		return fmt.Errorf("dead letter: offset %d of partition %d is not in flight", r.Offset, t.partition)
	}
	ctx, stop := t.whileHeld(ctx)
	defer stop()
	if err := t.dead(ctx, msg, r.Err); err != nil {
		return fmt.Errorf("dead letter: offset %d of partition %d: %w", r.Offset, t.partition, err)
	}
	return nil
}

func (c *claim) isRevoked() bool {
	select {
	case <-c.revocation:
		return true
	default:
		return false
	}
}

// whileHeld is a context that ends with parent, or with ErrRevoked when the
// partition is revoked. The returned function releases it.
func (c *claim) whileHeld(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	go func() {
		select {
		case <-c.revocation:
			cancel(stream.ErrRevoked)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
