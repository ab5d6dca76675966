package job

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
	"github.com/perseid-im/perseid/internal/timeline"
)

// dispatcher splits the routed records of one claim by comet and lane. It is
// the scratch memory of one worker.
type dispatcher struct {
	job    *Job
	work   *work
	keeper *keeper // nil until there are stored records
	kept   []*kept // of the current batch

	comets  []*comet     // by index of Routes.Nodes
	out     [][]delivery // by comet and lane: comet*lanes + lane
	touched []int        // indexes of out that are not empty
	count   []int        // sessions of the current record, by index of out
	groups  []int        // index of out, by location of the current record
	current []int        // indexes of out that the current record touches
	laneOf  []int8       // lane + 1 by target of the current record; 0 = not hashed yet
}

func newDispatcher(j *Job, w *work) *dispatcher { return &dispatcher{job: j, work: w} }

// dispatch gives every target of the records to a lane or an outcome. comets
// is parallel to routes.Nodes. It returns early only when ctx ends or the job
// closes; the claim is given up then.
func (d *dispatcher) dispatch(ctx context.Context, records []stream.Record, items []RouteItem, routes Routes, comets []*comet) error {
	d.comets = comets
	d.split(records, items, routes)
	if len(d.kept) > 0 {
		d.keeper.keep(d.kept)
		clear(d.kept)
		d.kept = d.kept[:0]
	}
	err := d.hand(ctx)
	for _, g := range d.touched {
		clear(d.out[g])
		d.out[g] = d.out[g][:0]
	}
	d.touched = d.touched[:0]
	clear(d.comets)
	return err
}

// split fills out. All targets of a record on one comet and lane are one
// delivery, so that the comet can tell a repeat by the offset alone.
func (d *dispatcher) split(records []stream.Record, items []RouteItem, routes Routes) {
	if n := len(d.comets) * d.job.cfg.Lanes; len(d.out) < n {
		d.out = append(d.out, make([][]delivery, n-len(d.out))...)
		d.count = append(d.count, make([]int, n-len(d.count))...)
	}
	located := 0
	for i := range routes.Results {
		located += len(routes.Results[i].Locations)
	}
	sessions := make([]uint64, 0, located) // cut into the deliveries' lists
	batch := make([]record, len(records))
	var total Tally
	for i := range records {
		in, r := &records[i], &batch[i]
		r.work, r.offset, r.message = d.work, in.Offset, in.Message
		var pushes int
		if in.Message.ExpiresMS > 0 && in.Message.Expired(time.Now().UnixMilli()) {
			total[Expired] += uint64(len(in.Targets))
		} else if items[i].Stored != nil {
			sessions, pushes = d.stored(r, in, &items[i], &routes.Results[i], sessions, &total)
		} else if len(in.Targets) == 1 && in.Targets[0].Kind == message.Room {
			pushes = d.room(r, in.Targets[0], nil)
		} else if len(in.Targets) == 1 && in.Targets[0].Kind == message.All {
			pushes = d.all(r, in.Targets[0], nil)
		} else {
			total[Offline] += uint64(routes.Results[i].Offline)
			sessions, pushes = d.sessions(r, &items[i], routes.Results[i].Locations, nil, sessions)
		}
		if items[i].Stored != nil {
			if k := newKept(r, items[i].Stored, routes.Results[i].Appended); k != nil {
				d.kept = append(d.kept, k)
				if k.held() {
					pushes++ // its rows are owed like a push
				}
			}
		}
		r.pending.Store(int32(pushes))
	}
	d.job.meter.outcomes(&total)
	for i := range batch {
		if batch[i].pending.Load() == 0 {
			d.work.complete(batch[i].offset)
		}
	}
}

// stored splits a record with positions. Who has a position of another record
// (a caller's retry), or none any more, gets nothing: the record that brought
// it is earlier in the partition, and moved.
func (d *dispatcher) stored(r *record, in *stream.Record, item *RouteItem, located *Located, slab []uint64, total *Tally) (rest []uint64, pushes int) {
	if len(item.Mids) == 0 {
		at := &positions{places: places(item.Stored, located.Appended, timeline.Off)}
		switch {
		case len(at.places) == 0:
			return slab, 0
		case in.Targets[0].Kind == message.Room:
			return slab, d.room(r, in.Targets[0], at)
		}
		return slab, d.all(r, in.Targets[0], at)
	}
	here := located.Locations[:0]
	for _, at := range located.Locations {
		if has(located.Appended[at.Target]) {
			here = append(here, at)
		}
	}
	if slices.ContainsFunc(located.Appended, has) {
		total[Offline] += uint64(located.Offline)
	}
	return d.sessions(r, item, here, located.Appended, slab)
}

// add appends a delivery to the queue of a comet and lane.
func (d *dispatcher) add(g int, dl delivery) {
	if len(d.out[g]) == 0 {
		d.touched = append(d.touched, g)
	}
	dl.measure()
	d.out[g] = append(d.out[g], dl)
}

// room goes to the comets that have members.
func (d *dispatcher) room(r *record, t message.Target, at *positions) (pushes int) {
	r.room = t.Name
	lane := t.Timeline().Lane(d.job.cfg.Lanes)
	boxed := any(t.Name)
	for i, c := range d.comets {
		if c.hasRoom(boxed) {
			d.add(i*d.job.cfg.Lanes+lane, delivery{record: r, at: at})
			pushes++
		}
	}
	return pushes
}

// all goes to every comet, each at its share of the speed.
func (d *dispatcher) all(r *record, t message.Target, at *positions) (pushes int) {
	r.all = true
	lane := message.AllTimeline.Lane(d.job.cfg.Lanes)
	for i := range d.comets {
		var speed uint32
		if t.Speed > 0 {
			speed = max(1, uint32(t.Speed)/uint32(len(d.comets)))
		}
		d.add(i*d.job.cfg.Lanes+lane, delivery{record: r, at: at, speed: speed, comets: uint32(len(d.comets))})
	}
	return len(d.comets)
}

// sessions groups the locations of a record, with positions if appended is not
// nil. The lists are cut from slab, which has room for all of the batch.
func (d *dispatcher) sessions(r *record, item *RouteItem, locations []Location, appended []timeline.Appended, slab []uint64) (rest []uint64, pushes int) {
	lanes := d.job.cfg.Lanes
	targets := len(item.Keys) + len(item.Mids)
	d.laneOf = append(d.laneOf[:0], make([]int8, targets)...)
	d.groups, d.current = d.groups[:0], d.current[:0]
	for i := range locations {
		at := &locations[i]
		if d.laneOf[at.Target] == 0 {
			d.laneOf[at.Target] = int8(laneOf(item, int(at.Target), lanes)) + 1
		}
		g := int(at.Node)*lanes + int(d.laneOf[at.Target]) - 1
		if d.count[g] == 0 {
			d.current = append(d.current, g)
		}
		d.count[g]++
		d.groups = append(d.groups, g)
	}
	for _, g := range d.current {
		n := len(slab)
		slab = slab[:n+d.count[g]]
		// The list is whole at once, so that its size is; it is filled below.
		dl := delivery{record: r, sessions: slab[n:len(slab):len(slab)]}
		if appended != nil {
			dl.at = new(positions)
		}
		d.add(g, dl)
		d.count[g] = 0
	}
	for i, g := range d.groups {
		dl := &d.out[g][len(d.out[g])-1]
		dl.sessions[d.count[g]] = locations[i].Session
		d.count[g]++
		if appended != nil {
			a := &appended[locations[i].Target]
			dl.at.add(timeline.Place{Timeline: item.Stored.Timelines[locations[i].Target], Position: a.Position, Mode: a.Mode})
		}
	}
	for _, g := range d.current {
		d.count[g] = 0
	}
	return slab, len(d.current)
}

func laneOf(item *RouteItem, target, lanes int) int {
	if target < len(item.Keys) {
		return message.ToKey(item.Keys[target]).Timeline().Lane(lanes)
	}
	return message.ToUser(item.Mids[target-len(item.Keys)]).Timeline().Lane(lanes)
}

// hand gives out to the lanes. First each lane gets what it has room for, so
// that no comet waits for a full lane of another; then the worker waits for the
// full ones, all together no longer than the dispatch timeout.
func (d *dispatcher) hand(ctx context.Context) error {
	full := d.current[:0]
	for _, g := range d.touched {
		taken, closed := d.lane(g).offer(d.out[g])
		left := d.out[g][taken:]
		if closed {
			if err := d.gone(g, left); err != nil {
				return err
			}
		} else if len(left) > 0 {
			full = append(full, g)
			n := copy(d.out[g], left)
			clear(d.out[g][n:])
			d.out[g] = d.out[g][:n]
		}
	}
	return d.waitFor(ctx, full)
}

// waitFor hands the rest of out to lanes that were full.
func (d *dispatcher) waitFor(ctx context.Context, full []int) error {
	giveUp := d.job.now() + since(d.job.cfg.DispatchTimeout)
	for _, g := range full {
		left, err := d.lane(g).put(ctx, d.out[g], giveUp)
		if errors.Is(err, errLaneClosed) {
			err = d.gone(g, left)
		} else if err == nil && len(left) > 0 {
			d.job.drop(left, Unreachable)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gone ends deliveries to a lane that is closed: its comet left, or the job
// closes.
func (d *dispatcher) gone(g int, left []delivery) error {
	if d.comets[g/d.job.cfg.Lanes].life.Err() != nil {
		return ErrClosed
	}
	d.job.drop(left, NotHere)
	return nil
}

func (d *dispatcher) lane(g int) *lane {
	return d.comets[g/d.job.cfg.Lanes].lanes[g%d.job.cfg.Lanes]
}
