package grpcapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/pkg/wire"
)

// join is the body of a request for rooms from to to-1.
func join(t *testing.T, from, to int) string {
	t.Helper()
	var req struct {
		Rooms []string `json:"rooms"`
	}
	for i := from; i < to; i++ {
		req.Rooms = append(req.Rooms, fmt.Sprintf("live://%d", i))
	}
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A snapshot of any size comes in updates of a bounded size, and so do
// changes.
func TestRoomsSnapshotAndChanges(t *testing.T) {
	const rooms, perUpdate = 9000, 4096
	f := serve(t, func(c *comet.Config) { c.MaxRooms = 10_000 })
	for i := range 3 {
		a := f.loops[i%2].Open(t, 2, fmt.Sprintf(`{"key":"a%d"}`, i))
		a.Send(2, wire.OpJoin, 2, join(t, i*rooms/3, (i+1)*rooms/3))
	}
	stream, _ := f.rooms("job-1")
	known := map[string]bool{}
	apply := func(u *cometv1.RoomsUpdate) {
		if len(u.Added)+len(u.Removed) > perUpdate {
			t.Errorf("an update of %d rooms", len(u.Added)+len(u.Removed))
		}
		for _, room := range u.Removed {
			delete(known, room)
		}
		for _, room := range u.Added {
			known[room] = true
		}
	}
	for parts := 1; ; parts++ {
		u := update(t, stream)
		if apply(u); !u.Snapshot {
			t.Fatalf("a change inside the snapshot: %v", u)
		}
		if u.SnapshotEnd {
			if parts != 3 || len(known) != rooms {
				t.Errorf("%d rooms in %d updates", len(known), parts)
			}
			break
		}
	}
	b := f.loops[1].Open(t, 2, `{"key":"b"}`)
	b.Send(2, wire.OpJoin, 2, join(t, rooms-1000, rooms+5000)) // 1000 of them are there
	last := uint64(0)
	for len(known) < rooms+5000 {
		u := update(t, stream)
		if apply(u); u.Snapshot || u.Version < last {
			t.Fatalf("change of version %d after %d, snapshot %v", u.Version, last, u.Snapshot)
		}
		last = u.Version
	}
	if got := b.Bodies(wire.OpJoinReply); len(got) != 0 {
		t.Error("the client was told before the job has acknowledged")
	}
	if err := stream.Send(&cometv1.RoomsAck{Version: last}); err != nil {
		t.Fatal(err)
	}
	comettest.WaitFor(t, "the join reply", func() bool { return len(b.Bodies(wire.OpJoinReply)) == 1 })
	b.Send(2, wire.OpChangeRoom, 3, "live://0") // the 1000 have other members
	for len(known) > rooms {
		apply(update(t, stream))
	}
	if !known["live://0"] || !known["live://8999"] || known["live://9000"] {
		t.Error("the wrong rooms are left")
	}
}

// A join waits for every job that watches. One whose stream broke has what it
// missed in the snapshot of its next stream.
func TestAcksGateJoins(t *testing.T) {
	f := serve(t, nil)
	first, _ := f.rooms("job-1")
	second, cancel := f.rooms("job-2")
	for _, s := range []roomsStream{first, second} {
		if u := update(t, s); !u.SnapshotEnd || len(u.Added) != 0 {
			t.Fatalf("%v", u)
		}
	}
	c := f.loops[0].Open(t, 2, `{"key":"a"}`)
	c.Send(2, wire.OpJoin, 2, `{"rooms":["live://1"]}`)
	var version uint64
	for _, s := range []roomsStream{first, second} {
		u := update(t, s)
		if u.Snapshot || !slices.Equal(u.Added, []string{"live://1"}) {
			t.Fatalf("%v", u)
		}
		version = u.Version
	}
	if err := first.Send(&cometv1.RoomsAck{Version: version}); err != nil {
		t.Fatal(err)
	}
	// The other job's silence holds the reply: a later answer of the loop is
	// there first.
	other := f.loops[0].Open(t, 1, `{"key":"b"}`)
	other.Send(1, wire.OpHeartbeat, 2, "")
	if len(other.Bodies(wire.OpHeartbeatReply)) != 1 || len(c.Bodies(wire.OpJoinReply)) != 0 {
		t.Error("the join was told before both jobs know of it")
	}
	cancel()
	again, _ := f.rooms("job-2")
	if u := update(t, again); !u.SnapshotEnd || !slices.Equal(u.Added, []string{"live://1"}) {
		t.Fatalf("%v", u)
	}
	comettest.WaitFor(t, "the join reply", func() bool { return len(c.Bodies(wire.OpJoinReply)) == 1 })
	if n := comettest.Count(t, f.metrics, "perseid_join_unconfirmed_total", ""); n != 0 {
		t.Errorf("%v joins were told unconfirmed", n)
	}
}

func TestCloseEndsRoomsStreams(t *testing.T) {
	f := serve(t, nil)
	stream, _ := f.rooms("job-1")
	update(t, stream)
	f.api.Close()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}
