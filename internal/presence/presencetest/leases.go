package presencetest

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
)

func testLeases(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	full := presence.NodeInfo{
		Node: nodeB, GRPCAddr: "10.0.0.2:3109", Region: "sh", Zone: "sh001", Env: "prod", Hostname: "host|2",
		PublicAddrs: []string{"203.0.113.1", "b.example.com"}, Weight: 10, Offline: true, ConnCount: 1 << 40, IPCount: 3,
	}
	if f.takeLease(nodeA, long) {
		t.Error("the first lease existed")
	}
	if !f.takeLease(nodeA, long) {
		t.Error("the second lease did not exist")
	}
	if _, err := f.Lease(f.ctx, full, long); err != nil {
		t.Fatal(err)
	}
	before, err := f.Nodes(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 2 || before[0].Node != nodeA {
		t.Fatalf("nodes = %+v", before)
	}
	full.UpdatedMS = before[1].UpdatedMS
	if !reflect.DeepEqual(before[1], full) {
		t.Errorf("node = %+v, want %+v", before[1], full)
	}
	b.Pass(t, b.Unit)
	full.ConnCount, full.Offline = 5, false
	if existed, err := f.Lease(f.ctx, full, long); err != nil || !existed {
		t.Fatal(existed, err)
	}
	after, err := f.Nodes(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after[1].ConnCount != 5 || after[1].Offline {
		t.Errorf("node = %+v", after[1])
	}
	if moved := time.Duration(after[1].UpdatedMS-before[1].UpdatedMS) * time.Millisecond; moved < b.Unit {
		t.Errorf("the time of the lease moved by %v, want at least %v", moved, b.Unit)
	}
	if after[0].UpdatedMS != before[0].UpdatedMS {
		t.Error("the lease of another node moved")
	}

	if err := f.Release(f.ctx, nodeB); err != nil {
		t.Fatal(err)
	}
	if err := f.Release(f.ctx, nodeB); err != nil { // again
		t.Fatal(err)
	}
	if got := f.nodes(); !slices.Equal(got, []presence.Node{nodeA}) {
		t.Errorf("nodes = %v", got)
	}
	if f.takeLease(nodeB, long) {
		t.Error("a released lease existed")
	}
}

func testNodeDeath(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	f.takeLease(nodeB, long)
	f.connect(nodeA, session(1, 42, "k1"))
	f.connect(nodeB, session(2, 42, "k2"))
	inTime(t, 2*b.Unit, func() { f.takeLease(nodeA, 2*b.Unit) }, func() error {
		return f.isAt(user(42), at(0, nodeA, 1), at(0, nodeB, 2))
	})

	b.Pass(t, 2*b.Unit)
	f.want(key("k1"))
	f.want(user(42), at(0, nodeB, 2))
	if got := f.nodes(); !slices.Equal(got, []presence.Node{nodeB}) {
		t.Errorf("nodes = %v", got)
	}

	// It was only slow: its locations are valid again, at once.
	if f.takeLease(nodeA, long) {
		t.Error("an ended lease existed")
	}
	f.want(key("k1"), at(0, nodeA, 1))
	f.want(user(42), at(0, nodeA, 1), at(0, nodeB, 2))

	if err := f.Release(f.ctx, nodeA); err != nil {
		t.Fatal(err)
	}
	f.want(key("k1"))
	f.want(user(42), at(0, nodeB, 2))
}

func testNewIncarnation(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	old, _ := twoNodes()
	young := presence.Node{Name: old.Name, Incarnation: old.Incarnation + 1}
	f.takeLease(old, long)
	f.connect(old, session(1, 42, "k"), session(2, 42, "stays"))

	if f.takeLease(young, long) {
		t.Error("the lease of another incarnation counted as existing")
	}
	f.want(presence.Query{Keys: []string{"k", "stays"}, Mids: []int64{42}})
	f.connect(young, session(1, 42, "k")) // the same session id, in another life
	f.want(presence.Query{Keys: []string{"k", "stays"}, Mids: []int64{42}}, at(0, young, 1), at(2, young, 1))

	if err := f.Release(f.ctx, old); err != nil {
		t.Fatal(err)
	}
	if got := f.nodes(); !slices.Equal(got, []presence.Node{young}) {
		t.Fatalf("the old life ended the lease of the new one: nodes = %v", got)
	}
	f.disconnect(old, session(1, 42, "k"))
	f.want(key("k"), at(0, young, 1))
	f.want(user(42), at(0, young, 1))
}

func testSessionsEnd(t *testing.T, b Backend) {
	f := newFixture(t, b, 2*b.Unit)
	nodeA, _ := twoNodes()
	f.takeLease(nodeA, long)
	inTime(t, 2*b.Unit, func() { f.connect(nodeA, session(1, 42, "k")) }, func() error {
		return f.isAt(presence.Query{Keys: []string{"k"}, Mids: []int64{42}}, at(0, nodeA, 1), at(1, nodeA, 1))
	})
	b.Pass(t, 2*b.Unit)
	f.want(presence.Query{Keys: []string{"k"}, Mids: []int64{42}})
}

func testRenewExtends(t *testing.T, b Backend) {
	f := newFixture(t, b, 3*b.Unit)
	nodeA, _ := twoNodes()
	f.takeLease(nodeA, long)
	kept, left := session(1, 42, "kept"), session(2, 42, "left")
	f.connect(nodeA, kept, left)
	b.Pass(t, 2*b.Unit)
	inTime(t, 3*b.Unit, func() {
		f.renew(nodeA, kept)
		b.Pass(t, b.Unit)
	}, func() error {
		// The entry of a user's other session does not keep this one.
		return f.isAt(presence.Query{Keys: []string{"kept", "left"}, Mids: []int64{42}}, at(0, nodeA, 1), at(2, nodeA, 1))
	})
	b.Pass(t, 2*b.Unit)
	f.want(presence.Query{Keys: []string{"kept", "left"}, Mids: []int64{42}})
}

func testRenewRestores(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, _ := twoNodes()
	f.takeLease(nodeA, long)
	f.renew(nodeA, session(1, 42, "k"), session(2, 42, ""))
	f.want(presence.Query{Keys: []string{"k"}, Mids: []int64{42}},
		at(0, nodeA, 1), at(1, nodeA, 1), at(1, nodeA, 2))
	if got := f.connect(nodeA, session(3, 42, "k")); got[0] != 1 {
		t.Errorf("replaced = %v", got)
	}
	f.disconnect(nodeA, session(1, 42, "k"), session(2, 42, ""), session(3, 42, "k"))
	f.want(presence.Query{Keys: []string{"k"}, Mids: []int64{42}})
}

func testRenewTakesNoLiveKey(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	f.takeLease(nodeA, long)
	f.takeLease(nodeB, long)
	old, other, last := session(1, 42, "k"), session(2, 42, "k"), session(3, 42, "k")
	f.connect(nodeA, old)
	f.connect(nodeA, other)
	f.renew(nodeA, old) // of the same node
	f.want(key("k"), at(0, nodeA, 2))
	f.connect(nodeB, last)
	f.renew(nodeA, old, session(4, 43, "free"), other) // of another node
	f.want(key("k"), at(0, nodeB, 3))
	f.want(key("free"), at(0, nodeA, 4))
	// They stay under their user all the same.
	f.want(user(42), at(0, nodeA, 1), at(0, nodeA, 2), at(0, nodeB, 3))
}

func testRenewTakesKeyOfTheDead(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	older := presence.Node{Name: nodeA.Name, Incarnation: 99}
	f.takeLease(nodeA, long)
	live := []presence.Session{session(1, 1, "of-released"), session(2, 2, "of-older"), session(3, 3, "of-live")}
	f.connect(nodeA, live...)
	f.connect(nodeB, session(11, 1, "of-released"))
	f.connect(older, session(12, 2, "of-older"))
	f.connect(nodeA, session(13, 3, "of-live"))
	f.renew(nodeA, live...)
	f.want(key("of-released", "of-older", "of-live"), at(0, nodeA, 1), at(1, nodeA, 2), at(2, nodeA, 13))

	// Many of them: more than one call.
	many, dead := make([]presence.Session, 300), make([]presence.Session, 300)
	for i := range many {
		many[i] = session(uint64(1000+i), 4, fmt.Sprint("many", i))
		dead[i] = session(uint64(2000+i), 4, many[i].Key)
	}
	f.connect(nodeB, dead...)
	f.renew(nodeA, many...)
	for _, s := range many {
		f.want(key(s.Key), at(0, nodeA, s.ID))
	}
}

func testRestoreAfterLoss(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	onA := []presence.Session{session(1, 42, "k1"), session(2, 0, "k2")}
	onB := []presence.Session{session(1, 42, "k3")}
	f.takeLease(nodeA, long)
	f.takeLease(nodeB, long)
	f.connect(nodeA, onA...)
	f.connect(nodeB, onB...)

	b.Forget(t)
	all := presence.Query{Keys: []string{"k1", "k2", "k3"}, Mids: []int64{42}}
	f.want(all)
	if f.takeLease(nodeA, long) || f.takeLease(nodeB, long) {
		t.Fatal("a lost lease existed")
	}
	f.renew(nodeA, onA...)
	f.renew(nodeB, onB...)
	f.want(all, at(0, nodeA, 1), at(1, nodeA, 2), at(2, nodeB, 1), at(3, nodeA, 1), at(3, nodeB, 1))
}

func testRooms(t *testing.T, b Backend) {
	f := newFixture(t, b, long)
	nodeA, nodeB := twoNodes()
	set := func(node presence.Node, counts map[string]int32, ttl time.Duration) {
		t.Helper()
		if err := f.SetRooms(f.ctx, node, counts, ttl); err != nil {
			t.Fatal(err)
		}
	}
	are := func(when string, counts map[string]int32) error {
		t.Helper()
		got, err := f.Rooms(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil || !maps.Equal(got, counts) {
			return fmt.Errorf("%s: rooms = %v, want %v", when, got, counts)
		}
		return nil
	}
	want := func(when string, counts map[string]int32) {
		t.Helper()
		if err := are(when, counts); err != nil {
			t.Fatal(err)
		}
	}
	want("empty store", map[string]int32{})
	set(nodeA, map[string]int32{"live://1": 2, "live://2": 1, "live://0": 0}, long)
	want("no lease", map[string]int32{})
	f.takeLease(nodeA, long)
	want("one node", map[string]int32{"live://1": 2, "live://2": 1})
	f.takeLease(nodeB, long)
	want("a node without counts", map[string]int32{"live://1": 2, "live://2": 1})
	set(nodeB, map[string]int32{"live://1": 5, "": 9, "full://x": math.MaxInt32}, long)
	want("two nodes", map[string]int32{"live://1": 7, "live://2": 1, "": 9, "full://x": math.MaxInt32})
	set(nodeA, map[string]int32{"live://1": 1, "full://x": 1}, long)
	want("replaced counts, full sum", map[string]int32{"live://1": 6, "": 9, "full://x": math.MaxInt32})
	set(nodeA, nil, long)
	want("emptied", map[string]int32{"live://1": 5, "": 9, "full://x": math.MaxInt32})
	f.takeLease(presence.Node{Name: nodeB.Name, Incarnation: 3}, long)
	want("counts of an older life", map[string]int32{})
	inTime(t, 2*b.Unit, func() { set(nodeA, map[string]int32{"live://1": 4}, 2*b.Unit) }, func() error {
		return are("short counts", map[string]int32{"live://1": 4})
	})
	b.Pass(t, 2*b.Unit)
	want("ended counts", map[string]int32{})
}
