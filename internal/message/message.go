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
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
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

// UnixMS is the accept time inside the id.
func (id ID) UnixMS() int64 { return int64(binary.BigEndian.Uint64(id[:8]) >> 16) }

// Flags is the bit set of a message (pipeline.md, section 5). Unknown bits are
// kept and forwarded; an absent bit means "no".
type Flags uint32

const (
	// Store asks for a position in the timeline of each target. Reserved: a
	// request that sets it is refused until timelines exist.
	Store Flags = 1 << 0
	// Urgent skips write merging.
	Urgent Flags = 1 << 5
)

// Message is what was accepted from a caller.
type Message struct {
	ID         ID
	Op         int32 // operation of the packet the clients receive
	Flags      Flags
	AcceptedMS int64 // Unix milliseconds of logic's clock at accept
	Body       []byte
}
