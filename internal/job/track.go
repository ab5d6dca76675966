package job

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/internal/failpoint"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/timeline"
)

// work is what the job owes to one claim: the records it took and has not
// completed.
type work struct {
	claim     stream.Claim
	log       string
	partition int32

	mu    sync.Mutex
	open  int           // records taken and not complete
	ended bool          // no more will be taken
	idle  chan struct{} // closed when ended and open is 0

	// abandoned is written under mu, so that no record completes after it was
	// set; lanes read it to skip what another owner will replay.
	abandoned atomic.Bool
}

func newWork(claim stream.Claim) *work {
	return &work{claim: claim, log: claim.Log(), partition: claim.Partition(), idle: make(chan struct{})}
}

// begin takes n records on.
func (w *work) begin(n int) {
	w.mu.Lock()
	w.open += n
	w.mu.Unlock()
}

// complete finishes one record. After abandon it does nothing.
func (w *work) complete(offset int64) {
	failpoint.Hit("job.before_complete")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.abandoned.Load() {
		return
	}
	w.claim.Complete(offset)
	w.open--
	if w.ended && w.open == 0 {
		close(w.idle)
	}
}

// finish waits until all records are complete or ctx ends; what is left then
// is abandoned: it will never complete here. It returns how many were left.
func (w *work) finish(ctx context.Context) int {
	w.mu.Lock()
	w.ended = true
	if w.open == 0 {
		close(w.idle)
	}
	w.mu.Unlock()
	select {
	case <-w.idle:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandoned.Store(true)
	return w.open
}

// record is one entry of the partition on its way. All pushes made of it share
// the message.
type record struct {
	work    *work
	offset  int64
	message message.Message
	room    string
	all     bool
	pending atomic.Int32 // pushes without an outcome, and rows that must be archived
}

// done says that one push of the record has its outcome, or that its rows are
// archived.
func (r *record) done() {
	if r.pending.Add(-1) == 0 {
		r.work.complete(r.offset)
	}
}

// delivery is a part of a record for one comet and lane.
type delivery struct {
	record   *record
	sessions []uint64
	at       *positions // nil: the message is transient
	speed    uint32
	comets   uint32 // that share a push to all
	size     int64  // bytes it takes in the queue
	due      since  // when the dispatch timeout is over; set by the lane
}

// deliveryBytes is what a delivery takes beside body and sessions.
const deliveryBytes = 128

func (d *delivery) measure() {
	d.size = int64(len(d.record.message.Body)+8*len(d.sessions)+len(d.record.room)) + deliveryBytes
	if d.at != nil {
		d.size += int64(1+len(d.sessions)) * placeBytes
	}
}

// positions are those of a stored message for the receivers of one delivery.
type positions struct {
	places []timeline.Place
	of     []uint32 // index of the place, by session; not used for one place
}

// placeBytes is about what a position takes.
const placeBytes = 64

// add says where the message stands for the next session.
func (p *positions) add(at timeline.Place) {
	if n := len(p.places); n == 0 || p.places[n-1].Timeline != at.Timeline {
		p.places = append(p.places, at)
	}
	p.of = append(p.of, uint32(len(p.places)-1))
}

// targets is the number of outcomes the delivery owes; a room or all push
// counts as one while the number of its sessions is not known.
func (d *delivery) targets() uint64 { return max(1, uint64(len(d.sessions))) }

func (d *delivery) push() Push {
	r := d.record
	p := Push{
		Partition: r.work.partition,
		Offset:    r.offset,
		Message:   &r.message,
		Sessions:  d.sessions,
		Room:      r.room,
		All:       r.all,
		Speed:     d.speed,
		Comets:    d.comets,
	}
	if d.at != nil {
		if p.Places = d.at.places; len(p.Places) > 1 {
			p.PlaceOf = d.at.of
		}
	}
	return p
}

// settle takes the answers of a comet for a batch.
func (j *Job) settle(ds []delivery, results []Result) {
	var total Tally
	nowMS := time.Now().UnixMilli()
	for i := range ds {
		d, r := &ds[i], &results[i]
		if r.Repeat {
			total[Repeat] += d.targets()
			continue
		}
		total.add(&r.Counts)
		if answered := r.Counts.Sum(); len(d.sessions) > 0 && answered < d.targets() {
			// The comet said nothing about some: they count, too.
			total[Unreachable] += d.targets() - answered
		}
		if ms := d.record.message.AcceptedMS; ms > 0 && r.Counts[Delivered] > 0 {
			j.meter.dispatchTook(time.Duration(max(nowMS-ms, 0)) * time.Millisecond)
		}
	}
	j.meter.outcomes(&total)
	for i := range ds {
		ds[i].record.done()
	}
}

// drop gives all targets of deliveries that never reached a comet one outcome.
// Those of abandoned claims get none: the next owner replays them.
func (j *Job) drop(ds []delivery, o Outcome) {
	var total Tally
	for i := range ds {
		if !ds[i].record.work.abandoned.Load() {
			total[o] += ds[i].targets()
		}
	}
	j.meter.outcomes(&total)
	for i := range ds {
		ds[i].record.done()
	}
}
