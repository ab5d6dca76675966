package logic

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

// snapshot is what was last read of the cluster. It is immutable; a failed
// read keeps the old part with its old time.
type snapshot struct {
	nodesAt time.Time // zero = never read
	nodes   []presence.NodeInfo
	conns   int64
	ips     int64

	roomsAt time.Time
	rooms   map[string]int32
	ranking []rankedRoom // rooms with somebody in them, see byRank
}

type rankedRoom struct {
	key   string
	id    string
	count int32
}

// byRank puts full rooms first; names decide between equals, so that two
// logics with the same counts give the same answer.
func byRank(a, b rankedRoom) int {
	return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.id, b.id), cmp.Compare(a.key, b.key))
}

// staleAfter is how old a part of the snapshot may be and still be believed.
func staleAfter(interval time.Duration) time.Duration { return 3 * interval }

// refresher keeps the snapshot; it belongs to one goroutine.
type refresher struct {
	core   *Core
	failed bool // the last read failed, and that was logged
}

// run reads the nodes every NodesInterval and the rooms when they are due.
func (r *refresher) run(ctx context.Context) {
	ticker := time.NewTicker(min(r.core.cfg.NodesInterval, r.core.cfg.OnlineInterval))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.refresh(ctx)
		}
	}
}

// refresh reads what is due. Half a tick of tolerance keeps an interval from
// being stretched to the next tick.
func (r *refresher) refresh(ctx context.Context) {
	c := r.core
	now, s := c.now(), *c.snapshot.Load()
	slack := min(c.cfg.NodesInterval, c.cfg.OnlineInterval) / 2
	var failure error
	if now.Sub(s.nodesAt) >= c.cfg.NodesInterval-slack {
		if nodes, err := c.readNodes(ctx); err != nil {
			failure = err
		} else {
			s.nodesAt, s.nodes, s.conns, s.ips = now, nodes, 0, 0
			for _, n := range nodes {
				s.conns += n.ConnCount
				s.ips += n.IPCount
			}
			c.balancer.update(nodes)
		}
	}
	if now.Sub(s.roomsAt) >= c.cfg.OnlineInterval-slack {
		if rooms, err := c.readRooms(ctx); err != nil {
			failure = err
		} else {
			s.roomsAt, s.rooms, s.ranking = now, rooms, rank(rooms)
		}
	}
	c.snapshot.Store(&s)
	r.report(ctx, failure)
}

// report logs the change between working and not, not every failure.
func (r *refresher) report(ctx context.Context, failure error) {
	switch {
	case ctx.Err() != nil:
	case failure != nil:
		r.core.metrics.presence.Inc(forOnline)
		if !r.failed {
			r.core.logger.Warn("the cluster cannot be read, serving what was known", "error", failure)
		}
		r.failed = true
	case r.failed:
		r.core.logger.Info("the cluster can be read again")
		r.failed = false
	}
}

func (c *Core) readNodes(ctx context.Context) ([]presence.NodeInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	nodes, err := c.presence.Nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b presence.NodeInfo) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, nil
}

func (c *Core) readRooms(ctx context.Context) (map[string]int32, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	rooms, err := c.presence.Rooms(ctx)
	if err != nil {
		return nil, fmt.Errorf("rooms: %w", err)
	}
	return rooms, nil
}

func rank(rooms map[string]int32) []rankedRoom {
	ranking := make([]rankedRoom, 0, len(rooms))
	for key, count := range rooms {
		if _, id, ok := message.SplitRoomKey(key); ok && count > 0 {
			ranking = append(ranking, rankedRoom{key, id, count})
		}
	}
	slices.SortFunc(ranking, byRank)
	return ranking
}

// RoomCount is a room of OnlineTop.
type RoomCount struct {
	RoomID string `json:"room_id"` // without the type
	Count  int32  `json:"count"`
}

// OnlineTop lists the fullest rooms whose key starts with typ, at most limit.
// A prefix and not an equal type, because goim's callers may count on it; ids
// are whole, where goim cut them at / : and %. It is never nil.
func (c *Core) OnlineTop(typ string, limit int) ([]RoomCount, error) {
	if limit < 1 {
		return nil, &Refusal{BadLimit, fmt.Sprintf("limit = %d: 1 or more", limit)}
	}
	tops := []RoomCount{}
	for _, r := range c.snapshot.Load().ranking {
		if len(tops) == limit {
			break
		}
		if strings.HasPrefix(r.key, typ) {
			tops = append(tops, RoomCount{r.id, r.count})
		}
	}
	return tops, nil
}

// OnlineRooms counts the sessions of rooms of a type; an unknown room has 0.
func (c *Core) OnlineRooms(typ string, rooms []string) map[string]int32 {
	counts, s := make(map[string]int32, len(rooms)), c.snapshot.Load()
	for _, room := range rooms {
		counts[room] = s.rooms[message.RoomKey(typ, room)]
	}
	return counts
}

// OnlineTotal counts the connections of the cluster, and the addresses they
// come from, added up over the comets. Comets that drain are counted too,
// where goim left them out: their clients are still there.
func (c *Core) OnlineTotal() (conns, ips int64) {
	s := c.snapshot.Load()
	return s.conns, s.ips
}
