package ws

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	gobwas "github.com/gobwas/ws"
)

// Opcode is the four-bit type of a frame.
type Opcode byte

// The opcodes of RFC 6455, section 5.2; all others are reserved.
const (
	OpContinuation Opcode = 0x0
	OpText         Opcode = 0x1
	OpBinary       Opcode = 0x2
	OpClose        Opcode = 0x8
	OpPing         Opcode = 0x9
	OpPong         Opcode = 0xA
)

// Sizes of frames, in bytes.
const (
	// MaxHeader is the longest header of a server's (unmasked) frame.
	MaxHeader = 10
	// MaxMaskedHeader is the longest header of a client's frame.
	MaxMaskedHeader = 14
	// MaxControlPayload is the most a close, ping or pong frame may carry.
	MaxControlPayload = 125
	// MaxCloseReason is what is left of it behind the close code.
	MaxCloseReason = MaxControlPayload - 2
)

// The close codes this package uses or has to recognise. 3000-4999 belong to
// applications.
const (
	CodeNormal          uint16 = 1000
	CodeGoingAway       uint16 = 1001
	CodeProtocolError   uint16 = 1002
	CodeUnsupportedData uint16 = 1003
	// CodeNoStatus says that a Close frame carried no code. It is never on the
	// wire.
	CodeNoStatus      uint16 = 1005
	CodeInvalidUTF8   uint16 = 1007 // or other data that is not what its type says
	CodePolicy        uint16 = 1008
	CodeTooBig        uint16 = 1009
	CodeInternalError uint16 = 1011
)

const (
	bitFin  = 0x80
	bitsRSV = 0x70
	bitRSV1 = 0x40 // with permessage-deflate: the message is compressed
	bitMask = 0x80

	len16 = 126 // the length stands in the next two bytes
	len64 = 127 // the length stands in the next eight bytes
)

func (op Opcode) isControl() bool { return op&0x8 != 0 }

func (op Opcode) isReserved() bool {
	return op > OpPong || (op > OpBinary && op < OpClose)
}

// AppendHeader appends the header of an unmasked frame; the caller sends
// payloadLen bytes of payload behind it. So one encoded payload can be shared by
// many connections.
func AppendHeader(dst []byte, op Opcode, fin bool, payloadLen int) []byte {
	return appendHeader(dst, op, fin, 0, payloadLen)
}

func appendHeader(dst []byte, op Opcode, fin bool, mask byte, payloadLen int) []byte {
	first := byte(op)
	if fin {
		first |= bitFin
	}
	switch {
	case payloadLen < len16:
		return append(dst, first, mask|byte(payloadLen))
	case payloadLen <= 0xFFFF:
		return append(dst, first, mask|len16, byte(payloadLen>>8), byte(payloadLen))
	default:
		dst = append(dst, first, mask|len64)
		return binary.BigEndian.AppendUint64(dst, uint64(payloadLen))
	}
}

// AppendFrame appends a whole unmasked frame. The payload of a control frame
// must not exceed [MaxControlPayload].
func AppendFrame(dst []byte, op Opcode, payload []byte) []byte {
	dst = AppendHeader(dst, op, true, len(payload))
	return append(dst, payload...)
}

// AppendMaskedFrame appends a whole frame as a client sends it. payload is not
// changed.
func AppendMaskedFrame(dst []byte, op Opcode, payload []byte, mask [4]byte) []byte {
	dst = appendHeader(dst, op, true, bitMask, len(payload))
	dst = append(dst, mask[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	gobwas.Cipher(dst[start:], mask, 0)
	return dst
}

// AppendClose appends an unmasked Close frame. The reason is cut to
// [MaxCloseReason] bytes between two characters, and made valid UTF-8. A code
// that must not be on the wire, [CodeNoStatus] above all, makes a Close without
// code and reason, so the code of a received Close can always be sent back.
func AppendClose(dst []byte, code uint16, reason string) []byte {
	if !sendable(code) {
		return AppendHeader(dst, OpClose, true, 0)
	}
	reason = cutReason(reason)
	dst = AppendHeader(dst, OpClose, true, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, code)
	return append(dst, reason...)
}

func cutReason(reason string) string {
	if !utf8.ValidString(reason) {
		reason = strings.ToValidUTF8(reason, string(utf8.RuneError))
	}
	if len(reason) <= MaxCloseReason {
		return reason
	}
	end := MaxCloseReason
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end]
}

// sendable tells whether a close code may be on the wire. What the RFC calls
// reserved for the protocol (1016-2999) is refused like the codes it forbids by
// name: nothing that could define such a code was negotiated.
func sendable(code uint16) bool {
	switch {
	case code < CodeNormal:
		return false
	case code == 1004, code == CodeNoStatus, code == 1006:
		return false
	case code <= 1014: // 1012-1014 were registered with IANA after the RFC
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}
