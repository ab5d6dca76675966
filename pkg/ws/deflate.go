package ws

import (
	"bytes"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/klauspost/compress/flate"
)

// MaxDeflated is the longest compressed form in which a message of at most
// maxMessage bytes is taken. Data that cannot be compressed grows a little,
// the more the smaller the compressor's blocks are.
func MaxDeflated(maxMessage int) int { return maxMessage + maxMessage/16 + 64 }

// Deflater writes compressed frames (permessage-deflate without context
// takeover). It keeps nothing from one message to the next; it is a value of
// three words that spares an allocation for each. The zero value is ready.
type Deflater struct{ out []byte }

// AppendFrame appends payload as one whole unmasked frame, compressed. If that
// is not shorter than the frame of [AppendFrame], dst is returned as it was,
// and false.
func (d *Deflater) AppendFrame(dst []byte, op Opcode, payload []byte) ([]byte, bool) {
	start := len(dst)
	d.out = append(dst, make([]byte, MaxHeader)...) // the header's length depends on the result
	// The writer is d, which does not fail.
	err := flate.StatelessDeflate((*appender)(d), payload, false, nil)
	out := d.out
	d.out = nil
	body, ok := bytes.CutSuffix(out[start+MaxHeader:], emptyBlock())
	if err != nil || !ok || len(body) >= len(payload) {
		return out[:start], false
	}
	head := AppendHeader(out[:start], op, true, len(body))
	head[start] |= bitRSV1
	return append(head, body...), true // moves the body down to its header
}

// appender is a Deflater as a writer.
type appender Deflater

func (a *appender) Write(p []byte) (int, error) {
	a.out = append(a.out, p...)
	return len(p), nil
}

// emptyBlock ends what a compressor has flushed; it is not sent (RFC 7692,
// section 7.2.1).
func emptyBlock() []byte { return []byte{0x00, 0x00, 0xFF, 0xFF} }

// maxFinalBlocks is how many blocks marked as the last one a message may have
// (RFC 7692, section 7.2.3.4 allows them). Each costs the Inflater a start.
const maxFinalBlocks = 16

// Inflater reads compressed messages. It holds some 40 KiB and the longest
// message so far, so it is to be shared by connections: one for each goroutine
// that reads. The zero value is ready.
type Inflater struct {
	flate io.ReadCloser
	src   deflated
	out   []byte
}

// Message returns the message that ev carries compressed ([Event.Deflated]),
// or ev if it does not. Its payload belongs to the Inflater and is valid until
// the next call. An error is a *[ProtocolError]: 1009 if the message has more
// than maxMessage bytes (no more than that, and a window, is inflated), 1007
// if it is damaged or a text that is no UTF-8.
func (i *Inflater) Message(ev Event, maxMessage int) (Event, error) {
	if !ev.Deflated {
		return ev, nil
	}
	i.src = deflated{payload: ev.Payload}
	err := i.inflate(max(maxMessage, 0))
	i.src = deflated{} // the payload is only lent
	if err != nil {
		return Event{}, err
	}
	if ev.Op == OpText && !utf8.Valid(i.out) {
		return Event{}, errInvalidText()
	}
	ev.Deflated, ev.Payload = false, i.out[:len(i.out):len(i.out)]
	return ev, nil
}

func (i *Inflater) inflate(maxMessage int) error {
	i.restart()
	i.out = i.out[:0]
	for finals := 0; ; {
		if len(i.out) == cap(i.out) {
			// By the bytes that came out, never by what the client says.
			size := min(max(2*cap(i.out), 1024), maxMessage+1)
			i.out = append(make([]byte, 0, size), i.out...)
		}
		n, err := i.flate.Read(i.out[len(i.out):min(cap(i.out), maxMessage+1)])
		i.out = i.out[:len(i.out)+n]
		switch {
		case len(i.out) > maxMessage:
			return &ProtocolError{Code: CodeTooBig, Reason: "message too big"}
		case errors.Is(err, io.EOF):
			if i.src.read >= len(i.src.payload) {
				return nil
			}
			if finals++; finals > maxFinalBlocks {
				return &ProtocolError{Code: CodeTooBig, Reason: "too many final blocks"}
			}
			i.restart()
		case err != nil:
			return &ProtocolError{Code: CodeInvalidUTF8, Reason: "damaged compressed message"}
		}
	}
}

// restart begins at the next byte of the source, without a window.
func (i *Inflater) restart() {
	if i.flate == nil {
		i.flate = flate.NewReader(&i.src)
		return
	}
	// It fails never, and has the method: see NewReader.
	_ = i.flate.(flate.Resetter).Reset(&i.src, nil)
}

// Held is the size of the buffer that the last messages have left, in bytes.
func (i *Inflater) Held() int { return cap(i.out) }

// deflated is a compressed payload, then the block that its sender has cut
// off, then a last block, so that the end shows.
type deflated struct {
	payload []byte
	read    int
}

const deflatedTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

func (d *deflated) ReadByte() (byte, error) {
	at := d.read
	if at < len(d.payload) {
		d.read++
		return d.payload[at], nil
	}
	if at -= len(d.payload); at < len(deflatedTail) {
		d.read++
		return deflatedTail[at], nil
	}
	return 0, io.EOF
}

func (d *deflated) Read(p []byte) (n int, err error) {
	if d.read < len(d.payload) {
		n = copy(p, d.payload[d.read:])
	} else if n = copy(p, deflatedTail[d.read-len(d.payload):]); n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	d.read += n
	return n, nil
}
