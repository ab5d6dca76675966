// Package message holds the nouns that every part of Perseid shares: what a
// message is, whom it is for, and which ordered stream it belongs to.
//
// # Ownership
//
// A Message is immutable once accepted; its Body may be shared by any number
// of readers and is never written. The package does no I/O and imports only
// the standard library.
package message

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// ID identifies an accepted message: 6 bytes of Unix milliseconds, then 10
// random bytes, so ids sort by accept time (to the millisecond, per clock).
type ID [16]byte

// NewID makes an id for a message accepted at unixMS, with randomness from r.
func NewID(unixMS int64, r io.Reader) (ID, error) {
	var id ID
	binary.BigEndian.PutUint64(id[:8], uint64(unixMS)<<16)
	if _, err := io.ReadFull(r, id[6:]); err != nil {
		return ID{}, fmt.Errorf("message id: %w", err)
	}
	return id, nil
}

// String is the id in 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote, and nothing else.
func ParseID(text string) (id ID, ok bool) {
	if len(text) != hex.EncodedLen(len(id)) || strings.Trim(text, "0123456789abcdef") != "" {
		return ID{}, false
	}
	_, err := hex.Decode(id[:], []byte(text))
	return id, err == nil
}

// UnixMS is the accept time inside the id.
func (id ID) UnixMS() int64 { return int64(binary.BigEndian.Uint64(id[:8]) >> 16) }

// DeriveID is the id of a message that its caller can name: the same scope and
// name give the same id, so that a retry is recognised. The id
// holds no time.
func DeriveID(scope, name string) ID {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(scope)))
	h.Write(n[:])
	h.Write([]byte(scope))
	h.Write([]byte(name))
	return ID(h.Sum(nil)[:16])
}

// Limits of what a caller names, in bytes. Kafka records have room for them
// beside the body.
const (
	MaxClientIDBytes = 64
	MaxAuditBytes    = 32 // Operator and Source, each
	MaxConflateBytes = 64
)

// Message is what was accepted from a caller.
type Message struct {
	ID         ID
	Op         int32 // operation of the packet the clients receive
	Flags      Flags // resolved at accept: the defaults of Kind are in it
	Kind       Kind
	Sender     int64  // mid; 0 = a backend
	ClientID   string // the sender's own id of the message; "" = none
	Operator   string // who acted in the sender's name; for audit
	Source     string // entry it came through; for audit
	AcceptedMS int64  // Unix milliseconds of logic's clock at accept
	ExpiresMS  int64  // Unix milliseconds after which nobody gets it any more; 0 = never
	// Conflate names what the message is the newest state of, within a room: of
	// the messages with one name that wait there only the latest is delivered.
	// "" = nothing. Only transient messages without ClientID have one.
	Conflate string
	Body     []byte
}

// Expired tells whether the message is not worth delivering at nowMS. Its
// position stays.
func (m *Message) Expired(nowMS int64) bool { return m.ExpiresMS > 0 && nowMS >= m.ExpiresMS }
