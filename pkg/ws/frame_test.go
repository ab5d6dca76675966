package ws

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var frameSizes = []int{0, 1, 15, 16, 17, 124, 125, 126, 127, 255, 256, 65534, 65535, 65536, 70001}

func TestAppendHeader(t *testing.T) {
	for _, c := range []struct {
		op   Opcode
		fin  bool
		n    int
		want string
	}{
		{OpText, true, 5, "8105"},
		{OpText, false, 3, "0103"},
		{OpContinuation, true, 2, "8002"},
		{OpContinuation, false, 0, "0000"},
		{OpBinary, true, 53, "8235"}, // goim-compat.md 1.1
		{OpBinary, true, 125, "827d"},
		{OpBinary, true, 126, "827e007e"},
		{OpBinary, true, 256, "827e0100"},
		{OpBinary, true, 65535, "827effff"},
		{OpBinary, true, 65536, "827f0000000000010000"},
		{OpPing, true, 0, "8900"},
		{OpPong, true, 5, "8a05"},
		{OpClose, true, 2, "8802"},
	} {
		got := AppendHeader([]byte("x"), c.op, c.fin, c.n)
		if fmt.Sprintf("%x", got[1:]) != c.want || got[0] != 'x' {
			t.Errorf("op %d, fin %v, %d bytes: %x, want x and %s", c.op, c.fin, c.n, got, c.want)
		}
		if len(got)-1 > MaxHeader {
			t.Errorf("%d bytes of header", len(got)-1)
		}
	}
}

func TestAppendFrame(t *testing.T) {
	for _, n := range frameSizes {
		payload := randomBytes(n)
		before := bytes.Clone(payload)
		if got := AppendFrame([]byte("x"), OpBinary, payload); !bytes.Equal(got, append([]byte("x"), sf(fin|opBin, string(payload))...)) {
			t.Errorf("%d bytes, unmasked: differs", n)
		}
		got := AppendMaskedFrame([]byte("x"), OpBinary, payload, testMask)
		if !bytes.Equal(got, append([]byte("x"), cf(fin|opBin, string(payload))...)) {
			t.Errorf("%d bytes, masked: differs", n)
		}
		if len(got)-1-n > MaxMaskedHeader {
			t.Errorf("%d bytes of header", len(got)-1-n)
		}
		if !bytes.Equal(payload, before) {
			t.Errorf("%d bytes: the payload was changed", n)
		}
	}
}

// The vectorised cipher, seen through the Reader, against a naive one: all
// alignments and lengths around its block sizes.
func TestReaderUnmasks(t *testing.T) {
	for offset := range 33 {
		for _, n := range slices.Concat(upTo(200), []int{255, 256, 257, 1023, 4096, 4099}) {
			mask := [4]byte(randomBytes(4))
			payload := randomBytes(n)
			wire := append(lengthOf(fin|opBin, 0x80, n), mask[:]...)
			for i, b := range payload {
				wire = append(wire, b^mask[i%4])
			}
			buf := append(bytes.Repeat([]byte{canary}, offset), wire...)
			r := readerCase{}.reader()
			ev, used, err := r.Next(buf[offset:])
			if err != nil || used != len(wire) || !bytes.Equal(ev.Payload, payload) {
				t.Fatalf("offset %d, %d bytes: consumed %d, %v, or another payload", offset, n, used, err)
			}
		}
	}
}

func TestAppendClose(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   uint16
		reason string
		want   string
	}{
		{"no reason", 1000, "", closeBody(1000, "")},
		{"reason", 3001, "draining", closeBody(3001, "draining")},
		{"longest reason", 1001, strings.Repeat("r", 123), closeBody(1001, strings.Repeat("r", 123))},
		{"cut between bytes", 1001, strings.Repeat("r", 124), closeBody(1001, strings.Repeat("r", 123))},
		{"cut before a character of 2", 1001, strings.Repeat("r", 122) + "\u00e9", closeBody(1001, strings.Repeat("r", 122))},
		{"cut before a character of 3", 1001, strings.Repeat("\u20ac", 42), closeBody(1001, strings.Repeat("\u20ac", 41))},
		{"cut before a character of 4", 1001, strings.Repeat("\U0001F600", 31), closeBody(1001, strings.Repeat("\U0001F600", 30))},
		{"a character of 4 that just fits", 1001, "rrr" + strings.Repeat("\U0001F600", 30), closeBody(1001, "rrr"+strings.Repeat("\U0001F600", 30))},
		{"reason not UTF-8", 1001, "a\xffb", closeBody(1001, "a\uFFFDb")},
		{"all of it not UTF-8", 1001, strings.Repeat("a\xff", 100), closeBody(1001, strings.Repeat("a\uFFFD", 30)+"a")},
		{"no status", CodeNoStatus, "gone", ""},
		{"zero", 0, "gone", ""},
		{"abnormal", 1006, "gone", ""},
		{"TLS", 1015, "gone", ""},
		{"not defined", 2999, "gone", ""},
		{"out of range", 5000, "gone", ""},
	} {
		got := AppendClose([]byte("x"), c.code, c.reason)
		want := append([]byte("x"), sf(fin|opClose, c.want)...)
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, want)
		}
	}
}

// Whatever AppendClose is given, the other side can read it; and a Close that
// was read can be echoed.
func TestAppendCloseIsReadable(t *testing.T) {
	for i := range 2000 {
		reason := string(randomBytes(rand.IntN(200)))
		if i%2 == 0 {
			reason = strings.ToValidUTF8(reason, "\u20ac")
		}
		code := uint16(i * 33)
		wire := AppendClose(nil, code, reason)
		r := readerCase{server: true}.reader()
		ev, n, err := r.Next(wire)
		if err != nil || n != len(wire) || ev.Kind != KindClose || !utf8.ValidString(ev.Reason) {
			t.Fatalf("code %d, reason %q: %+v, %d, %v", code, reason, ev, n, err)
		}
		if ev.Code != code && ev.Code != CodeNoStatus {
			t.Fatalf("code %d became %d", code, ev.Code)
		}
		if echo := AppendClose(nil, ev.Code, ev.Reason); !bytes.Equal(echo, wire) {
			t.Fatalf("echo % x of % x", echo, wire)
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}
