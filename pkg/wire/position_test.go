package wire

import (
	"bytes"
	"strings"
	"testing"
)

func TestPositionGolden(t *testing.T) {
	id := [16]byte{0: 0xa0, 15: 0xaf}
	for _, tc := range []struct {
		name string
		p    Position
		want string
	}{
		{"inbox", Position{Seq: 7, Epoch: 1, AcceptedMS: 1000, MsgID: id},
			"00000037 0035 0002 000003e8 00000000 0000000000000007 00000001 00000000000003e8 a00000000000000000000000000000af 00 6869"},
		{"room, from a user", Position{Seq: 7, Epoch: 1, AcceptedMS: 1000, MsgID: id, Timeline: "r:a://b", Sender: 42},
			"00000046 0044 0002 000003e8 00000000 0000000000000007 00000001 00000000000003e8 a00000000000000000000000000000af 07 723a613a2f2f62 000000000000002a 6869"},
	} {
		got := AppendPositioned(nil, Header{Ver: V2, Op: 1000}, &tc.p, []byte("hi"))
		if want := unhex(t, tc.want); !bytes.Equal(got, want) {
			t.Errorf("%s: %x\nwant %x", tc.name, got, want)
		}
		packet, n, err := Decoder{Extensions: true}.Next(got)
		if err != nil || n != len(got) || string(packet.Body) != "hi" {
			t.Fatalf("%s: %+v, %d, %v", tc.name, packet, n, err)
		}
		if p, ok := ParsePosition(packet.Extension); !ok || p != tc.p {
			t.Errorf("%s: read as %+v, %v", tc.name, p, ok)
		}
		// What a later version appends is skipped.
		if p, ok := ParsePosition(append(bytes.Clone(packet.Extension), 1, 2, 3)); !ok || p != tc.p {
			t.Errorf("%s: with more behind it %+v, %v", tc.name, p, ok)
		}
	}
	long := Position{Seq: 1, Timeline: strings.Repeat("x", MaxTimelineBytes), Sender: -1}
	packet, _, err := Decoder{MaxBody: -1, Extensions: true}.Next(AppendPositioned(nil, Header{}, &long, nil))
	if p, ok := ParsePosition(packet.Extension); err != nil || !ok || p != long {
		t.Errorf("the longest name: %+v, %v, %v", p, ok, err)
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add(AppendPositioned(nil, Header{}, &Position{Seq: 7, Timeline: "r:a://b", Sender: 42}, nil)[HeaderLen:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, ext []byte) {
		p, ok := ParsePosition(ext[:len(ext):len(ext)])
		if !ok {
			return
		}
		again := AppendPositioned(nil, Header{}, &p, nil)[HeaderLen:]
		n := min(len(again), len(ext))
		if n < positionLen || !bytes.Equal(again[:n], ext[:n]) {
			t.Fatalf("%x is read as %+v, which is %x", ext, p, again)
		}
	})
}
