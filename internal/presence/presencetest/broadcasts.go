package presencetest

import (
	"crypto/rand"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

// BroadcastBackend is an empty store and how to handle it; see Backend.
type BroadcastBackend struct {
	Open func(t *testing.T, ttl time.Duration, most int) presence.Broadcasts
	Pass func(t *testing.T, d time.Duration)
	Unit time.Duration
}

// RunBroadcasts runs the suite of presence.Broadcasts; open makes a fresh
// backend for each test.
func RunBroadcasts(t *testing.T, open func(t *testing.T) BroadcastBackend) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, BroadcastBackend)
	}{
		{"ReportsReplace", testReportsReplace},
		{"ReportWithoutAnnouncement", testReportWithoutAnnouncement},
		{"Cancel", testCancel},
		{"ForgottenByTime", testForgottenByTime},
		{"ForgottenByNumber", testForgottenByNumber},
		{"CanceledAreBounded", testCanceledAreBounded},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// broadcasts is the port with checks that end the test.
type broadcasts struct {
	presence.Broadcasts
	t *testing.T
}

func openBroadcasts(t *testing.T, b BroadcastBackend, ttl time.Duration, most int) broadcasts {
	return broadcasts{b.Open(t, ttl, most), t}
}

func (b broadcasts) announce(id message.ID, speed int32) {
	b.t.Helper()
	if err := b.Announce(b.t.Context(), id, speed); err != nil {
		b.t.Fatal(err)
	}
}

func (b broadcasts) report(node presence.Node, shares ...presence.Share) []message.ID {
	b.t.Helper()
	canceled, err := b.Report(b.t.Context(), node, shares)
	if err != nil {
		b.t.Fatal(err)
	}
	return canceled
}

func (b broadcasts) cancel(id message.ID) {
	b.t.Helper()
	if err := b.Cancel(b.t.Context(), id); err != nil {
		b.t.Fatal(err)
	}
}

// want checks what is known about one; UpdatedMS is only checked to be there.
func (b broadcasts) want(id message.ID, want presence.Broadcast) {
	b.t.Helper()
	got, ok, err := b.Broadcast(b.t.Context(), id)
	if err != nil || !ok {
		b.t.Fatalf("broadcast %v: %v, %v", id, ok, err)
	}
	for i := range got.Shares {
		if got.Shares[i].UpdatedMS <= 0 {
			b.t.Errorf("share %d was never updated", i)
		}
		got.Shares[i].UpdatedMS = 0
	}
	slices.SortFunc(got.Shares, func(a, b presence.Share) int { return int(a.Node.Name[0]) - int(b.Node.Name[0]) })
	if !reflect.DeepEqual(got, want) {
		b.t.Errorf("broadcast\n got %+v\nwant %+v", got, want)
	}
}

// wantKept checks which are kept, oldest first.
func (b broadcasts) wantKept(ids ...message.ID) {
	b.t.Helper()
	if err := b.areKept(ids...); err != nil {
		b.t.Error(err)
	}
}

// areKept is wantKept that only tells.
func (b broadcasts) areKept(ids ...message.ID) error {
	b.t.Helper()
	all, err := b.Broadcasts.Broadcasts(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var got []message.ID
	for _, one := range all {
		got = append(got, one.ID)
	}
	if !slices.Equal(got, ids) {
		return fmt.Errorf("kept are %v, want %v", got, ids)
	}
	return nil
}

// newIDs makes ids that sort in their order.
func newIDs(t *testing.T, n int) []message.ID {
	t.Helper()
	ids := make([]message.ID, n)
	for i := range ids {
		var err error
		if ids[i], err = message.NewID(int64(1_700_000_000_000+i), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// nextMS waits until the clock of this machine shows another millisecond.
func nextMS() {
	for start := time.Now().UnixMilli(); time.Now().UnixMilli() == start; {
	}
}

const manyBroadcasts = 100

func testReportsReplace(t *testing.T, backend BroadcastBackend) {
	b := openBroadcasts(t, backend, time.Hour, manyBroadcasts)
	node1, node2 := presence.Node{Name: "a", Incarnation: 1}, presence.Node{Name: "b/x", Incarnation: 1<<64 - 1}
	id := newIDs(t, 1)[0]
	b.announce(id, 500)
	b.want(id, presence.Broadcast{ID: id, Speed: 500})
	b.report(node1, presence.Share{ID: id, Comets: 2, Speed: 250, Total: 10})
	last := presence.Share{ID: id, Comets: 2, Speed: 250, StartedMS: 5, Finished: true, Total: 10, Delivered: 1, Filtered: 2, Slow: 3, Canceled: 4}
	b.report(node1, last)
	b.report(node2, presence.Share{ID: id, Total: 1<<32 - 1})
	last.Node = node1
	b.want(id, presence.Broadcast{ID: id, Speed: 500, Shares: []presence.Share{last, {ID: id, Node: node2, Total: 1<<32 - 1}}})
	b.wantKept(id)
}

// What Redis lost, or never got, is told by the comets again.
func testReportWithoutAnnouncement(t *testing.T, backend BroadcastBackend) {
	b := openBroadcasts(t, backend, time.Hour, manyBroadcasts)
	node, ids := presence.Node{Name: "a", Incarnation: 1}, newIDs(t, 3)
	if _, ok, err := b.Broadcast(t.Context(), ids[0]); ok || err != nil {
		t.Errorf("one that nobody made: %v, %v", ok, err)
	}
	b.report(node, presence.Share{ID: ids[1], Total: 1}, presence.Share{ID: ids[0], Total: 2})
	b.want(ids[0], presence.Broadcast{ID: ids[0], Shares: []presence.Share{{ID: ids[0], Node: node, Total: 2}}})
	b.wantKept(ids[0], ids[1])
}

func testCancel(t *testing.T, backend BroadcastBackend) {
	b := openBroadcasts(t, backend, time.Hour, manyBroadcasts)
	node, ids := presence.Node{Name: "a", Incarnation: 1}, newIDs(t, 2)
	b.announce(ids[0], 1)
	b.announce(ids[1], 1)
	if got := b.report(node); len(got) != 0 {
		t.Errorf("canceled before anything was: %v", got)
	}
	b.cancel(ids[0])
	first, _, err := b.Broadcast(t.Context(), ids[0])
	if err != nil || first.CanceledMS <= 0 {
		t.Fatalf("canceled at %d, %v", first.CanceledMS, err)
	}
	nextMS()
	b.cancel(ids[0])
	b.want(ids[0], first)
	other := openBroadcasts(t, backend, time.Hour, manyBroadcasts)
	for range 2 {
		if got := other.report(node, presence.Share{ID: ids[1]}); !slices.Equal(got, ids[:1]) {
			t.Errorf("canceled are %v, want %v", got, ids[:1])
		}
	}
}

func testForgottenByTime(t *testing.T, backend BroadcastBackend) {
	b := openBroadcasts(t, backend, 4*backend.Unit, manyBroadcasts)
	node, ids := presence.Node{Name: "a", Incarnation: 1}, newIDs(t, 2)
	b.announce(ids[0], 1)
	b.announce(ids[1], 1)
	for range 2 {
		backend.Pass(t, 2*backend.Unit)
		b.report(node, presence.Share{ID: ids[1]})
	}
	backend.Pass(t, 2*backend.Unit)
	inTime(t, 4*backend.Unit, func() { b.report(node, presence.Share{ID: ids[1]}) }, func() error { return b.areKept(ids[1]) })
	if _, ok, err := b.Broadcast(t.Context(), ids[0]); ok || err != nil {
		t.Errorf("one that nobody reports is kept: %v, %v", ok, err)
	}
}

// The one that was not heard of for the longest time goes first, not the oldest.
func testForgottenByNumber(t *testing.T, backend BroadcastBackend) {
	b := openBroadcasts(t, backend, time.Hour, 3)
	node, ids := presence.Node{Name: "a", Incarnation: 1}, newIDs(t, 5)
	for _, id := range ids[:3] {
		b.announce(id, 1)
		nextMS()
	}
	b.report(node, presence.Share{ID: ids[0]})
	nextMS()
	b.announce(ids[3], 1)
	nextMS()
	b.report(node, presence.Share{ID: ids[4]})
	b.wantKept(ids[0], ids[3], ids[4])
	for i, kept := range []bool{true, false, false, true, true} {
		if _, ok, err := b.Broadcast(t.Context(), ids[i]); ok != kept || err != nil {
			t.Errorf("number %d: %v, %v", i, ok, err)
		}
	}
}

func testCanceledAreBounded(t *testing.T, backend BroadcastBackend) {
	b := openBroadcasts(t, backend, time.Hour, 3)
	ids := newIDs(t, 5)
	for _, id := range ids {
		b.cancel(id)
		nextMS()
	}
	if got := b.report(presence.Node{Name: "a", Incarnation: 1}); !slices.Equal(got, ids[2:]) {
		t.Errorf("canceled are %v, want %v", got, ids[2:])
	}
}
