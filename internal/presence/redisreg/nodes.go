package redisreg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/redisconn"
)

// errReply is an answer of another shape than Redis gives.
var errReply = errors.New("unexpected reply")

// Lease renews the lease of a node; see presence.Registry. If two incarnations
// of one name are renewed, the last one holds the lease.
func (r *Registry) Lease(ctx context.Context, info presence.NodeInfo, ttl time.Duration) (bool, error) {
	existed, err := r.renewLease(ctx, info, ttl)
	if err != nil {
		return false, fmt.Errorf("lease of %s: %w", info.Name, err)
	}
	return existed, nil
}

func (r *Registry) renewLease(ctx context.Context, info presence.NodeInfo, ttl time.Duration) (bool, error) {
	record, err := encodeNode(info)
	if err != nil {
		return false, err
	}
	replies, err := r.run(ctx, []redisconn.Command{{Script: r.lease, Keys: []string{nodesKey},
		Args: []any{info.Name, decimal(info.Incarnation), ttl.Milliseconds(), record, r.clock.deadline(ctx)}}})
	if err != nil {
		return false, err
	}
	run, err := redis.String(replies[0], nil)
	if err != nil {
		return false, err
	}
	run, existed := strings.CutPrefix(run, "+")
	r.server.Store(&run)
	return existed, nil
}

// Release ends the lease of this incarnation; see presence.Registry.
func (r *Registry) Release(ctx context.Context, node presence.Node) error {
	_, err := r.run(ctx, []redisconn.Command{{Script: r.leaseRelease, Keys: []string{nodesKey},
		Args: []any{node.Name, decimal(node.Incarnation)}}})
	if err != nil {
		return fmt.Errorf("release %s: %w", node.Name, err)
	}
	return nil
}

// Nodes lists the live nodes by name; see presence.Registry. PublicAddrs are
// shared and must not be written.
func (r *Registry) Nodes(ctx context.Context) ([]presence.NodeInfo, error) {
	nodes, err := r.readNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	return nodes, nil
}

// nodeCommands ask for the clock and the leases, in this order: a lease that
// is taken between them has not ended. liveNodes reads the replies.
func nodeCommands() []redisconn.Command {
	return []redisconn.Command{{Name: "TIME"}, {Name: "HGETALL", Args: []any{nodesKey}}}
}

func (r *Registry) readNodes(ctx context.Context) ([]presence.NodeInfo, error) {
	began := time.Now()
	replies, err := r.run(ctx, nodeCommands())
	if err != nil {
		return nil, err
	}
	nodes, nowMS, err := r.liveNodes(replies)
	if err == nil {
		r.clock.read(nowMS, began)
	}
	return nodes, err
}

// parsedNode is a value of nodes and what it says.
type parsedNode struct {
	value []byte
	info  presence.NodeInfo
	run   string
}

// liveNodes reads the replies to nodeCommands: the nodes whose lease has not
// ended, by name, and the clock in milliseconds. A record that cannot be read
// is no live node. Every Locate comes through here, but a record changes only
// with a lease, so the parsed ones are kept.
func (r *Registry) liveNodes(replies []any) ([]presence.NodeInfo, uint64, error) {
	clock, err := redis.ByteSlices(replies[0], nil)
	if err != nil || len(clock) != 2 {
		return nil, 0, errReply
	}
	seconds, ok1 := parseUint(clock[0])
	micros, ok2 := parseUint(clock[1])
	fields, ok3 := replies[1].([]any)
	if !ok1 || !ok2 || !ok3 || len(fields)%2 != 0 {
		return nil, 0, errReply
	}
	nowMS := seconds*1000 + micros/1000

	r.parsedMu.Lock()
	defer r.parsedMu.Unlock()
	if len(r.parsed) > len(fields) { // at least half of them are gone
		clear(r.parsed)
	}
	nodes := make([]presence.NodeInfo, 0, len(fields)/2)
	var newest parsedNode
	for i := 0; i < len(fields); i += 2 {
		name, ok1 := fields[i].([]byte)
		value, ok2 := fields[i+1].([]byte)
		if !ok1 || !ok2 {
			return nil, 0, errReply
		}
		if ends, ok := leaseEnd(value); !ok || ends <= nowMS {
			continue
		}
		known, ok := r.parsed[string(name)]
		if !ok || !bytes.Equal(known.value, value) {
			info, run, readable := decodeNode(string(name), value)
			if !readable {
				continue
			}
			known = parsedNode{value: value, info: info, run: run}
			r.parsed[info.Name] = known
		}
		nodes = append(nodes, known.info)
		if known.info.UpdatedMS > newest.info.UpdatedMS {
			newest = known
		}
	}
	if newest.run != "" && newest.run != r.runID() {
		r.server.Store(&newest.run)
	}
	slices.SortFunc(nodes, func(a, b presence.NodeInfo) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nowMS, nil
}

// byName indexes nodes.
func byName(nodes []presence.NodeInfo) map[string]int {
	index := make(map[string]int, len(nodes))
	for i := range nodes {
		index[nodes[i].Name] = i
	}
	return index
}

// SetRooms replaces the room counts of a node; see presence.Registry. Counts
// of 0 or less are left out.
func (r *Registry) SetRooms(ctx context.Context, node presence.Node, counts map[string]int32, ttl time.Duration) error {
	_, err := r.run(ctx, []redisconn.Command{{Name: "SET",
		Args: []any{roomsKey(node.Name), encodeRooms(node.Incarnation, counts), "PX", ttl.Milliseconds()}}})
	if err != nil {
		return fmt.Errorf("set rooms of %s: %w", node.Name, err)
	}
	return nil
}

// Rooms sums the room counts of the live nodes; see presence.Registry.
func (r *Registry) Rooms(ctx context.Context) (map[string]int32, error) {
	sum, err := r.sumRooms(ctx)
	if err != nil {
		return nil, fmt.Errorf("rooms: %w", err)
	}
	return sum, nil
}

func (r *Registry) sumRooms(ctx context.Context) (map[string]int32, error) {
	nodes, err := r.readNodes(ctx)
	if err != nil {
		return nil, err
	}
	commands := make([]redisconn.Command, len(nodes))
	for i := range nodes {
		commands[i] = redisconn.Command{Name: "GET", Args: []any{roomsKey(nodes[i].Name)}}
	}
	replies, err := r.runSome(ctx, commands)
	if err != nil {
		return nil, err
	}
	sum := map[string]int32{}
	for i, reply := range replies {
		value, ok := reply.([]byte)
		if !ok {
			continue
		}
		if err := addRooms(sum, value, nodes[i].Incarnation); err != nil {
			return nil, fmt.Errorf("node %s: %w", nodes[i].Name, err)
		}
	}
	return sum, nil
}

// runID is the process of Redis, as of the last lease that was seen; "" = not
// known.
func (r *Registry) runID() string {
	if run := r.server.Load(); run != nil {
		return *run
	}
	return ""
}

// decimal keeps an uint64 away from redigo's default formatting.
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
