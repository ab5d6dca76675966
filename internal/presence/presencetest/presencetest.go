// Package presencetest holds the behaviour that every presence.Registry must
// show, as a suite that each implementation runs in its tests.
package presencetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
)

// Backend is an empty store and how to handle it.
type Backend struct {
	// Open makes a registry on the store; more than one may be open, as with
	// several logics. The backend closes it at the end of the test.
	Open func(t *testing.T, sessionTTL time.Duration) presence.Registry
	// Forget loses all data of the store.
	Forget func(t *testing.T)
	// Pass returns when d has passed on the clock of the store.
	Pass func(t *testing.T, d time.Duration)
	// Unit is the step in which the suite lets time pass. It is long enough
	// that the work of a test takes a fraction of it.
	Unit time.Duration
}

// Run runs the suite; open makes a fresh backend for each test.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Backend)
	}{
		{"ConnectLocateDisconnect", testConnectLocateDisconnect},
		{"KeyPointsToTheLast", testKeyPointsToTheLast},
		{"Replaced", testReplaced},
		{"LateDisconnect", testLateDisconnect},
		{"EmptyKeyAndNoUser", testEmptyKeyAndNoUser},
		{"EachTargetIsAnswered", testEachTargetIsAnswered},
		{"BigBatch", testBigBatch},
		{"OddNames", testOddNames},
		{"Leases", testLeases},
		{"NodeDeath", testNodeDeath},
		{"NewIncarnation", testNewIncarnation},
		{"SessionsEnd", testSessionsEnd},
		{"RenewExtends", testRenewExtends},
		{"RenewRestores", testRenewRestores},
		{"RenewTakesNoLiveKey", testRenewTakesNoLiveKey},
		{"RenewTakesKeyOfTheDead", testRenewTakesKeyOfTheDead},
		{"RestoreAfterLoss", testRestoreAfterLoss},
		{"Rooms", testRooms},
		{"NothingToDo", testNothingToDo},
		{"EndedContext", testEndedContext},
		{"ReconnectRace", testReconnectRace},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// inTime begins something that lasts for ttl, and checks what holds meanwhile.
// Where that took longer, the machine stood still and the check says nothing: it
// begins again.
func inTime(t *testing.T, ttl time.Duration, begin func(), check func() error) {
	t.Helper()
	for {
		start := time.Now()
		begin()
		err := check()
		if err == nil {
			return
		}
		if time.Since(start) < ttl {
			t.Fatal(err)
		}
	}
}

// long is a TTL that no test outlives.
const long = 20 * time.Minute

// fixture is a registry with checks that end the test.
type fixture struct {
	presence.Registry
	t   *testing.T
	ctx context.Context
}

func newFixture(t *testing.T, b Backend, sessionTTL time.Duration) fixture {
	return fixture{Registry: b.Open(t, sessionTTL), t: t, ctx: t.Context()}
}

func (f fixture) connect(node presence.Node, sessions ...presence.Session) []uint64 {
	f.t.Helper()
	replaced, err := f.Connect(f.ctx, node, sessions)
	if err != nil {
		f.t.Fatal(err)
	}
	if len(replaced) != len(sessions) {
		f.t.Fatalf("%d answers to %d sessions", len(replaced), len(sessions))
	}
	return replaced
}

func (f fixture) disconnect(node presence.Node, sessions ...presence.Session) {
	f.t.Helper()
	if err := f.Disconnect(f.ctx, node, sessions); err != nil {
		f.t.Fatal(err)
	}
}

func (f fixture) renew(node presence.Node, sessions ...presence.Session) {
	f.t.Helper()
	if err := f.Renew(f.ctx, node, sessions); err != nil {
		f.t.Fatal(err)
	}
}

func (f fixture) takeLease(node presence.Node, ttl time.Duration) (existed bool) {
	f.t.Helper()
	existed, err := f.Lease(f.ctx, presence.NodeInfo{Node: node, GRPCAddr: node.Name + ":3109"}, ttl)
	if err != nil {
		f.t.Fatal(err)
	}
	return existed
}

func (f fixture) nodes() []presence.Node {
	f.t.Helper()
	infos, err := f.Nodes(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	var nodes []presence.Node
	for _, info := range infos {
		nodes = append(nodes, info.Node)
	}
	return nodes
}

// locate returns, per query, "target: node/incarnation/session" in order.
func (f fixture) locate(queries ...presence.Query) [][]string {
	f.t.Helper()
	located, err := f.Locate(f.ctx, queries)
	if err != nil {
		f.t.Fatal(err)
	}
	if len(located.Results) != len(queries) {
		f.t.Fatalf("%d results of %d queries", len(located.Results), len(queries))
	}
	results := make([][]string, len(queries))
	for i, locations := range located.Results {
		results[i] = []string{}
		for _, l := range locations {
			results[i] = append(results[i], at(l.Target, located.Nodes[l.Node].Node, l.Session))
		}
		slices.Sort(results[i])
	}
	return results
}

// at is how locate spells a location.
func at(target int, node presence.Node, session uint64) string {
	return fmt.Sprintf("%d: %s/%d/%d", target, node.Name, node.Incarnation, session)
}

// want checks where one query's targets are, in any order.
func (f fixture) want(q presence.Query, locations ...string) {
	f.t.Helper()
	if err := f.isAt(q, locations...); err != nil {
		f.t.Fatal(err)
	}
}

// isAt is want that only tells.
func (f fixture) isAt(q presence.Query, locations ...string) error {
	f.t.Helper()
	slices.Sort(locations)
	if got := f.locate(q)[0]; !slices.Equal(got, locations) {
		return fmt.Errorf("%+v is at %q, want %q", q, got, locations)
	}
	return nil
}

func key(keys ...string) presence.Query { return presence.Query{Keys: keys} }
func user(mids ...int64) presence.Query { return presence.Query{Mids: mids} }

func session(id uint64, mid int64, key string) presence.Session {
	return presence.Session{ID: id, Mid: mid, Key: key}
}

func twoNodes() (a, b presence.Node) {
	return presence.Node{Name: "comet-a", Incarnation: 1}, presence.Node{Name: "comet-b", Incarnation: 1<<64 - 1}
}
