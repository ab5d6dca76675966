package ws

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// nextAgain first puts the masked bytes back, since Next unmasks in place.
func nextAgain(tb testing.TB, r *Reader, buf, wire []byte) {
	copy(buf, wire)
	for rest := buf; len(rest) > 0; {
		_, n, err := r.Next(rest)
		if n == 0 || err != nil {
			tb.Fatalf("consumed %d, %v", n, err)
		}
		rest = rest[n:]
	}
}

// Allocations on the paths that every message takes.
func TestAllocations(t *testing.T) {
	payload := make([]byte, 53)
	dst := make([]byte, 0, 1024)
	head := []byte(sampleHead)
	h := sampleHandshake()
	r := readerCase{}.reader()
	small := cf(fin|opBin, string(payload))
	control := append(cf(fin|opPing, "p"), cf(fin|opPong, "")...)
	utf8Text := cf(fin|opText, strings.Repeat("\u20ac", 40))
	buf := make([]byte, 1024)
	packed := deflateAll([]byte(chatMessages(4)))
	var inflater Inflater

	for _, c := range []struct {
		name string
		most float64
		do   func()
	}{
		{"Next, small masked binary", 0, func() { nextAgain(t, r, buf[:len(small)], small) }},
		{"Next, text", 0, func() { nextAgain(t, r, buf[:len(utf8Text)], utf8Text) }},
		{"Next, ping and pong", 0, func() { nextAgain(t, r, buf[:len(control)], control) }},
		{"Next, frame not complete", 0, func() { _, _, _ = r.Next(small[:20]) }},
		{"AppendHeader", 0, func() { dst = AppendHeader(dst[:0], OpBinary, true, 70_000) }},
		{"AppendFrame", 0, func() { dst = AppendFrame(dst[:0], OpPong, payload) }},
		{"AppendMaskedFrame", 0, func() { dst = AppendMaskedFrame(dst[:0], OpBinary, payload, testMask) }},
		{"AppendClose", 0, func() { dst = AppendClose(dst[:0], 3001, "draining") }},
		{"Inflater.Message", 0, func() { _, _ = inflater.Message(Event{Deflated: true, Op: OpBinary, Payload: packed}, 4096) }},
		{"AppendUpgrade", 0, func() { dst = AppendUpgrade(dst[:0], h) }},
		// Path, Host and Key are copies.
		{"ParseHandshake", 3, func() { _, _, _ = ParseHandshake(head, 8192) }},
		{"ParseHandshake, head not complete", 0, func() { _, _, _ = ParseHandshake(head[:100], 8192) }},
	} {
		if got := testing.AllocsPerRun(200, c.do); got > c.most {
			t.Errorf("%s: %v allocations, at most %v expected", c.name, got, c.most)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for _, size := range []int{0, 53, 512, 4112, 65536} {
		b.Run(fmt.Sprintf("binary/bytes=%d", size), func(b *testing.B) {
			wire := cf(fin|opBin, string(make([]byte, size)))
			benchmarkNext(b, wire)
		})
	}
	b.Run("text/bytes=512", func(b *testing.B) {
		benchmarkNext(b, cf(fin|opText, strings.Repeat("\u20ac ", 128)))
	})
	b.Run("fragments=4/bytes=512", func(b *testing.B) {
		part := string(make([]byte, 128))
		benchmarkNext(b, bytes.Join(wireOf(cf(opBin, part), cf(opCont, part), cf(opCont, part), cf(fin|opCont, part)), nil))
	})
}

func benchmarkNext(b *testing.B, wire []byte) {
	r := readerCase{}.reader()
	buf := make([]byte, len(wire))
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		nextAgain(b, r, buf, wire)
	}
}

func BenchmarkDeflate(b *testing.B) {
	for _, n := range []int{1, 4, 20, 150} {
		in := []byte(chatMessages(n))
		dst := make([]byte, 0, 2*len(in))
		b.Run(fmt.Sprintf("plain/messages=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendFrame(dst[:0], OpBinary, in)
			}
		})
		b.Run(fmt.Sprintf("deflate/messages=%d", n), func(b *testing.B) {
			var d Deflater
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = d.AppendFrame(dst[:0], OpBinary, in)
			}
			b.ReportMetric(float64(len(dst))/float64(len(in)), "ratio")
		})
		b.Run(fmt.Sprintf("inflate/messages=%d", n), func(b *testing.B) {
			var i Inflater
			ev := Event{Op: OpBinary, Deflated: true, Payload: deflateAll(in)}
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := i.Message(ev, len(in)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendHeader(b *testing.B) {
	dst := make([]byte, 0, MaxHeader)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendHeader(dst[:0], OpBinary, true, 53)
	}
}

func BenchmarkParseHandshake(b *testing.B) {
	head := []byte(plus("Origin: https://a.example\r\nCookie: session=0123456789abcdef\r\nUser-Agent: Mozilla/5.0\r\nAccept-Encoding: gzip"))
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := ParseHandshake(head, 8192); n == 0 || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendUpgrade(b *testing.B) {
	h := sampleHandshake()
	dst := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendUpgrade(dst[:0], h)
	}
}
