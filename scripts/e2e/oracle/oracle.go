// Package oracle judges a run of stored messages: from what callers were told,
// what the wires carried, what applications got, and what SQL and Redis hold,
// it finds every break of the rules C1 to C6 of the design.
//
// # Concurrency
//
// A Run is filled by its owner and judged afterwards; Check only reads it.
//
// # Guarantees
//
//   - It shares no code with the product and believes nothing it says but the
//     numbers on its messages.
//   - Every rule has planted violations among its tests, which it must find.
//
// # Non-goals
//
// C7 is a count here (Counts.WireRepeats), not a rule; C8 is about processes.
package oracle

import "fmt"

// ID is a msg_id.
type ID [16]byte

// Position is a place in a timeline.
type Position struct {
	Timeline string
	Epoch    uint32
	Seq      uint64
}

// String is the position as violations spell it.
func (p Position) String() string { return fmt.Sprintf("%s[%d:%d]", p.Timeline, p.Epoch, p.Seq) }

// Sent is one message that a producer tried to send to one timeline. The N of a
// producer grow; it sends a message to a timeline only after the answer to the
// one before. A message to several timelines is one Sent of each.
type Sent struct {
	Timeline string
	Producer string
	N        int
	// Accepted: an answer said so, with ID. Otherwise the message may be there
	// or not.
	Accepted bool
	ID       ID
}

// Got is a message as a wire carried it or an application was given it.
type Got struct {
	Position
	ID       ID
	Producer string
	N        int
}

// Client is one application with its connection.
type Client struct {
	Name    string
	Follows []string // timelines, each from its begin
	Wire    []Got    // in the order of arrival, over all its connections
	App     []Got    // in the order in which the application got them
	Skips   []string // what the application was told to be lost
}

// Row is a position in SQL.
type Row struct {
	Position
	ID ID
}

// Window is what Redis holds of a timeline.
type Window struct {
	Timeline string
	Epoch    uint32
	Top      uint64
	Entries  map[uint64]ID
}

// Cursor is how far a user is, in SQL or Redis.
type Cursor struct {
	Where    string // for the reader
	Mid      int64
	Timeline string
	Epoch    uint32
	Acked    uint64
	Read     uint64
}

// Run is everything that was seen of one run.
type Run struct {
	Sent    []Sent
	Clients []Client
	Rows    []Row
	Windows []Window
	Cursors []Cursor
}

// Rule names a rule of the design.
type Rule string

// The rules.
const (
	C1 Rule = "C1" // what was accepted is with every follower, in SQL, and nothing else is
	C2 Rule = "C2" // nothing twice: to an application, or in a timeline
	C3 Rule = "C3" // applications get rising positions, and each producer's messages in its order
	C4 Rule = "C4" // a position has one message wherever it is seen, and a message one position per timeline
	C5 Rule = "C5" // all followers get one order
	C6 Rule = "C6" // positions are dense, nothing is skipped, no cursor or top beyond the last row
)

// Violation is a break of a rule.
type Violation struct {
	Rule Rule
	What string
}

// Counts are the figures of a run.
type Counts struct {
	Accepted      int // messages times timelines
	Unanswered    int
	Rows          int
	Timelines     int
	Deliveries    int // to applications
	WireSeen      int
	WireRepeats   int // of a position on the wires of one client: C7
	Lost          int // accepted and not with a follower, or not in SQL
	Unsent        int // somewhere, and never sent
	AppDuplicates int
	RowDuplicates int
	Renumbered    int
	Inversions    int
	Gaps          int
	BeyondTop     int // cursors and windows above the last row
}

// Report is the judgement.
type Report struct {
	Counts
	Violations []Violation
}
