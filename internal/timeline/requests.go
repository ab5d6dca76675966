package timeline

import "github.com/perseid-im/perseid/internal/message"

// Batch is what a worker appends at once: stored records of its partition, in
// the order of the log.
type Batch struct {
	Fold    Fold
	Records []Record
}

// Record is a stored record and the timelines it is for (at most 1,000, each
// once, all of the partition).
type Record struct {
	Offset    int64 // generation: that of the Fold
	Message   message.Message
	Timelines []message.Timeline
}

// BatchResult answers a Batch. Records is parallel to the records, or with Full
// to those before the first that found no space. Each of its elements is
// parallel to the record's timelines.
type BatchResult struct {
	Records [][]Appended
	Full    bool
}

// Archiving is what a worker archives at once, in the order of the log. A
// record without places (all of them Off, or Dup, or Seq 0) is not in it.
type Archiving struct {
	Fold    Fold
	Records []Positioned
}

// Positioned is a record and the positions it got.
type Positioned struct {
	Offset  int64
	Message message.Message
	Places  []Place
}

// Place is a position in a timeline.
type Place struct {
	Timeline message.Timeline
	Position
	Mode Mode
}

// Reader is who reads. Rooms are those its session is in now; it may read them
// without being a member. Mid 0 is the backend: it may read everything.
type Reader struct {
	Mid   int64
	Rooms []message.Timeline
}

// Limit bounds a page; values out of range mean the nearest allowed one, 0 the
// largest.
type Limit struct {
	Entries int
	Bytes   int
}

// Part says which part of a timeline History gives. Exactly one of the three
// is meant, by At; Epoch 0 is the current one.
type Part struct {
	Timeline message.Timeline
	Epoch    uint32
	At       At
	Seq      uint64
}

// At is the meaning of Part.Seq.
type At uint8

// The meanings. Before 0 is "the newest".
const (
	Before At = iota
	After
	Around
)

// Standing is a user's cursor with what it leaves unread.
type Standing struct {
	UserCursor
	Unread int // ends at MaxUnread
	Moved  bool
}
