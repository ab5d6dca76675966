package wire

import "encoding/binary"

// Position is the extension of a stored push (version 2): where the message
// stands in a timeline, and what names it.
//
//	seq u64 | epoch u32 | accepted_ms i64 | msg_id 16 | L u8 | timeline L | [sender i64]
//
// The sender is there when a user wrote the message. A reader takes what it
// knows and skips to headerLen.
type Position struct {
	Seq        uint64
	Epoch      uint32
	AcceptedMS int64 // Unix milliseconds of the server's clock at accept
	MsgID      [16]byte
	Timeline   string // "r:<type>://<id>"; "" = the receiver's own inbox
	Sender     int64  // mid; 0 = a backend
}

const (
	positionLen = 8 + 4 + 8 + 16 + 1 // without the timeline
	senderLen   = 8
)

// MaxTimelineBytes is the longest name of a timeline that fits into a Position.
const MaxTimelineBytes = 255

// Len is the length of the extension in bytes.
func (p *Position) Len() int {
	n := positionLen + len(p.Timeline)
	if p.Sender != 0 {
		n += senderLen
	}
	return n
}

// AppendPositioned appends a packet with a position. The name of the timeline
// must not be longer than MaxTimelineBytes.
func AppendPositioned(dst []byte, h Header, p *Position, body []byte) []byte {
	ext := p.Len()
	dst = binary.BigEndian.AppendUint32(dst, uint32(HeaderLen+ext+len(body)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(HeaderLen+ext))
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Ver))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Op))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Seq))
	dst = binary.BigEndian.AppendUint64(dst, p.Seq)
	dst = binary.BigEndian.AppendUint32(dst, p.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.AcceptedMS))
	dst = append(dst, p.MsgID[:]...)
	dst = append(dst, byte(len(p.Timeline)))
	dst = append(dst, p.Timeline...)
	if p.Sender != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(p.Sender))
	}
	return append(dst, body...)
}

// ParsePosition reads the extension of a packet. ok is false when there is
// none, or one that is too short to be a position.
func ParsePosition(ext []byte) (p Position, ok bool) {
	if len(ext) < positionLen {
		return Position{}, false
	}
	p.Seq = binary.BigEndian.Uint64(ext)
	p.Epoch = binary.BigEndian.Uint32(ext[8:])
	p.AcceptedMS = int64(binary.BigEndian.Uint64(ext[12:]))
	copy(p.MsgID[:], ext[20:])
	n := int(ext[36])
	rest := ext[positionLen:]
	if len(rest) < n {
		return Position{}, false
	}
	p.Timeline = string(rest[:n])
	if rest = rest[n:]; len(rest) >= senderLen {
		p.Sender = int64(binary.BigEndian.Uint64(rest))
	}
	return p, true
}
