package job

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// roomIndex is the set of rooms with members on a comet. Readers take no
// lock. While the set is not known it holds every room: a push to a room
// without members does no harm.
type roomIndex struct {
	known atomic.Pointer[sync.Map] // room key -> struct{}; nil while not known
}

// has takes the room key boxed, so that one boxing serves all comets.
func (x *roomIndex) has(room any) bool {
	set := x.known.Load()
	if set == nil {
		return true
	}
	_, ok := set.Load(room)
	return ok
}

// watchRooms keeps the index until the comet leaves.
func (c *comet) watchRooms() {
	pause := c.job.backoff()
	for failed := false; ; failed = true {
		began := c.job.now()
		opened, err := c.followRooms()
		c.rooms.known.Store(nil)
		if c.present.Err() != nil {
			return
		}
		if errors.Is(err, ErrOtherLife) {
			c.refuse()
			return
		}
		if opened {
			pause.opened(time.Duration(c.job.now() - began))
			failed = false
		}
		if !failed {
			c.log.Warn("room index broke, rooms are sent to the comet unseen", slog.Any("error", err))
		}
		if !pause.wait(c.present) {
			return
		}
	}
}

// followRooms reads one stream to its end. A change is acknowledged only after
// it is in force: when the comet then confirms a join to its client, every
// later lookup here finds the room.
func (c *comet) followRooms() (opened bool, err error) {
	ctx, cancel := context.WithCancel(c.present)
	defer cancel()
	giveUp := time.AfterFunc(c.job.cfg.ConnectTimeout, cancel)
	defer giveUp.Stop()
	stream, err := c.link.Rooms(ctx, c.job.name)
	if err != nil {
		return false, err
	}
	set := &sync.Map{}
	for {
		change, err := stream.Recv()
		if err != nil {
			return opened, err
		}
		if !opened {
			opened = giveUp.Stop()
		}
		for _, room := range change.Removed {
			set.Delete(room)
		}
		for _, room := range change.Added {
			set.Store(room, struct{}{})
		}
		if change.SnapshotEnd {
			c.rooms.known.Store(set)
		}
		if err := stream.Ack(change.Version); err != nil {
			return opened, err
		}
	}
}
