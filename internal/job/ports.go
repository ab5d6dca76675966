package job

import (
	"context"
	"errors"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// ErrOtherLife is what a Link answers when the process at the address is not
// the life of the comet that was asked for.
var ErrOtherLife = errors.New("job: another life of the comet")

// ErrRefused is what a Link answers when nobody listens at the address: the
// process of the comet is dead, whatever its lease says.
var ErrRefused = errors.New("job: nobody listens at the address of the comet")

// Router says which comets live and where targets are.
type Router interface {
	// Route answers every item, in order, from one moment after the call
	// began. The items are the caller's again when it returns. Safe for
	// concurrent use.
	Route(ctx context.Context, items []RouteItem) (Routes, error)
}

// RouteItem asks for the sessions of the targets of one record; a record for a
// room or for all asks for none.
type RouteItem struct {
	Keys []string
	Mids []int64
	// Stored is set for a record that is appended first; only Storage takes it.
	Stored *timeline.Record
}

// Storage routes records of which some are stored, and keeps them. Errors wrap
// those of timeline; all others are worth a retry. Safe for concurrent use; a
// worker calls Archive from one goroutine.
type Storage interface {
	// TakeFence begins the life of a worker; over as in timeline.FoldArchive.
	TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fold, error)
	// RaiseFence begins the next one, before a replay.
	RaiseFence(ctx context.Context, f timeline.Fold) (timeline.Fold, error)
	// RouteStored appends the stored records of items, in order, and then does
	// what Route does, so that a session that is not located finds the record by
	// its first sync. With full, the results answer only the items before the
	// first that found no space: move those, wait, ask again for the rest.
	RouteStored(ctx context.Context, f timeline.Fold, items []RouteItem) (routes Routes, full bool, err error)
	// Archive makes rows durable, in order, and known to the window; nil = all are.
	Archive(ctx context.Context, a timeline.Archiving) error
}

// Routes is the answer to Route. Every Location.Node is an index into Nodes,
// every Location.Target one of the item's targets; the adapter has checked it.
type Routes struct {
	Nodes   []Node // all live comets, whether a location names them or not
	Results []Located
}

// Node is one life of a comet and where its gRPC server is.
type Node struct {
	Name        string
	Incarnation uint64
	Addr        string // host:port
}

// Located is the answer to one RouteItem.
type Located struct {
	Locations []Location
	Offline   int // targets without a session
	// Appended is parallel to RouteItem.Stored.Timelines.
	Appended []timeline.Appended
}

// Location is one session of a target.
type Location struct {
	Session uint64
	Node    uint32
	Target  uint32 // index of the key, or len(Keys) + index of the mid
}

// Edge reaches comets. Link does no I/O and never fails: an address that
// cannot be used fails when it is used.
type Edge interface {
	Link(node Node) Link
}

// Link is the connection to one life of a comet.
type Link interface {
	// Dispatch opens a lane and returns when the comet welcomed it; the stream
	// lives until ctx ends. ErrOtherLife tells that this life is over,
	// ErrRefused that it most likely is.
	Dispatch(ctx context.Context, h Hello) (DispatchStream, error)
	// Rooms opens the room index of the comet; the stream lives until ctx ends.
	Rooms(ctx context.Context, job string) (RoomStream, error)
	Close() error
}

// Hello opens a lane.
type Hello struct {
	Job   string // instance id, for the comet's logs
	Log   string // stream.Claim.Log
	Lane  int
	Lanes int
}

// DispatchStream is an open lane. Send and Recv may run concurrently with each
// other, not with themselves; the context of the stream ends both.
type DispatchStream interface {
	// Send sends one batch. The slice and the session lists are only read
	// during the call.
	Send(pushes []Push) error
	// Recv returns the answer to the oldest unanswered batch, push by push.
	// The slice is valid until the next call.
	Recv() ([]Result, error)
}

// Push is one message for some targets on one comet: Sessions, Room or All.
type Push struct {
	Partition int32
	Offset    int64
	Message   *message.Message
	Sessions  []uint64
	Room      string
	All       bool
	Speed     uint32 // of All: sessions per second on this comet; 0 = no limit
	Comets    uint32 // of All: comets that share it
	// Places are the positions of a stored message: one for Room or All, or with
	// PlaceOf one per user. PlaceOf is parallel to Sessions; nil = Places[0].
	Places  []timeline.Place
	PlaceOf []uint32
}

// Result answers one Push.
type Result struct {
	Repeat bool // applied before; Counts is empty
	Counts Tally
}

// RoomStream is an open room index.
type RoomStream interface {
	// Recv returns the next change; ErrOtherLife when another life sent it.
	Recv() (RoomChange, error)
	// Ack tells the comet that the change with this version is in force here.
	Ack(version uint64) error
}

// RoomChange changes the set of rooms with members on a comet.
type RoomChange struct {
	Version     uint64
	Snapshot    bool // Added is a part of the whole set
	SnapshotEnd bool // the whole set is known now
	Added       []string
	Removed     []string
}
