package ws

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"unsafe"
)

// The builders below know nothing of the package's own encoder, so that one
// mistake cannot hide in both.

const fin = 0x80

var testMask = [4]byte{0x37, 0xfa, 0x21, 0x3d} // of RFC 6455, section 5.7

// cf is a client's frame with the shortest length form.
func cf(first byte, payload string) []byte {
	out := lengthOf(first, 0x80, len(payload))
	out = append(out, testMask[:]...)
	for i := range len(payload) {
		out = append(out, payload[i]^testMask[i%4])
	}
	return out
}

// sf is a server's frame.
func sf(first byte, payload string) []byte {
	return append(lengthOf(first, 0, len(payload)), payload...)
}

func lengthOf(first, maskBit byte, n int) []byte {
	switch {
	case n > 0xFFFF:
		return binary.BigEndian.AppendUint64([]byte{first, maskBit | 127}, uint64(n))
	case n > 125:
		return binary.BigEndian.AppendUint16([]byte{first, maskBit | 126}, uint16(n))
	}
	return []byte{first, maskBit | byte(n)}
}

func closeBody(code int, reason string) string {
	return string([]byte{byte(code >> 8), byte(code)}) + reason
}

// What a trace consists of.

func text(s string) string      { return body("text", s) }
func binaryMsg(s string) string { return body("binary", s) }
func ping(s string) string      { return body("ping", s) }
func pong(s string) string      { return body("pong", s) }

func closed(code int, reason string) string { return fmt.Sprintf("close %d %q", code, reason) }
func failed(code int) string                { return fmt.Sprintf("error %d", code) }

func body(kind, s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%s of %d bytes, crc %08x", kind, len(s), crc32.ChecksumIEEE([]byte(s)))
	}
	return fmt.Sprintf("%s %q", kind, s)
}

func describe(ev Event) string {
	switch ev.Kind {
	case KindMessage:
		if ev.Op == OpText {
			return text(string(ev.Payload))
		}
		if ev.Op == OpBinary {
			return binaryMsg(string(ev.Payload))
		}
	case KindPing:
		return ping(string(ev.Payload))
	case KindPong:
		return pong(string(ev.Payload))
	case KindClose:
		return closed(int(ev.Code), ev.Reason)
	}
	return fmt.Sprintf("strange event %+v", ev)
}

const canary = 0xC5

// deliver plays the event loop: the wire arrives in pieces, each callback sees
// all that is unread in a buffer of its own with foreign bytes behind it. It
// returns what the Reader made of it and checks that it kept to its bytes.
func deliver(t testing.TB, r *Reader, wire []byte, piece func() int) []string {
	t.Helper()
	var trace []string
	var inflater Inflater
	for lo, hi := 0, 0; hi < len(wire); {
		hi = min(hi+max(piece(), 1), len(wire))
		lent := append(bytes.Clone(wire[lo:hi]), bytes.Repeat([]byte{canary}, 32)...)
		buf, behind := lent[:hi-lo], lent[hi-lo:]
		for {
			ev, n, err := r.Next(buf)
			if n < 0 || n > len(buf) {
				t.Fatalf("consumed %d of %d bytes", n, len(buf))
			}
			// A frame whose content is wrong may have been unmasked.
			if err == nil && !bytes.Equal(buf[n:], wire[lo+n:hi]) {
				t.Fatalf("bytes behind the frame were changed at offset %d", lo+n)
			}
			if slices.ContainsFunc(behind, func(b byte) bool { return b != canary }) {
				t.Fatalf("bytes behind the buffer were changed")
			}
			checkPayload(t, lent, buf[:n], ev.Payload)
			if err == nil && ev.Deflated {
				if !r.deflate {
					t.Fatal("a compressed message that was not agreed on")
				}
				if ev, err = inflater.Message(ev, int(r.maxMessage)); err != nil {
					r.fragments, n = nil, 0 // nobody goes on after an error
				}
				checkPayload(t, lent, nil, ev.Payload)
			}
			if err != nil {
				var pe *ProtocolError
				if !errors.As(err, &pe) || n != 0 || ev.Kind != KindNone {
					t.Fatalf("got %+v, %d, %v with an error", ev, n, err)
				}
				if r.fragments != nil {
					t.Fatalf("fragments kept after an error")
				}
				return append(trace, failed(int(pe.Code)))
			}
			if n == 0 {
				if ev.Kind != KindNone {
					t.Fatalf("got %+v for no bytes", ev)
				}
				break
			}
			if ev.Kind != KindNone {
				trace = append(trace, describe(ev))
			}
			buf, lo = buf[n:], lo+n
		}
		// The loop takes its buffer back; who still reads it shall notice.
		for i := range lent {
			lent[i] = canary
		}
	}
	return trace
}

// checkPayload: a payload lies within its own frame or outside the lent buffer,
// and appending to it cannot reach further bytes.
func checkPayload(t testing.TB, lent, frame, payload []byte) {
	t.Helper()
	if cap(payload) != len(payload) {
		t.Fatalf("payload of %d bytes has capacity %d", len(payload), cap(payload))
	}
	if len(payload) == 0 {
		return
	}
	start := func(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
	p, l, f := start(payload), start(lent), start(frame)
	inLent := p < l+uintptr(cap(lent)) && p+uintptr(len(payload)) > l
	inFrame := p >= f && p+uintptr(len(payload)) <= f+uintptr(len(frame))
	if inLent && !inFrame {
		t.Fatalf("payload reaches beyond its frame")
	}
}

func whole() int { return 1 << 30 }

func byteByByte() int { return 1 }

func pieces(sizes ...int) func() int {
	i := 0
	return func() int {
		i++
		return sizes[(i-1)%len(sizes)]
	}
}

// frameByFrame cuts where the frames do.
func frameByFrame(frames [][]byte) func() int {
	i := 0
	return func() int {
		i++
		return len(frames[i-1])
	}
}
