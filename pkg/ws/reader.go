package ws

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	gobwas "github.com/gobwas/ws"
)

// Bounds on how a message may be cut, so that a peer cannot keep the loop busy,
// or a buffer alive, with frames that carry nothing.
const (
	// MaxFragments is the most frames a message may consist of.
	MaxFragments = 1024
	// MaxEmptyFragments is how many of them may have no payload.
	MaxEmptyFragments = 16
)

// Kind says what an [Event] is.
type Kind uint8

// The kinds of events.
const (
	// KindNone: nothing to handle. With n > 0 a fragment was taken.
	KindNone Kind = iota
	// KindMessage: Op is OpText or OpBinary, Payload the whole message.
	KindMessage
	// KindPing: the answer is AppendFrame(dst, OpPong, ev.Payload).
	KindPing
	// KindPong: an answer to a ping, or unasked for; both are legal.
	KindPong
	// KindClose: Code (CodeNoStatus if there was none) and Reason.
	KindClose
)

// Event is what one frame amounted to.
type Event struct {
	Kind Kind
	Op   Opcode
	// Deflated: Payload is compressed, and for a text not checked yet. See
	// Inflater.Message.
	Deflated bool
	Code     uint16
	Reason   string
	Payload  []byte
}

// ProtocolError is a violation by the peer. The connection must be closed;
// Code is the one to send (1002, 1007 or 1009).
type ProtocolError struct {
	Code   uint16
	Reason string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("ws: close %d: %s", e.Code, e.Reason)
}

func protocolError(reason string) error {
	return &ProtocolError{Code: CodeProtocolError, Reason: reason}
}

// Reader turns the peer's bytes into events. It is 16 bytes while no fragmented
// message is under way. The zero value reads a client's frames and takes only
// empty messages; call Init or InitClient first.
type Reader struct {
	fragments  *fragments
	maxMessage uint32 // bytes
	server     bool   // the peer is a server: its frames are unmasked
	deflate    bool   // permessage-deflate is in use
	state      state
}

type state uint8

const (
	stateOpen state = iota
	stateClosed
	stateFailed
)

// fragments is a message in the making.
type fragments struct {
	op       Opcode
	deflated bool
	count    int
	empty    int
	checked  int // how much of the payload is known to be whole valid characters
	payload  []byte
}

// Init makes r read frames of a client with messages of at most maxMessage
// bytes.
func (r *Reader) Init(maxMessage int) {
	*r = Reader{}
	r.SetMaxMessage(maxMessage)
}

// InitClient makes r read frames of a server, which are not masked.
func (r *Reader) InitClient(maxMessage int) {
	*r = Reader{server: true}
	r.SetMaxMessage(maxMessage)
}

// SetMaxMessage changes the limit from the next frame on; a session may allow
// more after its peer has identified itself.
func (r *Reader) SetMaxMessage(maxMessage int) {
	r.maxMessage = uint32(min(max(maxMessage, 0), math.MaxInt32))
}

// AllowDeflate makes r take compressed messages, as permessage-deflate was
// agreed on. They are given out as they came, up to [MaxDeflated] bytes long.
func (r *Reader) AllowDeflate() { r.deflate = true }

// Next consumes at most one frame from the front of buf and returns how many
// bytes that was; 0 means that more bytes are needed. An error is a
// *[ProtocolError] and final. After a Close the peer has nothing more to say:
// whatever follows is consumed and ignored.
func (r *Reader) Next(buf []byte) (Event, int, error) {
	switch r.state {
	case stateClosed:
		return Event{}, len(buf), nil
	case stateFailed:
		return Event{}, 0, protocolError("read after an error")
	}
	ev, n, err := r.next(buf)
	if err != nil {
		r.state, r.fragments = stateFailed, nil
		return Event{}, 0, err
	}
	if ev.Kind == KindClose {
		r.state, r.fragments = stateClosed, nil
	}
	return ev, n, nil
}

func (r *Reader) next(buf []byte) (Event, int, error) {
	h, ok, err := r.header(buf)
	if !ok || err != nil {
		return Event{}, 0, err
	}
	end := h.size + h.payloadLen
	if len(buf) < end {
		return Event{}, 0, nil
	}
	payload := buf[h.size:end:end]
	if !r.server {
		gobwas.Cipher(payload, [4]byte(buf[h.size-4:h.size]), 0)
	}

	var ev Event
	switch h.op {
	case OpPing:
		ev = Event{Kind: KindPing, Op: OpPing, Payload: payload}
	case OpPong:
		ev = Event{Kind: KindPong, Op: OpPong, Payload: payload}
	case OpClose:
		ev, err = closeEvent(payload)
	default:
		ev, err = r.data(h, payload)
	}
	return ev, end, err
}

// header is a checked frame header.
type header struct {
	op         Opcode
	fin        bool
	deflated   bool
	size       int
	payloadLen int
}

// header checks every field as soon as its bytes are there and in their order,
// so that the verdict does not depend on how much more has arrived.
func (r *Reader) header(buf []byte) (h header, ok bool, err error) {
	if len(buf) == 0 {
		return h, false, nil
	}
	h.op, h.fin = Opcode(buf[0]&0x0F), buf[0]&bitFin != 0
	reserved := buf[0] & bitsRSV
	if r.deflate && (h.op == OpText || h.op == OpBinary) { // on the first frame only (RFC 7692, section 6)
		h.deflated = reserved&bitRSV1 != 0
		reserved &^= bitRSV1
	}
	switch {
	case reserved != 0:
		return h, false, protocolError("reserved bit set")
	case h.op.isReserved():
		return h, false, protocolError("reserved opcode")
	case h.op.isControl() && !h.fin:
		return h, false, protocolError("fragmented control frame")
	case h.op == OpContinuation && r.fragments == nil:
		return h, false, protocolError("continuation of nothing")
	case (h.op == OpText || h.op == OpBinary) && r.fragments != nil:
		return h, false, protocolError("new message inside a fragmented one")
	}

	if len(buf) < 2 {
		return h, false, nil
	}
	masked, short := buf[1]&bitMask != 0, buf[1]&^bitMask
	switch {
	case masked && r.server:
		return h, false, protocolError("masked server frame")
	case !masked && !r.server:
		return h, false, protocolError("unmasked client frame")
	case h.op.isControl() && short > MaxControlPayload:
		return h, false, protocolError("control frame too long")
	}

	length := uint64(short)
	h.size = 2
	switch short {
	case len16:
		if len(buf) < 4 {
			return h, false, nil
		}
		length, h.size = uint64(binary.BigEndian.Uint16(buf[2:])), 4
		if length < len16 {
			return h, false, protocolError("length not in its shortest form")
		}
	case len64:
		if len(buf) < 10 {
			return h, false, nil
		}
		length, h.size = binary.BigEndian.Uint64(buf[2:]), 10
		if length > math.MaxInt64 {
			return h, false, protocolError("length with the high bit set")
		}
		if length <= 0xFFFF {
			return h, false, protocolError("length not in its shortest form")
		}
	}
	if !h.op.isControl() {
		if err := r.admit(length, h.deflated); err != nil {
			return h, false, err
		}
	}
	h.payloadLen = int(length)

	if masked {
		h.size += 4
	}
	return h, len(buf) >= h.size, nil
}

// admit applies the limits to a data frame before its payload is there.
func (r *Reader) admit(length uint64, deflated bool) error {
	f := r.fragments
	if f != nil {
		deflated = f.deflated
		if f.count >= MaxFragments {
			return &ProtocolError{Code: CodeTooBig, Reason: "too many fragments"}
		}
		if length == 0 && f.empty >= MaxEmptyFragments {
			return &ProtocolError{Code: CodeTooBig, Reason: "too many empty fragments"}
		}
	}
	have := uint64(0)
	if f != nil {
		have = uint64(len(f.payload))
	}
	// length < 2^63 and have < 2^31: the sum does not overflow.
	limit := int(r.maxMessage)
	if deflated {
		limit = MaxDeflated(limit)
	}
	if have+length > uint64(limit) {
		return &ProtocolError{Code: CodeTooBig, Reason: "message too big"}
	}
	return nil
}

func (r *Reader) data(h header, payload []byte) (Event, error) {
	if h.fin && r.fragments == nil {
		if h.op == OpText && !h.deflated && !utf8.Valid(payload) {
			return Event{}, errInvalidText()
		}
		return Event{Kind: KindMessage, Op: h.op, Deflated: h.deflated, Payload: payload}, nil
	}

	if r.fragments == nil {
		r.fragments = &fragments{op: h.op, deflated: h.deflated}
	}
	f := r.fragments
	f.count++
	if len(payload) == 0 {
		f.empty++
	}
	f.payload = append(f.payload, payload...)
	if f.op == OpText && !f.deflated && !f.checkText(h.fin) {
		return Event{}, errInvalidText()
	}
	if !h.fin {
		return Event{}, nil
	}
	r.fragments = nil
	return Event{Kind: KindMessage, Op: f.op, Deflated: f.deflated, Payload: f.payload[:len(f.payload):len(f.payload)]}, nil
}

// checkText tells whether the text so far can still become valid UTF-8, or is
// valid if this is its end. Every byte is looked at once, except for those of a
// character that a fragment border cuts.
func (f *fragments) checkText(end bool) bool {
	rest := f.payload[f.checked:]
	cut := 0
	if !end {
		cut = cutCharacter(rest)
	}
	whole := rest[:len(rest)-cut]
	if !utf8.Valid(whole) {
		return false
	}
	f.checked += len(whole)
	return true
}

// cutCharacter returns how many bytes at the end of p are the beginning of a
// character whose other bytes are still to come.
func cutCharacter(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if last := p[len(p)-n:]; utf8.RuneStart(last[0]) {
			// FullRune is also true for what no further byte could repair, so
			// that is left to the validity check and fails at once.
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

func errInvalidText() error {
	return &ProtocolError{Code: CodeInvalidUTF8, Reason: "text is not UTF-8"}
}

func closeEvent(payload []byte) (Event, error) {
	if len(payload) == 0 {
		return Event{Kind: KindClose, Op: OpClose, Code: CodeNoStatus}, nil
	}
	if len(payload) == 1 {
		return Event{}, protocolError("close code cut short")
	}
	code, reason := binary.BigEndian.Uint16(payload), payload[2:]
	if !sendable(code) {
		return Event{}, protocolError("close code that must not be sent")
	}
	if !utf8.Valid(reason) {
		return Event{}, &ProtocolError{Code: CodeInvalidUTF8, Reason: "close reason is not UTF-8"}
	}
	return Event{Kind: KindClose, Op: OpClose, Code: code, Reason: string(reason)}, nil
}
