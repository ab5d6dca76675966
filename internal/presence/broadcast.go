package presence

import (
	"context"

	"github.com/perseid-im/perseid/internal/message"
)

// Broadcast is a push to everybody at a speed, as far as it is known: each
// comet works off its share on its own, and reports how far it is.
type Broadcast struct {
	ID         message.ID
	Speed      int32 // sessions per second over the cluster; 0 = the announcement is lost
	CanceledMS int64 // Unix ms when it was canceled; 0 = it was not
	Shares     []Share
}

// Share is what one comet does of a broadcast.
type Share struct {
	ID        message.ID
	Node      Node
	Comets    uint32 // that share the broadcast, as the job said; 0 = not told
	Speed     uint32 // of this share, sessions per second
	StartedMS int64  // Unix ms by the comet's clock; 0 = it waits for those before it
	Finished  bool   // nothing follows
	Total     uint32 // sessions it is for; while it is not finished, as of its begin
	Delivered uint32
	Filtered  uint32
	Slow      uint32
	Canceled  uint32 // not reached because the broadcast was canceled
	UpdatedMS int64  // Unix ms of the report, by the registry's clock
}

// Broadcasts is the port to where the progress of broadcasts is kept. It is
// information and may be lost; the messages do not depend on it. The number of
// broadcasts that are kept is bounded: the one that nothing was heard of for
// the longest time is forgotten first. All methods are safe for concurrent use
// and end with the context.
type Broadcasts interface {
	// Announce makes a broadcast known before the first report.
	Announce(ctx context.Context, id message.ID, speed int32) error
	// Report keeps the shares of a node, each in place of what it reported
	// before, and returns all broadcasts that are canceled.
	Report(ctx context.Context, node Node, shares []Share) (canceled []message.ID, err error)
	// Cancel makes every Report name the broadcast. It may be repeated; the
	// first call sets the time.
	Cancel(ctx context.Context, id message.ID) error
	// Broadcast returns what is known about one; ok is false when that is
	// nothing.
	Broadcast(ctx context.Context, id message.ID) (b Broadcast, ok bool, err error)
	// Broadcasts returns all that are kept, by id, which is by age.
	Broadcasts(ctx context.Context) ([]Broadcast, error)
}
