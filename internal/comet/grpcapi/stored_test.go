package grpcapi

import (
	"testing"

	"google.golang.org/grpc/codes"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/pkg/wire"
)

func TestStoredPushes(t *testing.T) {
	f := serve(t, nil)
	a := f.loops[0].Open(t, 2, `{"mid":1,"key":"a","room_id":"live://1"}`)
	b := f.loops[1].Open(t, 2, `{"mid":2,"key":"b"}`)
	stream, _ := f.lane()
	id := make([]byte, 16)
	id[0] = 7
	send(t, stream, f.next(
		&cometv1.Push{Op: 1000, Body: []byte("each"), MsgId: id, AcceptedMs: 99, Sessions: []uint64{a.Session(), b.Session()}, Stored: &cometv1.Stored{
			Places: []*cometv1.Place{{Timeline: "u:1", Epoch: 1, Seq: 11}, {Timeline: "u:2", Epoch: 3, Seq: 22}}, PlaceOf: []uint32{0, 1}, Sender: 5,
		}},
		&cometv1.Push{Op: 1000, Body: []byte("room"), MsgId: id, AcceptedMs: 99, Room: "live://1", Stored: &cometv1.Stored{
			Places: []*cometv1.Place{{Timeline: "r:live://1", Epoch: 4, Seq: 44}},
		}},
	)...)
	if got := recv(t, stream); len(got) != 2 || got[0].Delivered != 2 || got[1].Delivered != 1 {
		t.Fatalf("%v", got)
	}
	for c, want := range map[*comettest.Conn][]wire.Position{
		a: {{Seq: 11, Epoch: 1, AcceptedMS: 99, MsgID: [16]byte(id), Sender: 5}, {Seq: 44, Epoch: 4, AcceptedMS: 99, MsgID: [16]byte(id), Timeline: "r:live://1"}},
		b: {{Seq: 22, Epoch: 3, AcceptedMS: 99, MsgID: [16]byte(id), Sender: 5}},
	} {
		comettest.WaitFor(t, "the messages", func() bool { return len(c.Bodies(1000)) == len(want) })
		for _, p := range c.Packets() {
			if p.Op != 1000 {
				continue
			}
			if pos, ok := wire.ParsePosition(p.Extension); !ok || pos != want[0] {
				t.Errorf("%q at %+v, want %+v", p.Body, pos, want[0])
			}
			want = want[1:]
		}
	}
}

func TestBadStoredPushes(t *testing.T) {
	f := serve(t, nil)
	id := make([]byte, 16)
	place := []*cometv1.Place{{Timeline: "u:1", Epoch: 1, Seq: 1}}
	for name, p := range map[string]*cometv1.Push{
		"no id":             {Sessions: []uint64{1}, Stored: &cometv1.Stored{Places: place}},
		"no places":         {MsgId: id, Room: "live://1", Stored: &cometv1.Stored{}},
		"seq 0":             {MsgId: id, Room: "live://1", Stored: &cometv1.Stored{Places: []*cometv1.Place{{Timeline: "r:live://1"}}}},
		"nil place":         {MsgId: id, Room: "live://1", Stored: &cometv1.Stored{Places: []*cometv1.Place{nil}}},
		"too few place_of":  {MsgId: id, Sessions: []uint64{1, 2}, Stored: &cometv1.Stored{Places: place, PlaceOf: []uint32{0}}},
		"place_of past end": {MsgId: id, Sessions: []uint64{1}, Stored: &cometv1.Stored{Places: place, PlaceOf: []uint32{1}}},
		"long name":         {MsgId: id, Room: "live://1", Stored: &cometv1.Stored{Places: []*cometv1.Place{{Timeline: string(make([]byte, 256)), Seq: 1}}}},
	} {
		stream, _ := f.lane()
		send(t, stream, f.next(p)...)
		if code := ends(t, stream); code != codes.InvalidArgument {
			t.Errorf("%s: %s", name, code)
		}
	}
}
