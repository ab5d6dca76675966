package comet

import "time"

// A loop that is woken for every heartbeat costs more than the heartbeats do:
// it waits in the poller with its P (Go's right to run code), and until sysmon
// has taken the P away sysmon wakes dozens of times (benchmarks/results/stages.txt).
// Nobody waits for the answer to a heartbeat. So after one of them a quiet loop
// naps, and answers all that have come in the meantime at once. It is quiet
// while nobody is pushed to, connects, or sends anything but heartbeats; a
// hundredth of that time at most it naps. A push, like all commands, ends the
// nap at once, so only a client that breaks the silence waits.
const (
	napShare = 100
	minNap   = 10 * time.Millisecond
	maxNap   = 100 * time.Millisecond // a tick comes that often
)

// napTime is how long the loop may nap; 0 = it is not quiet.
func (b *Bucket) napTime() time.Duration {
	nap := time.Duration(b.nowMS-b.activeMS) * time.Millisecond / napShare
	if nap < minNap {
		return 0
	}
	return min(nap, maxNap)
}

// askNap asks for a nap as soon as the sockets that are ready have been read.
func (b *Bucket) askNap() {
	if !b.napAsked && b.napTime() > 0 {
		b.napAsked = true
		b.loop.Execute(b.nap)
	}
}

// nap waits on the loop, without its P, for a command or for napTime.
func (b *Bucket) nap() {
	b.napAsked = false
	d := b.napTime()
	if d == 0 {
		return
	}
	select {
	case <-b.roused: // by who was late for the nap before
	default:
	}
	b.napping.Store(true)
	if !b.scheduled.Load() {
		b.napEnd.Reset(d)
		select {
		case <-b.roused:
			b.napEnd.Stop()
		case <-b.napEnd.C:
		}
	}
	b.napping.Store(false)
	if b.scheduled.Load() { // by who saw the nap, and may have given the loop no task
		b.turn()
	}
}
