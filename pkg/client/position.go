package client

import (
	"context"
	"strconv"
	"sync"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Cursor is how far a timeline was handled: everything up to Seq. Numbers of
// different epochs cannot be compared.
type Cursor struct {
	Epoch uint32
	Seq   uint64
}

// CursorStore keeps the cursors of one user on one device, so that a restarted
// program goes on where it was. Timelines are named "u:<mid>" (the inbox) and
// "r:<type>://<id>". Run calls it from its goroutine, one call at a time; an
// error ends Run.
type CursorStore interface {
	// Load returns ok false for a timeline that was never saved.
	Load(ctx context.Context, timeline string) (c Cursor, ok bool, err error)
	// Save is called after Handler.Message returned for everything up to c.
	Save(ctx context.Context, timeline string, c Cursor) error
}

// MemoryCursors is a CursorStore that ends with the program. The zero value is
// ready; it is safe for concurrent use.
type MemoryCursors struct {
	mu      sync.Mutex
	cursors map[string]Cursor
}

// Load implements CursorStore.
func (m *MemoryCursors) Load(_ context.Context, timeline string) (Cursor, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.cursors[timeline]
	return c, ok, nil
}

// Save implements CursorStore.
func (m *MemoryCursors) Save(_ context.Context, timeline string, c Cursor) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cursors == nil {
		m.cursors = map[string]Cursor{}
	}
	m.cursors[timeline] = c
	return nil
}

// Skip tells that a timeline goes on without some of its messages: they are
// lost for this reader, and nothing can bring them back.
type Skip struct {
	Timeline string
	// Reset: the server lost the timeline and numbers it anew, or this side was
	// ahead of it. What comes next may have been seen before the loss.
	Reset bool
	// From and To are the positions that the server does not keep any more,
	// when it is not a Reset.
	From, To uint64
}

func inboxOf(mid int64) string { return "u:" + strconv.FormatInt(mid, 10) }

func roomTimeline(room string) string { return "r:" + room }

// place adds the position of a packet to a message. The name of the own inbox
// is filled in by who receives it: the reader may not know the mid yet.
func place(m *Message, p wire.Packet) {
	pos, ok := wire.ParsePosition(p.Extension)
	if !ok || pos.Seq == 0 {
		return
	}
	m.Timeline, m.Seq, m.Epoch, m.AcceptedMS, m.ID, m.Sender = pos.Timeline, pos.Seq, pos.Epoch, pos.AcceptedMS, pos.MsgID, pos.Sender
}

// top is the newest position of a timeline, as control bodies have it.
type top struct {
	Timeline string `json:"tl"`
	Epoch    uint32 `json:"epoch"`
	Top      uint64 `json:"top"`
}

// page is the numbers of a page.
type page struct {
	Timeline  string `json:"tl"`
	Epoch     uint32 `json:"epoch"`
	Next      uint64 `json:"next"`
	HasMore   bool   `json:"has_more"`
	Top       uint64 `json:"top"`
	Floor     uint64 `json:"floor"`
	Reset     bool   `json:"reset"`
	Truncated bool   `json:"truncated"`
	Code      int    `json:"code"`
	Reason    string `json:"reason"`
}

// event stands among the messages for what the server said between them.
type event struct {
	tops      []top
	joined    []string // timelines of rooms that were entered
	heartbeat bool
	again     bool // a pause is over

	synced bool // a sync was answered; pages, or failed
	resume bool // it was the one of the auth packet
	pages  []page
	failed int // code of either answer

	standings bool // the question where the user stands was answered
	stand     []standing
}

// standing is where the user stands, on all devices together.
type standing struct {
	Timeline string `json:"tl"`
	Epoch    uint32 `json:"epoch"`
	Acked    uint64 `json:"acked"`
	Read     uint64 `json:"read"`
	Unread   int    `json:"unread"`
}
