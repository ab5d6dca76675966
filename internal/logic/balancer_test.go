package logic

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/presence"
)

func comet(name, region string, weight, conns int64) presence.NodeInfo {
	return presence.NodeInfo{
		Node:   presence.Node{Name: name, Incarnation: 1},
		Region: region, Weight: weight, ConnCount: conns, PublicAddrs: []string{name}, UpdatedMS: 1,
	}
}

func anyNode(presence.NodeInfo) bool { return true }

func names(nodes []presence.NodeInfo) string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return strings.Join(list, " ")
}

func TestBalancerOrder(t *testing.T) {
	for _, c := range []struct {
		what  string
		nodes []presence.NodeInfo
		gain  float64
		want  string
	}{
		{"nobody", nil, 1, ""},
		{"no connections yet: the heavier first", []presence.NodeInfo{comet("a", "", 1, 0), comet("b", "", 5, 0)}, 1, "b a"},
		{"fewer connections first", []presence.NodeInfo{comet("a", "", 10, 30), comet("b", "", 10, 10)}, 1, "b a"},
		{"weight against connections", []presence.NodeInfo{comet("a", "", 100, 60), comet("b", "", 10, 40)}, 1, "a b"},
		{"equals by name", []presence.NodeInfo{comet("b", "", 1, 1), comet("a", "", 1, 1)}, 1, "a b"},
		// goim: NaN, which became the least integer for every node.
		{"all weights 0 are equal weights", []presence.NodeInfo{comet("a", "", 0, 30), comet("b", "", 0, 10)}, 1, "b a"},
		{"negative weights count as 0", []presence.NodeInfo{comet("a", "", -5, 1), comet("b", "", 1, 1)}, 1, "b a"},
		{"the client's region first", []presence.NodeInfo{comet("a", "sh", 10, 10), comet("b", "bj", 10, 12)}, 3, "b a"},
		{"the region of no client", []presence.NodeInfo{comet("a", "sh", 10, 10), comet("b", "bj", 10, 12)}, 1, "a b"},
		{"the region before there are connections", []presence.NodeInfo{comet("a", "sh", 1, 0), comet("b", "bj", 1, 0)}, 3, "b a"},
		{"five at most", []presence.NodeInfo{comet("f", "", 1, 1), comet("e", "", 1, 1), comet("d", "", 1, 1), comet("c", "", 1, 1), comet("b", "", 1, 1), comet("a", "", 1, 1)}, 1, "a b c d e"},
	} {
		var b balancer
		b.update(c.nodes)
		if got := names(b.choose("bj", c.gain, maxOffered, anyNode)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

// Worked by hand from goim's formula (goim-compat.md, section 6): diff =
// fixed/total - conns/all/2, weight = fixed + diff*all rounded half down.
func TestScoreIsGoims(t *testing.T) {
	for _, c := range []struct {
		fixed             float64
		total, conns, all int64
		want              int64
	}{
		{10, 20, 30, 40, 15},              // 10 + (0.5-0.375)*40
		{10, 20, 10, 40, 25},              // 10 + (0.5-0.125)*40
		{1, 100, 99, 100, 1},              // 1 + (0.01-0.495)*100, raised to the floor
		{16, 26, 0, 1, 17},                // 16 + 0.615: above a half is rounded up
		{10, 20, 0, 1, 10},                // 10 + 0.5: a half is rounded down
		{1 << 20, 1 << 20, 0, 9, 1 << 20}, // capped
		{5, 10, 5, 0, 0},                  // nobody is connected
	} {
		got := score(c.fixed, c.total, c.conns, c.all)
		if got != c.want {
			t.Errorf("score(%v, %d, %d, %d) = %d, want %d", c.fixed, c.total, c.conns, c.all, got, c.want)
		}
	}
}

func TestBalancerSpreadsBetweenReports(t *testing.T) {
	var b balancer
	nodes := []presence.NodeInfo{comet("a", "", 1, 100), comet("b", "", 1, 100)}
	b.update(nodes)
	first := map[string]int{}
	for range 100 {
		first[b.choose("", 1, 1, anyNode)[0].Name]++
		b.update(nodes) // nothing new was told: the clients sent there stay counted
	}
	if first["a"] != 50 || first["b"] != 50 {
		t.Errorf("100 clients went %v", first)
	}
	// A new report is the truth again.
	nodes[0].UpdatedMS, nodes[0].ConnCount = 2, 500
	b.update(nodes)
	if got := names(b.choose("", 1, 2, anyNode)); got != "b a" {
		t.Errorf("after a report: %s", got)
	}
}

// goim ignored an update that lost more than half of its nodes and went on
// offering the dead.
func TestBalancerForgetsTheDead(t *testing.T) {
	var b balancer
	b.update([]presence.NodeInfo{comet("a", "", 1, 1), comet("b", "", 1, 1), comet("c", "", 1, 1)})
	b.update([]presence.NodeInfo{comet("c", "", 1, 1)})
	if got := names(b.choose("", 1, 5, anyNode)); got != "c" {
		t.Errorf("offered %q, want c", got)
	}
	offline := comet("c", "", 1, 1)
	offline.Offline = true
	b.update([]presence.NodeInfo{offline})
	if got := names(b.choose("", 1, 5, anyNode)); got != "" {
		t.Errorf("offered %q, want nobody", got)
	}
}

func TestBalancerNeverLosesItsMind(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var nodes []presence.NodeInfo
		for i := range random.IntN(8) {
			nodes = append(nodes, comet(fmt.Sprint(i), []string{"", "sh", "bj"}[random.IntN(3)],
				random.Int64N(1<<40)-10, random.Int64N(1<<40)-10))
		}
		var b balancer
		b.update(nodes)
		seen := map[string]bool{}
		got := b.choose("bj", 1+random.Float64()*999, maxOffered, anyNode)
		for _, n := range got {
			if seen[n.Name] {
				t.Fatalf("%s offered twice", n.Name)
			}
			seen[n.Name] = true
		}
		if len(got) != min(len(nodes), maxOffered) {
			t.Fatalf("%d of %d comets offered", len(got), len(nodes))
		}
		for _, n := range b.nodes {
			if n.conns < 0 {
				t.Fatalf("%d connections", n.conns)
			}
		}
	}
}

func TestRegions(t *testing.T) {
	table := newRegionTable(map[string][]string{
		"sh": {"10.0.0.0/8", "2001:db8::/32"},
		"bj": {"10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0"},
		"gz": {"10.1.2.0/24"},
	})
	for _, c := range []struct {
		ip     string
		region string
		known  bool
	}{
		{"10.9.9.9", "sh", true},
		{"10.1.9.9", "bj", true},
		{"10.1.2.9", "gz", true},
		{"10.1.2.3", "bj", true},
		{"::ffff:10.1.2.9", "gz", true},
		{"8.8.8.8", "bj", true},
		{"2001:db8::1", "sh", true},
		{"fe80::1%eth0", "", false},
		{"2002::1", "", false},
	} {
		if region, known := table.of(netip.MustParseAddr(c.ip)); region != c.region || known != c.known {
			t.Errorf("%s: %q %v, want %q %v", c.ip, region, known, c.region, c.known)
		}
	}
	if region, known := table.of(netip.Addr{}); known {
		t.Errorf("no address: %q", region)
	}
}
