package ws

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// Cases after the sections of the Autobahn testsuite: 1 framing, 2 pings and
// pongs, 3 reserved bits, 4 opcodes, 5 fragmentation, 6 UTF-8 (utf8_test.go),
// 7 close handling; then what it leaves out: lengths, masks, limits.

type readerCase struct {
	name    string
	max     int // 0 = 1 MiB
	server  bool
	deflate bool
	frames  [][]byte
	want    []string
}

func wireOf(frames ...[]byte) [][]byte { return frames }

const (
	opCont, opText, opBin   = 0x0, 0x1, 0x2
	opClose, opPing, opPong = 0x8, 0x9, 0xA
)

func readerCases() []readerCase {
	var cases []readerCase
	add := func(name string, frames [][]byte, want ...string) {
		cases = append(cases, readerCase{name: name, frames: frames, want: want})
	}
	limited := func(name string, maxMessage int, frames [][]byte, want ...string) {
		cases = append(cases, readerCase{name: name, max: maxMessage, frames: frames, want: want})
	}
	fromServer := func(name string, frames [][]byte, want ...string) {
		cases = append(cases, readerCase{name: name, server: true, frames: frames, want: want})
	}

	// 1: framing, at the borders of the length forms
	for _, n := range []int{0, 1, 15, 16, 17, 125, 126, 127, 128, 65535, 65536} {
		s := strings.Repeat("*", n)
		add("1.1 text", wireOf(cf(fin|opText, s)), text(s))
		b := strings.Repeat("\xFE", n)
		add("1.2 binary", wireOf(cf(fin|opBin, b)), binaryMsg(b))
		fromServer("1.3 from a server", wireOf(sf(fin|opBin, b)), binaryMsg(b))
	}

	// 2: pings and pongs
	long := strings.Repeat("\xFE", 125)
	add("2.1 ping", wireOf(cf(fin|opPing, "")), ping(""))
	add("2.2 ping with payload", wireOf(cf(fin|opPing, "Hello, world!")), ping("Hello, world!"))
	add("2.3 ping with bytes", wireOf(cf(fin|opPing, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff"))
	add("2.4 ping 125", wireOf(cf(fin|opPing, long)), ping(long))
	add("2.5 ping 126", wireOf(cf(fin|opPing, long+"x")), failed(1002))
	add("2.7 pong unasked", wireOf(cf(fin|opPong, ""), cf(fin|opText, "a")), pong(""), text("a"))
	add("2.8 pong with payload", wireOf(cf(fin|opPong, "unsolicited")), pong("unsolicited"))
	add("2.9 pong then ping", wireOf(cf(fin|opPong, "p"), cf(fin|opPing, "q")), pong("p"), ping("q"))
	var tenPings [][]byte
	var tenWant []string
	for i := range 10 {
		tenPings = append(tenPings, cf(fin|opPing, strings.Repeat("p", i)))
		tenWant = append(tenWant, ping(strings.Repeat("p", i)))
	}
	add("2.10 ten pings", tenPings, tenWant...)

	// 3: reserved bits, on every kind of frame and behind a good one
	for rsv := byte(1); rsv < 8; rsv++ {
		for _, op := range []byte{opText, opBin, opClose, opPing, opPong} {
			add("3 rsv", wireOf(cf(fin|opText, "ok"), cf(fin|rsv<<4|op, "")), text("ok"), failed(1002))
		}
		add("3 rsv in a continuation", wireOf(cf(opText, "a"), cf(fin|rsv<<4|opCont, "b")), failed(1002))
	}

	// 4: reserved opcodes
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		add("4 opcode", wireOf(cf(fin|op, "")), failed(1002))
		add("4 opcode with payload, behind a message", wireOf(cf(fin|opText, "ok"), cf(fin|op, "x"), cf(fin|opPing, "")), text("ok"), failed(1002))
	}

	// 5: fragmentation
	add("5.1 ping in fragments", wireOf(cf(opPing, "a"), cf(fin|opCont, "b")), failed(1002))
	add("5.2 pong in fragments", wireOf(cf(opPong, "a"), cf(fin|opCont, "b")), failed(1002))
	add("5.2 close in fragments", wireOf(cf(opClose, ""), cf(fin|opCont, "")), failed(1002))
	add("5.3 text in two", wireOf(cf(opText, "fragment1"), cf(fin|opCont, "fragment2")), text("fragment1fragment2"))
	add("5.3 binary in two", wireOf(cf(opBin, "\xff"), cf(fin|opCont, "\xfe")), binaryMsg("\xff\xfe"))
	add("5.6 ping between", wireOf(cf(opText, "f1"), cf(fin|opPing, "p"), cf(fin|opCont, "f2")), ping("p"), text("f1f2"))
	add("5.6 pong between", wireOf(cf(opText, "f1"), cf(fin|opPong, "p"), cf(fin|opCont, "f2")), pong("p"), text("f1f2"))
	add("5.9 continuation first, fin", wireOf(cf(fin|opCont, "x"), cf(fin|opText, "y")), failed(1002))
	add("5.12 continuation first", wireOf(cf(opCont, "x"), cf(fin|opText, "y")), failed(1002))
	add("5.15 continuation behind the end", wireOf(cf(opText, "a"), cf(fin|opCont, "b"), cf(opCont, "c"), cf(fin|opText, "d")), text("ab"), failed(1002))
	add("5.16 continuation, text, continuation", wireOf(cf(opCont, "a"), cf(opText, "b"), cf(fin|opCont, "c")), failed(1002))
	add("5.18 text inside text", wireOf(cf(opText, "a"), cf(fin|opText, "b")), failed(1002))
	add("5.18 binary inside text", wireOf(cf(opText, "a"), cf(opBin, "b")), failed(1002))
	add("5.19 five fragments and pings", wireOf(
		cf(opText, "f1"), cf(opCont, "f2"), cf(fin|opPing, "1"), cf(opCont, "f3"), cf(opCont, "f4"), cf(fin|opPing, "2"), cf(fin|opCont, "f5")),
		ping("1"), ping("2"), text("f1f2f3f4f5"))
	add("5.21 one message after the other", wireOf(
		cf(opBin, "a"), cf(fin|opCont, "b"), cf(fin|opText, "c"), cf(opText, "d"), cf(fin|opCont, "e")),
		binaryMsg("ab"), text("c"), text("de"))
	add("5.22 empty fragments", wireOf(cf(opText, ""), cf(opCont, ""), cf(fin|opCont, "")), text(""))
	add("5.23 empty around", wireOf(cf(opText, ""), cf(opCont, "middle"), cf(fin|opCont, "")), text("middle"))
	add("5.24 unfinished", wireOf(cf(opText, "a"), cf(opCont, "b")))
	fromServer("5.25 fragments of a server", wireOf(sf(opText, "a"), sf(fin|opPing, "p"), sf(fin|opCont, "b")), ping("p"), text("ab"))

	// 7: close handling
	add("7.1.1 message, close", wireOf(cf(fin|opText, "Hello World!"), cf(fin|opClose, closeBody(1000, ""))), text("Hello World!"), closed(1000, ""))
	add("7.1.2 two closes", wireOf(cf(fin|opClose, closeBody(1000, "")), cf(fin|opClose, closeBody(1001, ""))), closed(1000, ""))
	add("7.1.3 ping after close", wireOf(cf(fin|opClose, ""), cf(fin|opPing, "")), closed(1005, ""))
	add("7.1.4 text after close", wireOf(cf(fin|opClose, ""), cf(fin|opText, "late")), closed(1005, ""))
	add("7.1.5 close inside a message", wireOf(cf(opText, "f1"), cf(fin|opClose, ""), cf(fin|opCont, "f2")), closed(1005, ""))
	add("7.1.6 garbage after close", wireOf(cf(fin|opClose, ""), []byte{0xFF, 0xFF, 0xFF}), closed(1005, ""))
	add("7.3.1 no code", wireOf(cf(fin|opClose, "")), closed(1005, ""))
	add("7.3.2 half a code", wireOf(cf(fin|opClose, "\x03")), failed(1002))
	add("7.3.3 code", wireOf(cf(fin|opClose, closeBody(1000, ""))), closed(1000, ""))
	add("7.3.4 code and reason", wireOf(cf(fin|opClose, closeBody(1000, "Hello World!"))), closed(1000, "Hello World!"))
	add("7.3.5 longest reason", wireOf(cf(fin|opClose, closeBody(1000, strings.Repeat("*", 123)))), closed(1000, strings.Repeat("*", 123)))
	add("7.3.6 reason too long", wireOf(cf(fin|opClose, closeBody(1000, strings.Repeat("*", 124)))), failed(1002))
	add("7.5.1 reason not UTF-8", wireOf(cf(fin|opClose, closeBody(1000, "\xce\xba\xed\xa0\x80"))), failed(1007))
	add("7.5.2 reason ends in a character", wireOf(cf(fin|opClose, closeBody(1000, "\xce"))), failed(1007))
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add("7.7 good code", wireOf(cf(fin|opClose, closeBody(code, "r"))), closed(code, "r"))
	}
	// dependencies.md: ws.CheckCloseFrameData of gobwas lets codes from 5000 pass.
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add("7.9 bad code", wireOf(cf(fin|opClose, closeBody(code, "r"))), failed(1002))
	}
	fromServer("7.10 close of a server", wireOf(sf(fin|opClose, closeBody(1001, "away"))), closed(1001, "away"))

	// masks
	add("8.1 unmasked client frame", wireOf(cf(fin|opText, "a"), sf(fin|opText, "b")), text("a"), failed(1002))
	add("8.2 unmasked empty ping", wireOf(sf(fin|opPing, "")), failed(1002))
	fromServer("8.3 masked server frame", wireOf(cf(fin|opText, "a")), failed(1002))

	// length forms; nothing of the payload is there
	add("9.1 16 bits for 125", wireOf([]byte{fin | opBin, 0x80 | 126, 0, 125}), failed(1002))
	add("9.2 16 bits for 0", wireOf([]byte{fin | opBin, 0x80 | 126, 0, 0}), failed(1002))
	add("9.3 64 bits for 65535", wireOf([]byte{fin | opBin, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}), failed(1002))
	add("9.4 64 bits for 5", wireOf([]byte{fin | opBin, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5}), failed(1002))
	add("9.5 high bit", wireOf([]byte{fin | opBin, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0}), failed(1002))
	add("9.6 all ones", wireOf([]byte{fin | opBin, 0x80 | 127, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}), failed(1002))
	add("9.7 ping with 16 bits", wireOf([]byte{fin | opPing, 0x80 | 126, 0, 200}), failed(1002))
	add("9.8 close with 64 bits", wireOf([]byte{fin | opClose, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0}), failed(1002))

	// limits; judged from the header
	limited("10.1 at the limit", 10, wireOf(cf(fin|opText, "0123456789")), text("0123456789"))
	limited("10.2 over the limit, header only", 10, wireOf([]byte{fin | opText, 0x80 | 11}), failed(1009))
	limited("10.3 64-bit length, header only", 1<<20, wireOf([]byte{fin | opBin, 0x80 | 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}), failed(1009))
	limited("10.4 fragments at the limit", 10, wireOf(cf(opText, "01234"), cf(fin|opCont, "56789")), text("0123456789"))
	limited("10.5 fragments over the limit, header only", 10, wireOf(cf(opText, "01234"), []byte{fin | opCont, 0x80 | 6}), failed(1009))
	limited("10.6 control frames have their own limit", 1, wireOf(cf(fin|opPing, long), cf(fin|opClose, closeBody(1000, "bye"))), ping(long), closed(1000, "bye"))
	limited("10.7 huge fragment behind a small one", math.MaxInt, wireOf(cf(opBin, "a"), []byte{opCont, 0x80 | 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}), failed(1009))

	repeat := func(n int, payload string) [][]byte {
		frames := wireOf(cf(opBin, payload))
		for range n - 2 {
			frames = append(frames, cf(opCont, payload))
		}
		return append(frames, cf(fin|opCont, payload))
	}
	add("10.8 most fragments", repeat(MaxFragments, "x"), binaryMsg(strings.Repeat("x", MaxFragments)))
	add("10.9 one fragment more", repeat(MaxFragments+1, "x"), failed(1009))
	add("10.10 most empty fragments", repeat(MaxEmptyFragments, ""), binaryMsg(""))
	add("10.11 one empty fragment more", repeat(MaxEmptyFragments+1, ""), failed(1009))
	add("10.12 the count starts anew", append(repeat(MaxEmptyFragments, ""), repeat(MaxEmptyFragments, "")...), binaryMsg(""), binaryMsg(""))
	return cases
}

func (c readerCase) reader() *Reader {
	maxMessage := c.max
	if maxMessage == 0 {
		maxMessage = 1 << 20
	}
	var r Reader
	if c.server {
		r.InitClient(maxMessage)
	} else {
		r.Init(maxMessage)
	}
	if c.deflate {
		r.AllowDeflate()
	}
	return &r
}

func (c readerCase) check(t *testing.T) {
	t.Helper()
	wire := bytes.Join(c.frames, nil)
	compare := func(how string, piece func() int) {
		t.Helper()
		if got := deliver(t, c.reader(), bytes.Clone(wire), piece); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", how, got, c.want)
		}
	}
	compare("glued", whole)
	compare("frame by frame", frameByFrame(c.frames))
	compare("in pieces", pieces(1, 2, 3, 997))
	if len(wire) <= 16<<10 { // every piece is copied with all that is unread
		compare("byte by byte", byteByByte)
	}
}

func TestReader(t *testing.T) {
	for _, c := range append(readerCases(), deflateCases()...) {
		t.Run(c.name, c.check)
	}
}

// The samples of RFC 6455, section 5.7, as they stand there.
func TestReaderSamples(t *testing.T) {
	for _, c := range []struct {
		name   string
		server bool
		wire   string
		want   string
	}{
		{"unmasked text", true, "\x81\x05\x48\x65\x6c\x6c\x6f", text("Hello")},
		{"masked text", false, "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", text("Hello")},
		{"fragmented text", true, "\x01\x03\x48\x65\x6c\x80\x02\x6c\x6f", text("Hello")},
		{"ping", true, "\x89\x05\x48\x65\x6c\x6c\x6f", ping("Hello")},
		{"masked pong", false, "\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", pong("Hello")},
		{"256 bytes", true, "\x82\x7E\x01\x00" + strings.Repeat("a", 256), binaryMsg(strings.Repeat("a", 256))},
		{"64 KiB", true, "\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("a", 65536), binaryMsg(strings.Repeat("a", 65536))},
	} {
		rc := readerCase{server: c.server}
		if got := deliver(t, rc.reader(), []byte(c.wire), whole); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// goim's first frame on WebSocket, goim-compat.md 1.1: the auth packet in one
// binary message.
func TestReaderGoimAuth(t *testing.T) {
	packet := "\x00\x00\x00\x53\x00\x10\x00\x01\x00\x00\x00\x07\x00\x00\x00\x01" +
		`{"mid":1,"room_id":"live://1000","platform":"web","accepts":[1000]}`
	for _, op := range []byte{opBin, opText} {
		readerCase{frames: wireOf(cf(fin|op, packet)), want: []string{
			map[byte]string{opBin: binaryMsg(packet), opText: text(packet)}[op],
		}}.check(t)
	}
}

func TestReaderHoldsNothingWhileIdle(t *testing.T) {
	if size := unsafe.Sizeof(Reader{}); size != 16 && unsafe.Sizeof(uintptr(0)) == 8 {
		t.Errorf("a Reader has %d bytes", size)
	}
	r := readerCase{}.reader()
	deliver(t, r, cf(fin|opText, "whole"), whole)
	if r.fragments != nil {
		t.Error("a whole message left a buffer")
	}
	deliver(t, r, cf(opText, "begin"), whole)
	if r.fragments == nil {
		t.Error("no buffer inside a fragmented message")
	}
	deliver(t, r, cf(fin|opCont, "end"), whole)
	if r.fragments != nil {
		t.Error("a fragmented message left its buffer")
	}
	deliver(t, r, append(cf(opText, "begin"), cf(fin|opClose, "")...), whole)
	if r.fragments != nil {
		t.Error("a close left the buffer of the message it cut")
	}
}

// A peer that announces much and sends little costs nothing.
func TestReaderSpendsNothingOnAnnouncements(t *testing.T) {
	r := readerCase{max: 1 << 30}.reader()
	announce := append([]byte{fin | opBin, 0x80 | 127, 0, 0, 0, 0, 0x3F, 0, 0, 0}, testMask[:]...)
	if allocs := testing.AllocsPerRun(100, func() {
		if _, n, err := r.Next(announce); n != 0 || err != nil {
			t.Fatalf("got n=%d, %v", n, err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestReaderStaysFailed(t *testing.T) {
	r := readerCase{}.reader()
	if _, _, err := r.Next([]byte{fin | 3}); err == nil {
		t.Fatal("a reserved opcode passed")
	}
	_, n, err := r.Next(cf(fin|opText, "good"))
	var pe *ProtocolError
	if n != 0 || !errors.As(err, &pe) || pe.Code != CodeProtocolError {
		t.Errorf("after an error: n=%d, err=%v", n, err)
	}
}

func TestReaderSetMaxMessage(t *testing.T) {
	r := readerCase{max: 4}.reader()
	r.SetMaxMessage(8)
	if got := deliver(t, r, cf(fin|opText, "12345678"), whole); !slices.Equal(got, []string{text("12345678")}) {
		t.Errorf("after raising: %q", got)
	}
	deliver(t, r, cf(opText, "12345"), whole)
	r.SetMaxMessage(4)
	if got := deliver(t, r, cf(fin|opCont, ""), whole); !slices.Equal(got, []string{failed(1009)}) {
		t.Errorf("after lowering under what is there: %q", got)
	}

	var zero Reader
	if got := deliver(t, &zero, append(cf(fin|opText, ""), cf(fin|opText, "x")...), whole); !slices.Equal(got, []string{text(""), failed(1009)}) {
		t.Errorf("zero value: %q", got)
	}
	r = readerCase{max: -1}.reader()
	if got := deliver(t, r, cf(fin|opText, "x"), whole); !slices.Equal(got, []string{failed(1009)}) {
		t.Errorf("negative limit: %q", got)
	}
}
