package message

import (
	"errors"
	"strconv"
	"strings"
)

// TargetKind says what a Target names.
type TargetKind uint8

const (
	// Key is one connection, by the key it gave or was given at auth.
	Key TargetKind = iota + 1
	// User is every session of a user, by mid.
	User
	// Room is every session that is in a room.
	Room
	// All is every session of the cluster.
	All
)

// String is the kind as the push API spells it.
func (k TargetKind) String() string {
	switch k {
	case Key:
		return "key"
	case User:
		return "mid"
	case Room:
		return "room"
	case All:
		return "all"
	}
	return "unknown"
}

// Target is one addressee of a message. Name holds a key or a room key
// (type://id), Mid a user, Speed the pace of All.
type Target struct {
	Kind  TargetKind
	Name  string
	Mid   int64
	Speed int32 // messages per second over the cluster; 0 = no limit
}

// ToKey is the target of one connection key.
func ToKey(key string) Target { return Target{Kind: Key, Name: key} }

// ToUser is the target of every session of a user.
func ToUser(mid int64) Target { return Target{Kind: User, Mid: mid} }

// ToRoom is the target of a room, by its room key (see RoomKey).
func ToRoom(roomKey string) Target { return Target{Kind: Room, Name: roomKey} }

// ToAll is the target of everybody; speed as in Target.
func ToAll(speed int32) Target { return Target{Kind: All, Speed: speed} }

// Timeline is the ordered stream that a target's messages belong to, and the
// unit of order of the whole pipeline: "k:<key>", "u:<mid>", "r:<type>://<id>".
type Timeline string

// AllTimeline is the stream of pushes to everybody.
const AllTimeline Timeline = "r:sys://all"

// Timeline returns the stream that the target's messages belong to.
func (t Target) Timeline() Timeline {
	switch t.Kind {
	case Key:
		return Timeline("k:" + t.Name)
	case User:
		return Timeline("u:" + strconv.FormatInt(t.Mid, 10))
	case Room:
		return Timeline("r:" + t.Name)
	}
	return AllTimeline
}

// Inbox is the timeline of a user.
func Inbox(mid int64) Timeline { return ToUser(mid).Timeline() }

// CanStore tells whether messages of the timeline can be kept: a connection key
// has no timeline that outlives the connection, and the position extension of
// the client protocol has a byte for the length of the name.
func (tl Timeline) CanStore() bool {
	if len(tl) > 255 {
		return false
	}
	if _, room := tl.Room(); room {
		return true
	}
	_, user := tl.Mid()
	return user
}

// Mid is the user whose inbox the timeline is. Only the one spelling that
// Inbox writes is an inbox.
func (tl Timeline) Mid() (int64, bool) {
	name, ok := strings.CutPrefix(string(tl), "u:")
	if !ok {
		return 0, false
	}
	mid, err := strconv.ParseInt(name, 10, 64)
	if err != nil || mid <= 0 || Inbox(mid) != tl {
		return 0, false
	}
	return mid, true
}

// Room is the room key of a room's timeline.
func (tl Timeline) Room() (string, bool) {
	room, ok := strings.CutPrefix(string(tl), "r:")
	return room, ok && CheckRoomKey(room) == nil
}

// hash is FNV-1a, 32 bit (hash/fnv allocates); the low half picks the
// partition, the high half the lane, so that the timelines of one partition
// still spread over all lanes.
func (tl Timeline) hash() uint32 {
	h := uint32(2166136261)
	for i := range len(tl) {
		h = (h ^ uint32(tl[i])) * 16777619
	}
	return h
}

// Partition is the Kafka partition of the timeline among n (n > 0).
func (tl Timeline) Partition(n int32) int32 { return int32(tl.hash() % uint32(n)) }

// Lane is the dispatch lane of the timeline among n (n > 0).
func (tl Timeline) Lane(n int) int { return int((tl.hash() >> 16) % uint32(n)) }

// Limits of names, in bytes. They keep Redis keys and record sizes bounded;
// goim has none.
const (
	MaxKeyBytes  = 256
	MaxRoomBytes = 256
)

// ErrRoomKey is what RoomKey and CheckRoomKey answer to a bad room.
var ErrRoomKey = errors.New(`a room is "type://id" of at most 256 bytes with non-empty type and id`)

// RoomKey joins the two halves of a room's name as goim does.
func RoomKey(typ, room string) string { return typ + "://" + room }

// SplitRoomKey splits type://id; ok is false when the separator is missing.
func SplitRoomKey(roomKey string) (typ, room string, ok bool) {
	return strings.Cut(roomKey, "://")
}

// CheckRoomKey tells whether roomKey is a usable room key.
func CheckRoomKey(roomKey string) error {
	typ, room, ok := SplitRoomKey(roomKey)
	if !ok || typ == "" || room == "" || len(roomKey) > MaxRoomBytes {
		return ErrRoomKey
	}
	return nil
}
