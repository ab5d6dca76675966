package message

// Flags is the bit set of a message; docs/http-api.md has them by kind. Unknown
// bits are kept and forwarded. In an accepted message an absent bit means "no";
// a request that is silent about a flag gets the default of its kind.
type Flags uint32

const (
	// Store asks for a position in the timeline of each target.
	Store Flags = 1 << 0
	// Archive asks for a row in SQL; it implies Store. Whether a timeline has
	// rows is decided by its kind, for all its messages alike: a request that
	// sets the flag for a timeline without an archive is refused.
	Archive Flags = 1 << 1
	// Unread counts as unread.
	Unread Flags = 1 << 2
	// OfflinePush hands it to the offline-push port when nobody took it.
	OfflinePush Flags = 1 << 3
	// SenderSync puts it into the sender's own inbox, too.
	SenderSync Flags = 1 << 4
	// Urgent skips write merging: the priority "high" of the push API.
	Urgent Flags = 1 << 5
	// Low yields to others in a room that is behind, and is dropped there: the
	// priority "low". No kind has it by default; Urgent goes before it.
	Low Flags = 1 << 6
)

// Has tells whether all bits of f are set.
func (s Flags) Has(f Flags) bool { return s&f == f }

// Normal adds what other flags imply.
func (s Flags) Normal() Flags {
	if s&Archive != 0 {
		s |= Store
	}
	return s
}

// Kind says what a message is to the system; what it says is in the body.
// Kinds that a reader does not know are kept and handled like None.
type Kind uint8

const (
	// None is goim's only kind: no default flags.
	None Kind = iota
	// Chat is what a user says to a user or a room.
	Chat
	// Notice is what a backend tells.
	Notice
	// Receipt tells a sender what became of a message.
	Receipt
	// Signal is for who is here now: typing, calls.
	Signal
	// Revoke takes back another message of the timeline; its body names it.
	Revoke
	// System is for the clients themselves.
	System
)

var kindNames = [...]string{None: "none", Chat: "chat", Notice: "notice", Receipt: "receipt", Signal: "signal", Revoke: "revoke", System: "system"}

// String is the kind as the push API spells it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// ParseKind reads what String writes.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), true
		}
	}
	return None, false
}

// Defaults are the flags of a message of the kind whose caller set none, for
// a target that is an inbox or a room. Whether Archive holds for a room is up
// to its type; the accepting side adds it.
func (k Kind) Defaults(room bool) Flags {
	switch k {
	case Chat:
		if room {
			return Store
		}
		return Store | Archive | Unread | OfflinePush | SenderSync
	case Notice, Receipt, Revoke, System:
		if room {
			return Store
		}
		return Store | Archive
	case Signal:
		return Urgent
	}
	return 0
}
