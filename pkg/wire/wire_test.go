package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are goim's, taken from an unmodified goim at 1800484.
func TestGoimGoldenFrames(t *testing.T) {
	auth := `{"mid":1,"room_id":"live://1000","platform":"web","accepts":[1000]}`
	for _, tc := range []struct {
		name  string
		bytes []byte
		want  []Packet
	}{
		{"auth request", append(unhex(t, "00000053 0010 0001 00000007 00000001"), auth...),
			[]Packet{{Header: Header{1, OpAuth, 1}, Body: []byte(auth)}}},
		{"auth reply", unhex(t, "00000010 0010 0001 00000008 00000001"),
			[]Packet{{Header: Header{1, OpAuthReply, 1}, Body: []byte{}}}},
		{"heartbeat reply", unhex(t, "00000014 0010 0001 00000003 00000005 00000007"),
			[]Packet{{Header: Header{1, OpHeartbeatReply, 5}, Body: []byte{0, 0, 0, 7}}}},
		{"room push of two", unhex(t, "00000012 0010 0001 000003e8 00000000 6869 00000013 0010 0001 000003e9 00000000 796f21"),
			[]Packet{{Header: Header{1, 1000, 0}, Body: []byte("hi")}, {Header: Header{1, 1001, 0}, Body: []byte("yo!")}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var encoded []byte
			for _, p := range tc.want {
				encoded = AppendPacket(encoded, p.Header, p.Body)
			}
			if !bytes.Equal(encoded, tc.bytes) {
				t.Errorf("encoded %x\nwant    %x", encoded, tc.bytes)
			}
			rest := tc.bytes
			for _, want := range tc.want {
				p, n, err := Decoder{}.Next(rest)
				if err != nil || n != Size(want.Body) || p.Header != want.Header || !bytes.Equal(p.Body, want.Body) {
					t.Fatalf("decoded %+v, %d, %v; want %+v", p, n, err, want)
				}
				rest = rest[n:]
			}
			if len(rest) != 0 {
				t.Errorf("%d bytes left", len(rest))
			}
		})
	}
}

func TestDecoderLimits(t *testing.T) {
	for _, tc := range []struct {
		name  string
		d     Decoder
		in    string
		field string
	}{
		{"packLen -2^31", Decoder{}, "80000000", "packLen"},
		{"packLen -1", Decoder{MaxBody: -1}, "ffffffff", "packLen"},
		{"packLen 15", Decoder{}, "0000000f", "packLen"},
		{"packLen 4113 is one over goim's limit", Decoder{}, "00001011", "packLen"},
		{"headerLen 15", Decoder{}, "00000010 000f", "headerLen"},
		{"headerLen 17 in version 1", Decoder{}, "00000020 0011", "headerLen"},
		{"headerLen -1 in version 2", Decoder{Extensions: true}, "00000020 ffff", "headerLen"},
		{"headerLen past the packet", Decoder{Extensions: true}, "00000020 0021", "headerLen"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := append(unhex(t, tc.in), make([]byte, 64)...)
			_, n, err := tc.d.Next(in)
			var we *Error
			if !errors.As(err, &we) || we.Field != tc.field || n != 0 {
				t.Fatalf("n %d, err %v; want an error about %s", n, err, tc.field)
			}
			if !strings.Contains(err.Error(), tc.field) || !strings.Contains(err.Error(), "allowed") {
				t.Errorf("the message %q does not say what is allowed", err)
			}
		})
	}
	for _, tc := range []struct {
		d  Decoder
		in string
	}{
		{Decoder{}, "00001010 0010 0001 00000004 00000000"},                 // 4112, the largest of goim
		{Decoder{MaxBody: -1}, "7fffffff 0010 0001 00000004 00000000"},      // no limit
		{Decoder{MaxBody: MaxBodyV2}, "00010010 0010 0002 00000004 000000"}, // the largest of version 2
	} {
		if _, n, err := tc.d.Next(unhex(t, tc.in)); n != 0 || err != nil {
			t.Errorf("%s: n %d, err %v; want to wait for more", tc.in, n, err)
		}
	}
}

func TestDecoderSkipsExtension(t *testing.T) {
	in := unhex(t, "00000016 0012 0002 000003e8 00000000 aabb 01020304")
	p, n, err := Decoder{Extensions: true}.Next(in)
	if err != nil || n != len(in) || !bytes.Equal(p.Extension, []byte{0xaa, 0xbb}) || !bytes.Equal(p.Body, []byte{1, 2, 3, 4}) {
		t.Fatalf("%+v, %d, %v", p, n, err)
	}
}

// Symptom: goim answers a 16-byte message that claims 4,112 bytes with bytes
// of other connections, or dies. Cause: the body was sliced by packLen without
// a look at what is there (goim-compat C1, C2; F-003.21).
func TestDecoderNeverReadsPastTheInput(t *testing.T) {
	pool := bytes.Repeat([]byte{0xEE}, 8192)
	copy(pool, unhex(t, "00001010 0010 0001 0000000c 00000000"))
	if p, n, err := (Decoder{}).Next(pool[:16]); n != 0 || err != nil || p.Body != nil {
		t.Fatalf("n %d, err %v, %d bytes of body from 16 bytes of input", n, err, len(p.Body))
	}
	p, _, _ := Decoder{}.Next(pool[:4112])
	if cap(p.Body) != 4096 {
		t.Errorf("the body's capacity %d reaches past the packet", cap(p.Body))
	}
}

func TestParseOps(t *testing.T) {
	for in, want := range map[string][]Op{
		"1000": {1000}, "1000,1001": {1000, 1001}, "-5,0": {-5, 0},
	} {
		if got, err := ParseOps([]byte(in)); err != nil || !slices.Equal(got, want) {
			t.Errorf("ParseOps(%q) = %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ",", "1000,", "1000, 1001", "x", "2147483648", strings.Repeat("1,", MaxOps) + "1"} {
		if got, err := ParseOps([]byte(in)); err == nil {
			t.Errorf("ParseOps(%.20q) = %d ops, want an error", in, len(got))
		}
	}
}

// FuzzDecoderChunked feeds a stream whole and in pieces: the packets must be
// the same, and nothing may come from beyond the input.
func FuzzDecoderChunked(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x12\x00\x10\x00\x01\x00\x00\x03\xe8\x00\x00\x00\x00hi"), uint8(3), false)
	f.Add([]byte("\x00\x00\x10\x10\x00\x10\x00\x01\x00\x00\x00\x0c\x00\x00\x00\x00"), uint8(1), false)
	f.Add([]byte("\x00\x00\x00\x16\x00\x12\x00\x02\x00\x00\x03\xe8\x00\x00\x00\x00\xaa\xbb\x01\x02\x03\x04"), uint8(7), true)
	f.Add([]byte("\x80\x00\x00\x00"), uint8(2), false)
	f.Fuzz(func(t *testing.T, stream []byte, chunk uint8, extensions bool) {
		d := Decoder{Extensions: extensions}
		whole, wholeErr := decodeAll(t, d, stream)
		size := int(chunk) + 1
		var pieces []Packet
		var piecesErr error
		var held []byte
		for rest := stream; len(rest) > 0 && piecesErr == nil; {
			n := min(size, len(rest))
			held = append(held, rest[:n]...)
			rest = rest[n:]
			for {
				p, took, err := d.Next(held[:len(held):len(held)])
				if err != nil || took == 0 {
					piecesErr = err
					break
				}
				pieces = append(pieces, p)
				held = held[took:]
			}
		}
		if (wholeErr == nil) != (piecesErr == nil) || len(whole) != len(pieces) {
			t.Fatalf("whole: %d packets, %v; in pieces of %d: %d packets, %v", len(whole), wholeErr, size, len(pieces), piecesErr)
		}
		for i := range whole {
			if whole[i].Header != pieces[i].Header || !bytes.Equal(whole[i].Body, pieces[i].Body) {
				t.Fatalf("packet %d differs", i)
			}
		}
	})
}

func decodeAll(t *testing.T, d Decoder, stream []byte) ([]Packet, error) {
	var packets []Packet
	for len(stream) > 0 {
		p, n, err := d.Next(stream[:len(stream):len(stream)])
		if err != nil || n == 0 {
			return packets, err
		}
		if n < HeaderLen || HeaderLen+len(p.Extension)+len(p.Body) != n || n > len(stream) {
			t.Fatalf("took %d of %d bytes for %d+%d", n, len(stream), len(p.Extension), len(p.Body))
		}
		packets = append(packets, p)
		stream = stream[n:]
	}
	return packets, nil
}

func FuzzParseOps(f *testing.F) {
	f.Add([]byte("1000,1001"))
	f.Add([]byte(",,"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if ops, err := ParseOps(body); err == nil && (len(ops) == 0 || len(ops) > MaxOps) {
			t.Fatalf("%d ops without an error", len(ops))
		}
	})
}

func TestHotPathAllocates0(t *testing.T) {
	buf := make([]byte, 0, 64)
	body := []byte("hello")
	in := AppendPacket(nil, Header{V1, OpHeartbeat, 1}, body)
	if n := testing.AllocsPerRun(100, func() {
		buf = AppendPacket(buf[:0], Header{V1, 1000, 0}, body)
		if _, took, _ := (Decoder{}).Next(in); took == 0 {
			t.Fatal("not decoded")
		}
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

func BenchmarkDecoder(b *testing.B) {
	in := AppendPacket(nil, Header{V1, 1000, 0}, []byte("twelve bytes"))
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = Decoder{}.Next(in)
	}
}

func BenchmarkAppendPacket(b *testing.B) {
	buf := make([]byte, 0, 64)
	body := []byte("twelve bytes")
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendPacket(buf[:0], Header{V1, 1000, 0}, body)
	}
}
