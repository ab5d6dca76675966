// Package timeline numbers stored messages and keeps them for whoever was away:
// append, archive, pages, cursors, membership. Redis (redistore) is behind the
// port Window, SQL (sqlstore) behind the port Archive.
//
// # Guarantees
//
// A position is a fold of the log: the n-th accepted record of a timeline has
// seq n, whoever computes it and however often. A
// position of a timeline with a required archive never moves and never gets
// another message; one whose continuity is lost gets another epoch.
//
// # Ownership
//
// Nobody but the worker of a partition, under its fence, appends to the
// timelines of the partition. Readers never install state: only an append does.
package timeline

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/internal/message"
)

// Position is a place in a timeline. Numbers of different epochs must not be
// compared. Seq begins at 1 and is dense; the zero Position is "none yet".
type Position struct {
	Epoch uint32
	Seq   uint64
}

// FirstEpoch is the epoch of a timeline with a required archive that has no
// row yet. It is fixed, so that a store that was lost before the first row was
// archived comes to the same position again.
const FirstEpoch uint32 = 1

// Recent ids of a timeline that catch a caller's retry. They are part of the
// format: another number would fold the same log to other positions.
const (
	RecentInbox = 256
	RecentRoom  = 1024
)

// Recent is how many ids the timeline remembers.
func Recent(tl message.Timeline) int {
	if _, room := tl.Room(); room {
		return RecentRoom
	}
	return RecentInbox
}

// Limits of what one caller can ask for.
const (
	MaxPageEntries = 200
	MaxPageBytes   = 256 << 10
	MaxCursors     = 256  // timelines of one sync or ack
	MaxUnread      = 1000 // unread counts end here
)

// Mode says what the archive is to a timeline. It belongs to the timeline (an
// inbox, or a room's type), not to a message: a position without a row would be
// given again after the window was lost.
type Mode uint8

const (
	// Off: no rows. A lost window is a new random epoch.
	Off Mode = iota
	// BestEffort: rows are written when they can be, nothing waits for them. A
	// lost window is a new random epoch, whose numbers go on from the highest row.
	BestEffort
	// Required: a record is complete when its rows are archived, the window is
	// not trimmed above them, and a lost window is rebuilt from them.
	Required
)

// Offset is where a record stands in the log, across recreated topics:
// Generation first.
type Offset struct {
	Generation uint32
	Offset     int64
}

// Compare orders offsets of one partition.
func (o Offset) Compare(p Offset) int {
	return cmp.Or(cmp.Compare(o.Generation, p.Generation), cmp.Compare(o.Offset, p.Offset))
}

// Partition is a partition of one life of the log.
type Partition struct {
	Log        string // "<topic>/<topic id>", as stream.Claim.Log
	Generation uint32 // the operator raises it with every new Log
	Number     int32
}

// Fence is one life of a partition's worker. It stands in the archive; rows
// are written only under the one that stands. The zero Fence is none, which is
// right only where no archive is configured.
type Fence struct {
	Owner   uint64 // generation of Kafka's consumer group
	Rewinds uint64
}

// Compare orders fences of one Partition.
func (f Fence) Compare(g Fence) int {
	return cmp.Or(cmp.Compare(f.Owner, g.Owner), cmp.Compare(f.Rewinds, g.Rewinds))
}

// Incarnation identifies which life of the window's store answers, for every
// part of it: opaque, compared only by the Window. One that was left never
// comes back.
type Incarnation string

// Fold is the life of the worker on whose behalf something is done.
type Fold struct {
	Partition   Partition
	Fence       Fence
	Incarnation Incarnation
}

// Entry is one position of a timeline with what stands there.
type Entry struct {
	Seq     uint64
	At      Offset // of the record that brought it
	Message message.Message
	Gone    Gone // not Here: Message has only what is harmless (ID, Kind, AcceptedMS)
}

// Gone says why a position has no message to show.
type Gone uint8

// The reasons.
const (
	Here Gone = iota
	Hidden
	Revoked
	Expired
	Lost // a BestEffort archive never got it
)

// Cursor is what a reader has of a timeline: everything up to After.
type Cursor struct {
	Timeline message.Timeline
	Epoch    uint32 // 0 = none yet
	After    uint64
}

// Top is the newest position of a timeline; the zero Position is "empty".
type Top struct {
	Timeline message.Timeline
	Position
}

// Page is a part of a timeline, oldest first: a pure function of the cursor,
// the limits and the state it was read from.
type Page struct {
	Timeline  message.Timeline
	Epoch     uint32
	Entries   []Entry
	Next      uint64 // last contiguous position examined
	HasMore   bool   // Next < Top, from one snapshot
	Top       uint64
	Floor     uint64 // positions up to it are not kept
	Reset     bool   // the cursor is of another epoch or above Top; the page starts over
	Truncated bool   // the cursor was below Floor; the page starts above it
	Err       error  // ErrForbidden, ErrBehind; then only Timeline is set
}

// UserCursor is where a user stands in a timeline. Both numbers only grow
// within an epoch and are never above the top; another epoch starts them at 0.
type UserCursor struct {
	Timeline message.Timeline
	Epoch    uint32
	Acked    uint64
	Read     uint64
}

// Range is what a user may see of a timeline: Min < seq <= Max. Max 0 = no end.
// Joining and clearing raise Min, leaving sets Max; numbers never move.
type Range struct{ Min, Max uint64 }

// Contains tells whether seq may be seen.
func (r Range) Contains(seq uint64) bool { return seq > r.Min && (r.Max == 0 || seq <= r.Max) }

// Role of a member.
type Role uint8

// The roles, in growing power.
const (
	Plain Role = iota
	Admin
	Owner
)

// Member is a durable member of a room.
type Member struct {
	Mid       int64
	Role      Role
	JoinedSeq uint64 // top of the room when the member joined
}

// Membership is one room of a user.
type Membership struct {
	Timeline message.Timeline
	Role     Role
	Range    Range
}

var (
	// ErrRewind: the window is not in the incarnation that the fold names.
	// Nothing was appended to the timeline that noticed it. The worker raises the
	// fence and appends again, in order, all it holds that is not archived.
	ErrRewind = errors.New("timeline: the store is another incarnation")
	// ErrStaleFence: another fence stands. A worker that did not raise it itself
	// is a zombie and stops. It wraps a *StaleFence.
	ErrStaleFence = errors.New("timeline: another worker has the partition")
	// ErrConflict: a position of a required archive has another message. Nothing
	// was written; the partition stops with an alarm. It wraps a *Conflict.
	ErrConflict = errors.New("timeline: a position has two messages")
	// ErrLogChanged: the log has another id under the same generation. The
	// operator raises the generation.
	ErrLogChanged = errors.New("timeline: another log under the same generation")
	// ErrBehind: the window was lost and its worker has not rebuilt it; the
	// archive does not reach the cursor yet. Keep the cursor, ask again later.
	ErrBehind = errors.New("timeline: the store is being rebuilt")
	// ErrForbidden: the reader may not read the timeline.
	ErrForbidden = errors.New("timeline: not a timeline of this reader")
	// ErrNoArchive: what was asked for needs an archive and the timeline has none.
	ErrNoArchive = errors.New("timeline: no archive is configured")
	// ErrTooMany: more timelines, positions or members than one call may name.
	ErrTooMany = errors.New("timeline: too many at once")
	// ErrNotFound: no such position, or no such member.
	ErrNotFound = errors.New("timeline: not found")
)

// StaleFence names the fence that stands.
type StaleFence struct{ Stands Fence }

func (e *StaleFence) Error() string {
	return fmt.Sprintf("%v: owner %d, rewinds %d", ErrStaleFence, e.Stands.Owner, e.Stands.Rewinds)
}

// Unwrap makes it an ErrStaleFence.
func (e *StaleFence) Unwrap() error { return ErrStaleFence }

// Conflict names a position and the two messages that claim it.
type Conflict struct {
	Timeline message.Timeline
	Seq      uint64
	Stands   message.ID
	Refused  message.ID
}

func (e *Conflict) Error() string {
	return fmt.Sprintf("%v: %s %d: %v stands, %v refused", ErrConflict, e.Timeline, e.Seq, e.Stands, e.Refused)
}

// Unwrap makes it an ErrConflict.
func (e *Conflict) Unwrap() error { return ErrConflict }
