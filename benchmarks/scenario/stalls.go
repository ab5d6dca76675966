package scenario

import (
	"context"
	"errors"

	"github.com/perseid-im/perseid/benchmarks/load"
)

// stallWatch is a child that notices when the machine stands still.
type stallWatch struct {
	*load.Process
	process process
}

// startStallWatch tries to; a run without the right to is as good, but tells less.
func (b *bench) startStallWatch(ctx context.Context) {
	w, err := b.newStallWatch(ctx)
	if err != nil {
		b.note("whether the machine stood still is not known: %s", err)
		if b.opt.attempts > 1 {
			b.note("-attempts %d: whether the machine was slow is not known, so nothing was run again", b.opt.attempts)
		}
		return
	}
	b.stallWatch = w
}

func (b *bench) newStallWatch(ctx context.Context) (*stallWatch, error) {
	child, err := load.Start(b.child)
	if err != nil {
		return nil, err
	}
	p, err := newProcess("watch", child.PID)
	if err == nil {
		err = child.Call(ctx, "Watch", struct{}{}, &struct{}{})
	}
	if err != nil {
		return nil, errors.Join(err, child.Close())
	}
	return &stallWatch{child, p}, nil
}

func (b *bench) closeStallWatch() {
	if b.stallWatch == nil {
		return
	}
	if err := b.stallWatch.Close(); err != nil {
		b.note("watch for stalls: %s", err)
	}
	b.stallWatch = nil
}

// stalls are those since the last call, and the watch's own CPU time.
func (b *bench) stalls(ctx context.Context) (*load.Stalls, processTimes, error) {
	if b.stallWatch == nil {
		return nil, processTimes{}, nil
	}
	var s load.Stalls
	if err := b.stallWatch.Call(ctx, "Stalls", struct{}{}, &s); err != nil {
		return nil, processTimes{}, err
	}
	times, err := b.stallWatch.process.times()
	return &s, times, err
}
