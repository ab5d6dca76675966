package logic

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"github.com/perseid-im/perseid/internal/presence"
)

// balancer ranks comets for new clients with goim's formula, without goim's
// defects: weights that are all 0 count as equal (goim: NaN), a comet that is
// gone is not offered however many went with it (goim kept a list that lost
// more than half), and equals have a fixed order.
type balancer struct {
	mu    sync.Mutex
	nodes []balanced
}

// balanced is a comet that takes new clients.
type balanced struct {
	presence.NodeInfo
	conns int64 // ConnCount and the clients sent there since it was told
}

// update takes over what was read; comets that told nothing new since keep
// the clients that were sent to them.
func (b *balancer) update(nodes []presence.NodeInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := make(map[presence.Node]balanced, len(b.nodes))
	for _, n := range b.nodes {
		old[n.Node] = n
	}
	b.nodes = make([]balanced, 0, len(nodes))
	for _, n := range nodes {
		if n.Offline {
			continue
		}
		n.Weight = min(max(0, n.Weight), mostScore) // within what the formula can count
		now := balanced{n, max(0, n.ConnCount)}
		if was, ok := old[n.Node]; ok && was.UpdatedMS == n.UpdatedMS {
			now.conns = was.conns
		}
		b.nodes = append(b.nodes, now)
	}
}

// choose returns the best usable comets for a client of region, whose comets
// get the gain, at most limit, and counts the client for the first.
func (b *balancer) choose(region string, gain float64, limit int, usable func(presence.NodeInfo) bool) []presence.NodeInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	var conns, weights int64
	for _, n := range b.nodes {
		conns += n.conns
		weights += n.Weight
	}
	type candidate struct {
		node  *balanced
		score int64
		fixed float64
	}
	var list []candidate
	for i := range b.nodes {
		n := &b.nodes[i]
		if !usable(n.NodeInfo) {
			continue
		}
		weight, total := n.Weight, weights
		if weights == 0 {
			weight, total = 1, int64(len(b.nodes))
		}
		own := 1.0
		if n.Region == region {
			own = gain
		}
		fixed := float64(weight) * own
		list = append(list, candidate{n, score(fixed, total+int64(fixed)-weight, n.conns, conns), fixed})
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(b.score, a.score),
			cmp.Compare(b.fixed, a.fixed),
			cmp.Compare(a.node.conns, b.node.conns),
			cmp.Compare(a.node.Name, b.node.Name))
	})
	if len(list) > 0 {
		list[0].node.conns++
	}
	best := make([]presence.NodeInfo, 0, min(limit, len(list)))
	for _, one := range list[:min(limit, len(list))] {
		best = append(best, one.node.NodeInfo)
	}
	return best
}

// Bounds of goim's score.
const (
	leastScore = 1
	mostScore  = 1 << 20
)

// score is goim's weight of a comet: above its fixed weight when it has fewer
// connections than twice its share, below when more.
func score(fixed float64, total, conns, allConns int64) int64 {
	if allConns == 0 {
		return 0
	}
	diff := -float64(conns) / float64(allConns) * 0.5
	if total > 0 {
		diff += fixed / float64(total)
	}
	multiple := diff * float64(allConns)
	rounded := math.Floor(multiple)
	if rounded-multiple < -0.5 {
		rounded = math.Ceil(multiple)
	}
	if diff < 0 {
		return int64(max(leastScore, fixed+rounded))
	}
	return int64(min(mostScore, fixed+rounded))
}
