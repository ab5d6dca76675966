package logic

import (
	"context"
	"errors"
	"fmt"

	"github.com/perseid-im/perseid/internal/failpoint"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
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
	// Appended is parallel to the timelines of a stored item; nil for others.
	Appended []timeline.Appended
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

// StoredQuery is a query of which the record may have to be appended first.
type StoredQuery struct {
	Query  presence.Query
	Stored *timeline.Record // nil = transient
}

// RouteStored appends the stored records of items, in order, and then locates
// the targets. In this order, because a session that is not located must find
// the record by its first sync. With full, the results answer the items before
// the first that found no space. Errors wrap those of Folding.
func (c *Core) RouteStored(ctx context.Context, f timeline.Fold, items []StoredQuery) (routed Routed, full bool, err error) {
	batch := timeline.Batch{Fold: f, Records: make([]timeline.Record, 0, len(items))}
	for i := range items {
		if r := items[i].Stored; r != nil {
			batch.Records = append(batch.Records, *r)
		}
	}
	appended, err := c.append(ctx, batch)
	if err != nil {
		return Routed{}, false, err
	}
	failpoint.Hit("logic.after_append")
	c.noteSpeakers(batch.Records[:len(appended.Records)])
	answered, next := len(items), 0
	for i := range items {
		if items[i].Stored == nil {
			continue
		}
		if next == len(appended.Records) {
			answered = i
			break
		}
		next++
	}
	queries := make([]presence.Query, answered)
	for i := range queries {
		queries[i] = items[i].Query
	}
	if routed, err = c.Route(ctx, queries); err != nil {
		return Routed{}, false, err
	}
	next = 0
	for i := range routed.Results {
		if items[i].Stored != nil {
			routed.Results[i].Appended = appended.Records[next]
			c.noteOffline(&items[i], &routed.Results[i])
			next++
		}
	}
	return routed, answered < len(items), nil
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
