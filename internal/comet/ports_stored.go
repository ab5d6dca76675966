package comet

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Stored is the part of the port to logic that is about stored messages. A
// call that is wrong in itself fails with a *Refused; every other error means
// "ask again".
type Stored interface {
	// Sync answers the pages after the cursors.
	Sync(ctx context.Context, node Node, q SyncQuery) ([]Page, error)
	// History answers a part of one timeline.
	History(ctx context.Context, node Node, q HistoryQuery) (Page, error)
	// Ack raises delivery cursors; parallel to the items.
	Ack(ctx context.Context, node Node, items []AckItem) ([]Acked, error)
	// Read raises a read cursor, and the delivery cursor with it.
	Read(ctx context.Context, node Node, who Reader, at timeline.Cursor) (timeline.Standing, error)
	// Publish accepts messages; parallel to the items.
	Publish(ctx context.Context, node Node, items []PublishItem) ([]Published, error)
	// Tops answers the newest positions of those of tls that have any. stored is
	// false when nothing is stored at all.
	Tops(ctx context.Context, tls []message.Timeline) (tops []timeline.Top, stored bool, err error)
}

// Refused is logic's no.
type Refused struct {
	Code   uint16 // of protocol.md; below 1000 as in HTTP
	Reason string
}

func (e *Refused) Error() string { return fmt.Sprintf("refused with code %d: %s", e.Code, e.Reason) }

// Reader is a session that asks for itself.
type Reader struct {
	Session uint64
	Mid     int64
}

// SyncQuery asks for pages. Rooms are those that the session is in; no cursors
// means the inbox and the rooms of the user.
type SyncQuery struct {
	Reader
	Cursors []timeline.Cursor
	Rooms   []string
	Limit   timeline.Limit
}

// HistoryQuery asks for a part of one timeline.
type HistoryQuery struct {
	Reader
	Part   timeline.Part
	InRoom bool // the session is in the room
	Limit  timeline.Limit
}

// Page is a page, or a code and why there is none.
type Page struct {
	timeline.Page
	Code   uint16
	Reason string
}

// AckItem is what one session has processed.
type AckItem struct {
	Reader
	Acks []timeline.Cursor
	// answer is the sequence number of the packet, if the client wants a reply.
	answer int32
	wanted bool
}

// Acked answers an AckItem.
type Acked struct {
	Standings []timeline.Standing
	Code      uint16
	Reason    string
}

// PublishItem is a message from a session.
type PublishItem struct {
	Reader
	To       string // timeline
	InRoom   bool
	Kind     message.Kind // None = chat
	Op       int32
	ClientID string
	Flags    message.Flags // of FlagsSet
	FlagsSet message.Flags
	Payload  []byte
	answer   int32
	sinceMS  int64 // when it came, by Gateway.nowMS
}

// Published answers a PublishItem.
type Published struct {
	ID     message.ID
	Code   uint16
	Reason string
}
