package timeline

import (
	"context"

	"github.com/perseid-im/perseid/internal/message"
)

// Window is the hot part of all timelines. It may forget anything at any
// moment, and then says so: by another incarnation. All methods are safe for
// concurrent use. An error of a call says nothing about whether it was
// applied; every method may be repeated.
//
// State of a timeline: mode, epoch, incarnation that wrote it, top, off (of the
// last applied record), arch (highest archived seq), floor, entries above the
// trim line, recent ids. It counts as missing when it is not there, is of
// another incarnation than the store is now, or of another mode than asked.
type Window interface {
	// Incarnation is that of the store now, read from the server itself.
	Incarnation(ctx context.Context) (Incarnation, error)

	// Append applies the records of each timeline, in order, atomically per
	// timeline; results are parallel to the batch. Timelines are distinct and
	// independent: one may be applied when another was not. Per timeline, in one
	// atomic step:
	//  1. the store's incarnation is not inc -> Rewind, nothing is changed;
	//  2. the state is missing and there is no seed, or the seed is older than
	//     MaxSeedAgeMS by the store's clock -> Reload; with a good seed it becomes
	//     the state. A seed for a state that is not missing is ignored;
	//     A Required state of this incarnation that is asked for in another mode
	//     is missing only once arch is top, and Full until then: what waits for
	//     the archive keeps its numbers;
	//  3. entries are trimmed to the limits, oldest first, of a Required timeline
	//     never above arch;
	//  4. record by record: At <= off -> Repeat with the old seq (found by offset;
	//     0 if it is trimmed or was a Dup); id among the recent -> Dup with the
	//     first seq, off moves; otherwise, when the hard cap would be passed,
	//     more entries are trimmed, as many as it takes and as may go; if that
	//     does not do -> Full, this and all later records of the timeline are not
	//     applied; otherwise New: top+1. An empty window takes any record.
	// An idle state is forgotten after the idle TTL, if Required only when arch
	// is top.
	Append(ctx context.Context, inc Incarnation, batch []WindowAppend) ([]WindowAppended, error)
	// MarkArchived raises arch, at most to top. A timeline that is missing, or of
	// another epoch, is skipped. Never lowers.
	MarkArchived(ctx context.Context, marks []Top) error

	// Read returns the entries after each From, oldest first, to the limits (at
	// least one if there is one), with top, floor and epoch of the same snapshot.
	// Missing state is Miss, never an empty page.
	Read(ctx context.Context, asks []WindowRead) ([]WindowPage, error)
	// Tops are parallel to tls; Miss as in Read.
	Tops(ctx context.Context, tls []message.Timeline) ([]WindowTop, error)
	// Find looks an id up among the recent ids and tells whether it is archived.
	Find(ctx context.Context, tl message.Timeline, id message.ID) (at Position, archived, found bool, err error)
	// Revoke empties entries that are in the window. Others are skipped.
	Revoke(ctx context.Context, tl message.Timeline, epoch uint32, seqs []uint64) error
	// RaiseFloor raises the floor, at most to top (Required: arch), and trims.
	RaiseFloor(ctx context.Context, tl message.Timeline, epoch uint32, floor uint64) error

	// Advance raises cursors of one user and returns them; moved is parallel.
	// The caller has clamped them to the tops. Another epoch than the stored one
	// replaces it. A cursor that the store does not know and the seeds do not
	// give is returned with Known false and not changed.
	Advance(ctx context.Context, mid int64, to []UserCursor, seeds []UserCursor) ([]KnownCursor, error)
	// Cursors are parallel to tls.
	Cursors(ctx context.Context, mid int64, tls []message.Timeline) ([]KnownCursor, error)

	Ping(ctx context.Context) error
}

// MaxSeedAgeMS bounds the time between the Reload that asked for a seed and its
// use. It is below every idle TTL, so that a late seed cannot undo appends.
const MaxSeedAgeMS = 30_000

// WindowAppend is what a partition's batch has for one timeline.
type WindowAppend struct {
	Timeline message.Timeline
	Mode     Mode
	Keep     Keep
	Seed     *Seed // answers an earlier Reload; nil = none
	Records  []Pending
}

// Pending is a record that wants a position.
type Pending struct {
	At      Offset
	Message *message.Message
}

// Keep bounds a window. Entries and Bytes are what is kept of archived (or
// not required) entries; HardEntries and HardBytes are what a Required window
// may grow to while the archive is behind.
type Keep struct {
	Entries, HardEntries int
	Bytes, HardBytes     int64
}

// Seed is the state of a timeline as the archive has it.
type Seed struct {
	Epoch   uint32
	Mode    Mode   // of the last row; Window does not look at it
	Top     uint64 // also arch
	Off     Offset // of the row at Top
	Floor   uint64
	IDs     []RecentID // the last Recent(tl) rows, oldest first
	AskedMS int64      // WindowAppended.NowMS of the Reload
}

// RecentID is one id of a Seed.
type RecentID struct {
	ID  message.ID
	Seq uint64
}

// AppendStatus is what happened to one timeline.
type AppendStatus uint8

// The statuses.
const (
	Applied AppendStatus = iota
	Rewind
	Reload
	Full
)

// WindowAppended answers a WindowAppend.
type WindowAppended struct {
	Status AppendStatus
	Epoch  uint32
	// Verdicts of the records that were applied: all of them, or with Full a
	// prefix; none for Rewind and Reload.
	Verdicts []Appended
	NowMS    int64 // the store's clock, for Reload
}

// Verdict says how a record got its position.
type Verdict uint8

// The verdicts.
const (
	New Verdict = iota + 1
	Repeat
	Dup
)

// Appended is the position of a record in a timeline. Seq 0 with Repeat: there
// is nothing to do; it was a Dup, or is archived and has left the window.
type Appended struct {
	Verdict Verdict
	Position
	Mode Mode
}

// WindowRead asks for entries with seq > From.
type WindowRead struct {
	Timeline message.Timeline
	From     uint64
	Entries  int
	Bytes    int
}

// WindowTop is what the window knows of a timeline.
type WindowTop struct {
	Miss bool
	Top
	Arch  uint64
	Floor uint64
}

// WindowPage is contiguous when First is From+1; entries below First were
// trimmed and are for the archive to give.
type WindowPage struct {
	WindowTop
	First   uint64 // lowest seq in the window; 0 = it is empty
	Entries []Entry
}

// KnownCursor is a cursor as the window has it.
type KnownCursor struct {
	UserCursor
	Known bool
	Moved bool
}

// Archive is the durable part of all timelines. All methods are safe for
// concurrent use; each is one transaction, and may be repeated after an error.
type Archive interface {
	FoldArchive
	ReadArchive
	UserArchive
	MemberArchive
	Ping(ctx context.Context) error
	Close() error
}

// FoldArchive is what the workers of partitions need.
type FoldArchive interface {
	// TakeFence makes (owner, 0) stand and returns it, when no fence stands, the
	// log is a later generation, or the owner is higher. The same owner again
	// gets the next Rewinds: it is a new life. A lower owner is a *StaleFence,
	// unless over names exactly the fence that stands: then (stands.Owner,
	// stands.Rewinds+1) stands. A log that differs under one generation, or a
	// lower generation, is ErrLogChanged.
	TakeFence(ctx context.Context, p Partition, owner uint64, over *Fence) (Fence, error)
	// RaiseFence replaces f by (f.Owner, f.Rewinds+1); *StaleFence if f does not
	// stand. It waits for a Write under f that is under way.
	RaiseFence(ctx context.Context, p Partition, f Fence) (Fence, error)
	// Write makes rows durable, in order, all or none, while f stands (read under
	// a lock in the same transaction). A row that is there already with the same
	// id is skipped; with another id it is a *Conflict for Required, and skipped
	// and counted for BestEffort. The timeline's row is made with the first, and
	// gets the epoch and the mode of the last row. At most MaxWriteRows rows.
	Write(ctx context.Context, p Partition, f Fence, rows []Row) (skipped int, err error)
	// Load returns a seed per timeline, AskedMS not set, from one snapshot in
	// which f stands (*StaleFence otherwise). A timeline without rows has Top 0
	// and the epoch of its timeline row, or 0.
	Load(ctx context.Context, p Partition, f Fence, tls []message.Timeline) ([]Seed, error)
}

// MaxWriteRows bounds one Write; Store.Archive splits what is more, in order.
const MaxWriteRows = 1000

// Row is one position for the archive.
type Row struct {
	Timeline message.Timeline
	Position
	At      Offset
	Mode    Mode // never Off
	Message *message.Message
}

// ReadArchive is what readers need.
type ReadArchive interface {
	// Read returns the rows with from < seq <= to, oldest first, to the limits
	// (at least one if there is one), those of hidden positions of mid marked (mid
	// 0 = nobody's).
	Read(ctx context.Context, mid int64, ask ArchiveRead) ([]Entry, error)
	// Tops are parallel to tls; Position 0 = no rows.
	Tops(ctx context.Context, tls []message.Timeline) ([]ArchiveTop, error)
	// CountUnread counts, up to MaxUnread, rows above from with the flag Unread
	// that mid did not send, not hidden, revoked or expired at nowMS.
	CountUnread(ctx context.Context, mid int64, tl message.Timeline, from, to uint64, nowMS int64) (int, error)
}

// ArchiveRead asks for From < seq <= To; Backwards keeps the highest when the
// limits do not hold all, still oldest first.
type ArchiveRead struct {
	Timeline  message.Timeline
	From, To  uint64
	Entries   int
	Bytes     int
	Backwards bool
}

// ArchiveTop is what the archive knows of a timeline.
type ArchiveTop struct {
	Top
	Mode  Mode // of the last row
	Floor uint64
}

// UserArchive is what users do to what they see.
type UserArchive interface {
	// SaveCursors raises stored cursors; another epoch replaces.
	SaveCursors(ctx context.Context, cursors map[int64][]UserCursor) error
	// Cursors are parallel to tls; unknown ones are zero.
	Cursors(ctx context.Context, mid int64, tls []message.Timeline) ([]UserCursor, error)
	// Hide hides positions from mid, for good. Unknown positions are hidden too.
	Hide(ctx context.Context, mid int64, tl message.Timeline, seqs []uint64) error
	// Revoke makes a tombstone: the body goes, by and when stay. Repeats change
	// nothing. ErrNotFound: no such row (yet).
	Revoke(ctx context.Context, tl message.Timeline, seq uint64, by int64, nowMS int64) error
	// Find returns the row of an id; ErrNotFound.
	Find(ctx context.Context, tl message.Timeline, id message.ID) (Entry, error)
	// Clear raises Range.Min of mid.
	Clear(ctx context.Context, mid int64, tl message.Timeline, upTo uint64) error
	// Range of mid in tl; zero = everything.
	Range(ctx context.Context, mid int64, tl message.Timeline) (Range, error)
	// Views are what mid may see, parallel to asks, in few queries for all. The
	// caller keeps To - From at MaxPageEntries or below.
	Views(ctx context.Context, mid int64, asks []ViewAsk) ([]View, error)
	// Retain deletes rows of tl up to floor and raises the floor, in steps of at
	// most MaxWriteRows; more tells that there are more. The last Recent(tl) rows
	// lose only their bodies: a Seed needs the rest.
	Retain(ctx context.Context, tl message.Timeline, floor uint64) (more bool, err error)
	// Older lists timelines that have rows accepted before beforeMS, with the
	// highest such seq, after a name, at most limit.
	Older(ctx context.Context, after message.Timeline, beforeMS int64, limit int) ([]Top, error)
}

// ViewAsk asks for hidden positions with From < seq <= To.
type ViewAsk struct {
	Timeline message.Timeline
	From, To uint64
}

// View is what a user may see of a timeline.
type View struct {
	Range  Range
	Member bool     // now
	Hidden []uint64 // by Hide, ascending
}

// MemberArchive is durable membership.
type MemberArchive interface {
	// Join adds members at joined; a member again changes only the role. One who
	// left and comes back gets Range{Min: joined}. Members beyond max: none is
	// added, the error says so.
	Join(ctx context.Context, tl message.Timeline, members []Member, history bool, max int) error
	// Leave removes members; their Range ends at top. Others are skipped.
	Leave(ctx context.Context, tl message.Timeline, mids []int64, top uint64) error
	// Member is one member; ErrNotFound.
	Member(ctx context.Context, tl message.Timeline, mid int64) (Member, error)
	// Members lists by mid, above after.
	Members(ctx context.Context, tl message.Timeline, after int64, limit int) ([]Member, error)
	// Rooms lists by timeline, above after.
	Rooms(ctx context.Context, mid int64, after message.Timeline, limit int) ([]Membership, error)
}
