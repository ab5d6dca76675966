package comet

import (
	"net/netip"
	"slices"

	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wheel"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Framing is how packets stand on a transport.
type Framing uint8

const (
	// Stream is packets back to back (TCP).
	Stream Framing = iota
	// WebSocket is packets in binary messages.
	WebSocket
)

type state uint8

const (
	opened     state = iota // the handshake deadline runs
	connecting              // logic was asked
	confirming              // in its first room, which some job has not confirmed yet
	live
	closed
)

// Session is one connection. It belongs to the loop of its Bucket; nothing in
// it may be touched from elsewhere. Outside the loop a session is only its id.
type Session struct {
	conn    Conn
	bucket  *Bucket
	id      uint64
	mid     int64
	key     string
	ip      netip.Addr
	rooms   []membership
	accepts []wire.Op // sorted
	out     outbox
	timer   wheel.Timer[*Session]

	deadlineMS  int64 // moved by heartbeats; the timer follows when it fires
	heartbeatMS int64
	lastRoom    *roomCount // of the newest room, also after it was left (goim)
	held        []heldPush // pushed while logic was asked
	tops        *tops      // version 2 only
	late        *AckItem   // acks that wait until fewer wait for logic

	framing  Framing
	ver      uint8
	state    state
	paused   bool
	asking   bool  // logic was asked: paused until it answers
	upgraded bool  // WebSocket handshake done
	deflate  bool  // with permessage-deflate
	hinted   bool  // was told since its last heartbeat that it missed something
	acking   uint8 // acks that wait for logic
	authSeq  int32
}

// heldPush is a push for a session whose auth is under way.
type heldPush struct {
	op   wire.Op
	body []byte
	at   *wire.Position // nil: transient
}

// maxHeld bounds them; a session is in this state for milliseconds.
const maxHeld = 64

// membership is a session's place in a room.
type membership struct {
	room *Room
	pos  int32             // index in room.members
	told timeline.Position // top of the room that the session was told last
}

// Bucket is what the session belongs to.
func (s *Session) Bucket() *Bucket { return s.bucket }

// ID is the session's id, unique within the incarnation of the comet.
func (s *Session) ID() uint64 { return s.id }

// Paused tells that no further packet may be handed to the session until its
// connection is resumed.
func (s *Session) Paused() bool { return s.paused }

// Closed tells that the session has ended; its connection is gone.
func (s *Session) Closed() bool { return s.state == closed }

// Ver is the protocol version that the session speaks; 0 before auth.
func (s *Session) Ver() int16 { return int16(s.ver) }

// Decoder is the decoder for what the client sends next.
func (s *Session) Decoder() wire.Decoder {
	if s.ver >= uint8(wire.V2) && s.state == live {
		return wire.Decoder{MaxBody: s.bucket.gateway.cfg.MaxBodyBytes, Extensions: true}
	}
	return wire.Decoder{}
}

// MaxMessage is the longest message the client may send now, in bytes.
func (s *Session) MaxMessage() int {
	if max := s.Decoder().MaxBody; max > 0 {
		return wire.HeaderLen + max
	}
	return wire.HeaderLen + wire.MaxBodyV1
}

func (s *Session) accepted(op wire.Op) bool {
	_, ok := slices.BinarySearch(s.accepts, op)
	return ok
}

func (s *Session) accept(ops []wire.Op) {
	for _, op := range ops {
		if i, ok := slices.BinarySearch(s.accepts, op); !ok && len(s.accepts) < wire.MaxOps {
			s.accepts = slices.Insert(s.accepts, i, op)
		}
	}
}

func (s *Session) refuse(ops []wire.Op) {
	for _, op := range ops {
		if i, ok := slices.BinarySearch(s.accepts, op); ok {
			s.accepts = slices.Delete(s.accepts, i, i+1)
		}
	}
}

// online is the count in a heartbeat reply: the cluster's count of the newest
// room if it is known, else this comet's; the last value stays after the room
// was left (goim-compat 1.4).
func (s *Session) online() int32 {
	if s.lastRoom == nil {
		return 0
	}
	if n := s.lastRoom.cluster.Load(); n > 0 {
		return n
	}
	return s.lastRoom.local.Load()
}

// recorded tells whether logic knows where the session is.
func (s *Session) recorded() bool { return s.state == live || s.state == confirming }

func (s *Session) ref() SessionRef { return SessionRef{Session: s.id, Mid: s.mid, Key: s.key} }

// A session id is loop (8 bits), generation (28 bits), slot (28 bits). The
// generation starts at 1, so an id is never 0.
const (
	slotBits = 28
	genBits  = 28
	maxSlots = 1<<slotBits - 1
	genMask  = 1<<genBits - 1
)

func sessionID(loop uint8, gen, slot uint32) uint64 {
	return uint64(loop)<<(genBits+slotBits) | uint64(gen&genMask)<<slotBits | uint64(slot)
}

func splitID(id uint64) (loop uint8, gen, slot uint32) {
	return uint8(id >> (genBits + slotBits)), uint32(id>>slotBits) & genMask, uint32(id & maxSlots)
}
