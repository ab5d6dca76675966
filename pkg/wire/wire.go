// Package wire is the frame codec of the client protocol: goim's 16-byte
// header, its operations, and the incremental decoder that both ends use.
//
//	packLen int32 | headerLen int16 | ver int16 | op int32 | seq int32 | [extension] | body
//
// All integers are big-endian and signed, as in goim. headerLen is 16 without
// an extension; a reader of version 2 skips to headerLen.
//
// # Guarantees
//
// Nothing is ever read or written past a packet: the decoder compares every
// length with what is there before it slices, and the slices it returns have
// no spare capacity. Encoding appends to the caller's buffer and does not
// allocate when there is room.
package wire

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the length of a header without extension (goim).
const HeaderLen = 16

// Versions of the protocol, as the auth packet names them.
const (
	V1 int16 = 1 // goim
	V2 int16 = 2 // Perseid: reply bodies, many rooms, bye
)

// Limits of bodies from a client, in bytes.
const (
	// MaxBodyV1 is goim's MaxBodySize, and the limit before auth.
	MaxBodyV1 = 4096
	// MaxBodyV2 is the default limit after auth in version 2.
	MaxBodyV2 = 64 << 10
)

// Op is the operation of a packet.
type Op = int32

// Operations 0-17 are goim's; 18-31 are version 2. Application operations
// start at 1000.
const (
	OpHeartbeat       Op = 2
	OpHeartbeatReply  Op = 3
	OpSendMsg         Op = 4
	OpSendMsgReply    Op = 5
	OpBye             Op = 6 // goim: DisconnectReply, never sent
	OpAuth            Op = 7
	OpAuthReply       Op = 8
	OpRaw             Op = 9 // wrapper of pushes on version 1 WebSocket
	OpChangeRoom      Op = 12
	OpChangeRoomReply Op = 13
	OpSub             Op = 14
	OpSubReply        Op = 15
	OpUnsub           Op = 16
	OpUnsubReply      Op = 17
	OpSync            Op = 18
	OpSyncReply       Op = 19
	OpAck             Op = 20
	OpAckReply        Op = 21
	OpJoin            Op = 22
	OpJoinReply       Op = 23
	OpLeave           Op = 24
	OpLeaveReply      Op = 25
	OpRead            Op = 26
	OpReadReply       Op = 27
	OpHistory         Op = 28
	OpHistoryReply    Op = 29
	OpHint            Op = 30
	OpRevoke          Op = 31 // stored push: a message of the timeline was taken back

	// MinAppOp is the first operation that belongs to the application.
	MinAppOp Op = 1000
)

// Header is the fixed part of a packet without its lengths.
type Header struct {
	Ver int16
	Op  Op
	Seq int32
}

// Packet is one decoded packet. Extension and Body alias the input.
type Packet struct {
	Header
	Extension []byte
	Body      []byte
}

// AppendHeader appends the header of a packet with bodyLen bytes of body.
func AppendHeader(dst []byte, h Header, bodyLen int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(HeaderLen+bodyLen))
	dst = binary.BigEndian.AppendUint16(dst, HeaderLen)
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Ver))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Op))
	return binary.BigEndian.AppendUint32(dst, uint32(h.Seq))
}

// AppendPacket appends a whole packet without extension.
func AppendPacket(dst []byte, h Header, body []byte) []byte {
	return append(AppendHeader(dst, h, len(body)), body...)
}

// Size is the length on the wire of a packet without extension.
func Size(body []byte) int { return HeaderLen + len(body) }

// Error is a frame that breaks the protocol. Field names what was wrong.
type Error struct {
	Field string // "packLen" or "headerLen"
	Value int64
	Min   int64 // allowed range
	Max   int64
}

func (e *Error) Error() string {
	return fmt.Sprintf("wire: %s is %d, allowed is %d to %d", e.Field, e.Value, e.Min, e.Max)
}

// Decoder finds packets in a byte stream. The zero value accepts goim's
// client packets; it holds no buffer and no state between calls.
type Decoder struct {
	// MaxBody is the limit of a body in bytes; 0 means MaxBodyV1, -1 none.
	MaxBody int
	// Extensions accepts headers longer than HeaderLen (version 2). Their
	// length counts against MaxBody.
	Extensions bool
}

// Next decodes the packet at the start of buf and returns how many bytes it
// took. n is 0 with a nil error when buf does not hold a whole packet yet. An
// *Error is final: the stream has lost its frame.
//
// goim takes a packLen of 0 to 15 on TCP for "no body"; no known client sends
// one, and here it is an error, like every other length that cannot be true.
func (d Decoder) Next(buf []byte) (p Packet, n int, err error) {
	if len(buf) < 4 {
		return Packet{}, 0, nil
	}
	packLen := int64(int32(binary.BigEndian.Uint32(buf)))
	maxLen := int64(1<<31 - 1)
	switch {
	case d.MaxBody == 0:
		maxLen = HeaderLen + MaxBodyV1
	case d.MaxBody > 0:
		maxLen = min(maxLen, HeaderLen+int64(d.MaxBody))
	}
	if packLen < HeaderLen || packLen > maxLen {
		return Packet{}, 0, &Error{Field: "packLen", Value: packLen, Min: HeaderLen, Max: maxLen}
	}
	if len(buf) < 6 {
		return Packet{}, 0, nil
	}
	headerLen := int64(int16(binary.BigEndian.Uint16(buf[4:])))
	maxHeader := int64(HeaderLen)
	if d.Extensions {
		maxHeader = packLen
	}
	if headerLen < HeaderLen || headerLen > maxHeader {
		return Packet{}, 0, &Error{Field: "headerLen", Value: headerLen, Min: HeaderLen, Max: maxHeader}
	}
	if int64(len(buf)) < packLen {
		return Packet{}, 0, nil
	}
	p.Ver = int16(binary.BigEndian.Uint16(buf[6:]))
	p.Op = int32(binary.BigEndian.Uint32(buf[8:]))
	p.Seq = int32(binary.BigEndian.Uint32(buf[12:]))
	p.Extension = buf[HeaderLen:headerLen:headerLen]
	p.Body = buf[headerLen:packLen:packLen]
	return p, int(packLen), nil
}
