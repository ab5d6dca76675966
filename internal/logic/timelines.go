package logic

import (
	"context"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Timelines is what this core asks of stored messages; timeline.Store is it.
type Timelines interface {
	Folding
	Reading
	Standings
	Editing
	Rooms
	// ModeOf says what the archive is to a timeline.
	ModeOf(tl message.Timeline) timeline.Mode
	Ping(ctx context.Context) error
}

// Folding is for the workers of partitions. Errors wrap timeline.ErrRewind,
// ErrStaleFence, ErrConflict, ErrLogChanged; all others are worth a retry with
// the same arguments.
type Folding interface {
	// TakeFence begins the life of a worker. The incarnation of the fold is read
	// after the fence stands.
	TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fold, error)
	// RaiseFence begins the next life of the same worker.
	RaiseFence(ctx context.Context, f timeline.Fold) (timeline.Fold, error)
	// Append gives positions. Every timeline that asks for a Reload is seeded
	// from the archive under the fold's fence; a Full one has its arch read from
	// the archive, raised, and is asked once more.
	Append(ctx context.Context, b timeline.Batch) (timeline.BatchResult, error)
	// Archive writes rows in order; nil means that all are durable. Raising arch
	// in the window follows and cannot fail the call.
	Archive(ctx context.Context, a timeline.Archiving) error
}

// Reading is for those who were away.
type Reading interface {
	// Page answers one page per cursor, in order; a page that may not or cannot
	// be given has Err. Without cursors: the inbox and the rooms of the reader.
	Page(ctx context.Context, r timeline.Reader, cursors []timeline.Cursor, l timeline.Limit) ([]timeline.Page, error)
	// History is a part of one timeline.
	History(ctx context.Context, r timeline.Reader, p timeline.Part, l timeline.Limit) (timeline.Page, error)
	// Tops are parallel to tls. They do not check who asks.
	Tops(ctx context.Context, tls []message.Timeline) ([]timeline.Top, error)
	// Find tells where a message stands, and whether all its mode asks for is
	// done (stored, or archived where required); timeline.ErrNotFound.
	Find(ctx context.Context, tl message.Timeline, id message.ID) (at timeline.Position, kept bool, err error)
}

// Standings are acks and read marks.
type Standings interface {
	// Ack raises delivery cursors, clamped to the tops; parallel to acks.
	Ack(ctx context.Context, r timeline.Reader, acks []timeline.Cursor) ([]timeline.Standing, error)
	// Read raises the read cursor (and the delivery cursor with it).
	Read(ctx context.Context, r timeline.Reader, at timeline.Cursor) (timeline.Standing, error)
	// Cursors are parallel to tls, with unread counts.
	Cursors(ctx context.Context, r timeline.Reader, tls []message.Timeline) ([]timeline.Standing, error)
}

// Editing takes messages away without moving a number.
type Editing interface {
	// Hide hides positions from the reader alone.
	Hide(ctx context.Context, r timeline.Reader, tl message.Timeline, seqs []uint64) error
	// Revoke empties a position for everybody, in window and archive. The event
	// that tells the clients is a message of its own, accepted after it.
	Revoke(ctx context.Context, tl message.Timeline, seq uint64, by int64) (timeline.Entry, error)
	// Clear hides everything up to upTo from the reader.
	Clear(ctx context.Context, r timeline.Reader, tl message.Timeline, upTo uint64) error
}

// Rooms is durable membership. It needs an archive; without one every method
// answers timeline.ErrNoArchive.
type Rooms interface {
	Join(ctx context.Context, room message.Timeline, members []timeline.Member) error
	Leave(ctx context.Context, room message.Timeline, mids []int64) error
	Member(ctx context.Context, room message.Timeline, mid int64) (timeline.Member, error)
	Members(ctx context.Context, room message.Timeline, after int64, limit int) ([]timeline.Member, error)
	RoomsOf(ctx context.Context, mid int64, after message.Timeline, limit int) ([]timeline.Membership, error)
}
