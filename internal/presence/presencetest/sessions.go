package presencetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/perseid-im/perseid/internal/presence"
)

func testConnectLocateDisconnect(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	f.takeLease(nodeA, long)
	f.takeLease(nodeB, long)

	phone, tablet := session(1, 42, "phone"), session(1<<63+7, 42, "tablet")
	f.connect(nodeA, phone)
	f.connect(nodeB, tablet)
	f.want(key("phone"), at(0, nodeA, phone.ID))
	f.want(key("tablet"), at(0, nodeB, tablet.ID))
	f.want(user(42), at(0, nodeA, phone.ID), at(0, nodeB, tablet.ID))
	f.want(key("nobody"))
	f.want(user(43))

	f.disconnect(nodeA, phone)
	f.want(key("phone"))
	f.want(user(42), at(0, nodeB, tablet.ID))
	f.disconnect(nodeA, phone) // again
	f.disconnect(nodeB, tablet)
	f.want(presence.Query{Keys: []string{"phone", "tablet"}, Mids: []int64{42}})
}

func testKeyPointsToTheLast(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	f.takeLease(nodeA, long)
	f.takeLease(nodeB, long)

	first, second := session(1, 42, "k"), session(2, 42, "k")
	f.connect(nodeA, first)
	f.connect(nodeB, second)
	f.want(key("k"), at(0, nodeB, 2))
	f.want(user(42), at(0, nodeA, 1), at(0, nodeB, 2)) // both stay open, as in goim
}

func testReplaced(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	again := presence.Node{Name: nodeA.Name, Incarnation: nodeA.Incarnation + 1}
	for _, step := range []struct {
		node presence.Node
		in   []presence.Session
		want []uint64
	}{
		{nodeA, []presence.Session{session(1, 0, "k"), session(2, 0, "other")}, []uint64{0, 0}},
		{nodeA, []presence.Session{session(1, 0, "k")}, []uint64{0}}, // a repeat replaces nobody
		{nodeA, []presence.Session{session(3, 0, "k")}, []uint64{1}},
		// Within one batch, in order.
		{nodeA, []presence.Session{session(4, 0, "k"), session(5, 0, "new"), session(6, 0, "k")}, []uint64{3, 0, 4}},
		{nodeB, []presence.Session{session(7, 0, "k")}, []uint64{0}}, // of another node
		{nodeB, []presence.Session{session(8, 0, "k")}, []uint64{7}},
		{nodeA, []presence.Session{session(9, 0, "k")}, []uint64{0}},
		{again, []presence.Session{session(10, 0, "k")}, []uint64{0}}, // of another incarnation
		{again, []presence.Session{session(11, 0, "")}, []uint64{0}},
		{again, []presence.Session{session(12, 0, "")}, []uint64{0}},
	} {
		if got := f.connect(step.node, step.in...); !slices.Equal(got, step.want) {
			t.Fatalf("connect %+v on %+v replaced %v, want %v", step.in, step.node, got, step.want)
		}
	}
	f.takeLease(again, long)
	f.want(key("k"), at(0, again, 10))
}

// Symptom in goim (F-003.13): a client that reconnects is unreachable by its
// key until the next heartbeat RPC, minutes later. Cause: the late disconnect
// of its old connection deletes the mapping by key, whoever owns it by then.
func testLateDisconnect(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	f.takeLease(nodeA, long)
	f.takeLease(nodeB, long)
	again := presence.Node{Name: nodeB.Name, Incarnation: 5}

	f.connect(nodeA, session(1, 42, "k"))
	f.connect(nodeB, session(1, 42, "k")) // the same id on another node is another session
	f.disconnect(nodeA, session(1, 42, "k"))
	f.want(key("k"), at(0, nodeB, 1))
	f.want(user(42), at(0, nodeB, 1))

	f.disconnect(again, session(1, 42, "k")) // of another incarnation
	f.want(key("k"), at(0, nodeB, 1))
	f.want(user(42), at(0, nodeB, 1))

	f.connect(nodeB, session(2, 42, "k"))
	f.disconnect(nodeB, session(1, 42, "k"))
	f.want(key("k"), at(0, nodeB, 2))
	f.want(user(42), at(0, nodeB, 2))
}

func testEmptyKeyAndNoUser(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, _ := twoNodes()
	f.takeLease(nodeA, long)
	anonymous, negative, keyless := session(1, 0, "anon"), session(2, -7, "neg"), session(3, 42, "")
	f.connect(nodeA, anonymous, negative, keyless)
	f.renew(nodeA, anonymous, negative, keyless)
	f.want(presence.Query{Keys: []string{"anon", "", "neg"}, Mids: []int64{0, 42, -7}},
		at(0, nodeA, 1), at(2, nodeA, 2), at(4, nodeA, 3))
	f.disconnect(nodeA, anonymous, negative, keyless)
	f.want(presence.Query{Keys: []string{"anon", "", "neg"}, Mids: []int64{0, 42, -7}})
}

func testEachTargetIsAnswered(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	f.takeLease(nodeA, long)
	f.takeLease(nodeB, long)
	f.connect(nodeA, session(1, 42, "k1"))
	f.connect(nodeB, session(2, 42, "k2"))

	got := f.locate(
		presence.Query{},
		presence.Query{Keys: []string{"k1", "gone", "k1"}, Mids: []int64{41, 42}},
		key("k2"),
		presence.Query{},
	)
	want := [][]string{
		{},
		{at(0, nodeA, 1), at(2, nodeA, 1), at(4, nodeA, 1), at(4, nodeB, 2)},
		{at(0, nodeB, 2)},
		{},
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("query %d is at %q, want %q", i, got[i], want[i])
		}
	}
}

func testBigBatch(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, _ := twoNodes()
	f.takeLease(nodeA, long)
	const n = 700 // with two targets each, more than one call, and than one pipeline
	sessions := make([]presence.Session, n)
	queries := make([]presence.Query, n)
	for i := range sessions {
		sessions[i] = session(uint64(i+1), int64(i+1), fmt.Sprint("k", i))
		switch i % 7 { // some are found by one of the two only
		case 3:
			sessions[i].Key = ""
		case 5:
			sessions[i].Mid = 0
		}
		queries[i] = presence.Query{Keys: []string{sessions[i].Key}, Mids: []int64{sessions[i].Mid}}
	}
	found := func(s presence.Session) (places []string) {
		if s.Key != "" {
			places = append(places, at(0, nodeA, s.ID))
		}
		if s.Mid != 0 {
			places = append(places, at(1, nodeA, s.ID))
		}
		return places
	}
	f.connect(nodeA, sessions...)
	f.renew(nodeA, sessions...)
	for i, got := range f.locate(queries...) {
		if want := found(sessions[i]); !slices.Equal(got, want) {
			t.Fatalf("query %d is at %q, want %q", i, got, want)
		}
	}
	// Every answer belongs to its session, also behind the first call.
	later := make([]presence.Session, n)
	for i, s := range sessions {
		later[i] = session(n+s.ID, s.Mid, s.Key)
	}
	for i, replaced := range f.connect(nodeA, later...) {
		want := sessions[i].ID
		if sessions[i].Key == "" {
			want = 0
		}
		if replaced != want {
			t.Fatalf("session %d replaced %d, want %d", later[i].ID, replaced, want)
		}
	}
	f.renew(nodeA, sessions...) // takes no key from a live session
	f.disconnect(nodeA, sessions...)
	for i, got := range f.locate(queries...) {
		if want := found(later[i]); !slices.Equal(got, want) {
			t.Fatalf("query %d is at %q, want %q", i, got, want)
		}
	}
	f.disconnect(nodeA, later...)
	for i, got := range f.locate(queries...) {
		if len(got) != 0 {
			t.Fatalf("query %d is still at %q", i, got)
		}
	}
}

func testOddNames(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	for i, name := range []string{"a|b", "a/b", "1|2|3", "/", "{x}", "\x00\xff\r\n", "彗星"} {
		node := presence.Node{Name: name, Incarnation: 7}
		f.takeLease(node, long)
		s := session(9, int64(i+1), name+"|key")
		f.connect(node, s)
		f.want(presence.Query{Keys: []string{s.Key}, Mids: []int64{s.Mid}}, at(0, node, 9), at(1, node, 9))
		s.ID++
		if got := f.connect(node, s); got[0] != 9 {
			t.Fatalf("node %q: replaced %d", name, got[0])
		}
		f.renew(node, s)
		f.disconnect(node, s, session(9, s.Mid, s.Key))
		f.want(presence.Query{Keys: []string{s.Key}, Mids: []int64{s.Mid}})
	}
}

func testNothingToDo(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, _ := twoNodes()
	f.connect(nodeA)
	f.disconnect(nodeA)
	f.renew(nodeA)
	if got := f.nodes(); len(got) != 0 {
		t.Errorf("nodes of an empty store: %v", got)
	}
	if err := f.Ping(f.ctx); err != nil {
		t.Error(err)
	}
	f.takeLease(nodeA, long)
	located, err := f.Locate(f.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A batch of room pushes asks for nobody and still needs the live nodes.
	if len(located.Nodes) != 1 || located.Nodes[0].Node != nodeA || len(located.Results) != 0 {
		t.Errorf("located = %+v", located)
	}
}

func testEndedContext(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, _ := twoNodes()
	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	one := []presence.Session{session(1, 1, "k")}
	_, connectErr := f.Connect(ended, nodeA, one)
	_, leaseErr := f.Lease(ended, presence.NodeInfo{Node: nodeA}, long)
	_, nodesErr := f.Nodes(ended)
	_, locateErr := f.Locate(ended, []presence.Query{key("k")})
	_, roomsErr := f.Rooms(ended)
	for call, err := range map[string]error{
		"connect": connectErr, "disconnect": f.Disconnect(ended, nodeA, one), "renew": f.Renew(ended, nodeA, one),
		"lease": leaseErr, "release": f.Release(ended, nodeA), "nodes": nodesErr, "locate": locateErr,
		"set rooms": f.SetRooms(ended, nodeA, map[string]int32{"a://1": 1}, long), "rooms": roomsErr, "ping": f.Ping(ended),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v", call, err)
		}
	}
	f.takeLease(nodeA, long)
	f.want(key("k"))
}
