package redisreg

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"
)

// never is the deadline of a command that may be served at any time.
const never = "0"

// A reading of Redis's clock is off by at most half of what it took. One that
// took longer than closeRead replaces only one that is older than oldRead.
const (
	closeRead = 50 * time.Millisecond
	oldRead   = 10 * time.Second
)

// serverClock knows Redis's clock, as far as it was read, by the monotonic one
// of this process.
//
// A Redis that was frozen serves what has piled up in its sockets, also for
// callers that gave up long ago, and in any order. So what names a session
// says until when: a client that was turned away and came back must not lose
// its key to its own earlier attempt.
type serverClock struct {
	born time.Time
	last atomic.Pointer[reading] // nil = not known
}

type reading struct {
	at       time.Time
	offsetMS int64 // Redis's Unix ms less ms since born
}

// read takes a reading that was asked for at began.
func (c *serverClock) read(unixMS uint64, began time.Time) {
	now := time.Now()
	took := now.Sub(began)
	if last := c.last.Load(); last != nil && took > closeRead && now.Sub(last.at) < oldRead {
		return
	}
	c.last.Store(&reading{at: now, offsetMS: int64(unixMS) - (began.Sub(c.born) + took/2).Milliseconds()})
}

// deadline is the end of ctx by Redis's clock, as scripts take it.
func (c *serverClock) deadline(ctx context.Context) string {
	last := c.last.Load()
	end, ok := ctx.Deadline()
	if !ok || last == nil {
		return never
	}
	return strconv.FormatInt(end.Sub(c.born).Milliseconds()+last.offsetMS, 10)
}
