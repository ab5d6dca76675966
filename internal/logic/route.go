package logic

import (
	"context"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/internal/presence"
)

// Routed answers a batch of queries from one moment after it was asked.
type Routed struct {
	Nodes   []presence.NodeInfo // all live comets
	Results []RoutedItem        // parallel to the queries
}

// RoutedItem is where the sessions of one query are, each session once.
type RoutedItem struct {
	Locations []presence.Location
	Offline   int // keys and mids without a live session
}

// Route says which comets live and where the targets of queries are. A query
// may be empty; the live comets are answered all the same.
func (c *Core) Route(ctx context.Context, queries []presence.Query) (Routed, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	located, err := c.presence.Locate(ctx, queries)
	if err == nil && len(located.Results) != len(queries) {
		err = errors.New("answers do not match the queries")
	}
	if err != nil {
		c.metrics.presence.Inc(forRoute)
		return Routed{}, fmt.Errorf("route %d queries: %w", len(queries), err)
	}
	routed := Routed{Nodes: located.Nodes, Results: make([]RoutedItem, len(queries))}
	for i, q := range queries {
		routed.Results[i] = routedItem(q, located.Results[i])
	}
	return routed, nil
}

// routedItem keeps each session once, however many of the keys and users of
// the query it answers to: one push of one message.
func routedItem(q presence.Query, locations []presence.Location) RoutedItem {
	targets := len(q.Keys) + len(q.Mids)
	type place struct {
		node    int
		session uint64
	}
	here := make([]bool, targets)
	seen := make(map[place]struct{}, len(locations))
	item := RoutedItem{Offline: targets}
	for _, at := range locations {
		if at.Target < 0 || at.Target >= targets {
			continue
		}
		if !here[at.Target] {
			here[at.Target] = true
			item.Offline--
		}
		p := place{at.Node, at.Session}
		if _, again := seen[p]; again {
			continue
		}
		seen[p] = struct{}{}
		item.Locations = append(item.Locations, at)
	}
	return item
}
