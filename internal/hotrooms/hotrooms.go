// Package hotrooms knows in which rooms most people talk: it counts the
// distinct speakers of the last minutes per room and ranks the rooms by them.
//
// # Ownership
//
// A Tracker owns one goroutine, from Start to Close, which makes all calls of
// the Store. What was noted and not counted yet is in its memory: a process
// that is killed loses the speakers of the last flush interval.
//
// # Concurrency
//
// All methods are safe for concurrent use. Note and Top take a short lock or
// none, and never wait for the store. Any number of trackers share one store:
// each counts what it noted, and one at a time builds the ranking for all.
//
// # Guarantees
//
// Counts are always counted again from who spoke, never raised or lowered by
// one, so that a repeat changes nothing and a lost answer heals. Rooms of the
// ranking are counted when it is built; a room in which nobody speaks any more
// leaves when its last speaker does. While a ranking is built, and while the
// store is away, the last one is answered, until it is older than the window.
// Memory is bounded.
package hotrooms

import (
	"context"
	"time"
)

// Speaker is a user and how long ago it spoke.
type Speaker struct {
	Mid int64
	Ago time.Duration // not negative
}

// Spoken is who spoke in a room; nobody new = the room is only counted.
type Spoken struct {
	Room     string // type://id
	Speakers []Speaker
}

// Count is how many spoke in a room during the window.
type Count struct {
	Speakers int
	// Next is when the first of them stops counting; 0 without speakers.
	Next time.Duration
}

// Room is a place of the ranking.
type Room struct {
	Name     string // type://id
	Speakers int
}

// Ranked is a room's count, and when it has to be counted again if nobody
// speaks in it before.
type Ranked struct {
	Room
	Again time.Duration
}

// Ranking is the hottest rooms at one moment.
type Ranking struct {
	BuiltMS int64  // Unix, of the clock of who built it; 0 = none was built yet
	Rooms   []Room // most speakers first, then by name
}

// Store keeps speakers, counts and the ranking, shared by all trackers.
type Store interface {
	// Recount adds speakers, lets those of before the window go, beyond most the
	// oldest too, and counts. The answers are parallel to rooms.
	Recount(ctx context.Context, rooms []Spoken, window time.Duration, most int) ([]Count, error)
	// Rank writes counts. A room without speakers leaves the ranking at once, and
	// is due once more: a count that was overtaken by another one cannot make a
	// room disappear for longer than Again.
	Rank(ctx context.Context, rooms []Ranked, window time.Duration) error
	// Due takes at most n rooms that are to be counted. They are due again after
	// the pause, in case that nobody counts them.
	Due(ctx context.Context, n int, pause time.Duration) ([]string, error)
	// Highest are the n rooms with the highest counts that were written.
	Highest(ctx context.Context, n int) ([]string, error)
	// Hold makes the caller the one that builds, for some time; false = another is.
	Hold(ctx context.Context, d time.Duration) (bool, error)
	// Publish keeps the ranking for all, for some time.
	Publish(ctx context.Context, r Ranking, d time.Duration) error
	// Published is the last one; the zero Ranking if there is none.
	Published(ctx context.Context) (Ranking, error)
}
