package redisreg

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/redisconn"
)

// Locate answers queries; see presence.Registry. Located.Nodes are by name.
func (r *Registry) Locate(ctx context.Context, queries []presence.Query) (presence.Located, error) {
	located, err := r.locate(ctx, queries)
	if err != nil {
		return presence.Located{}, fmt.Errorf("locate %d queries: %w", len(queries), err)
	}
	return located, nil
}

func (r *Registry) locate(ctx context.Context, queries []presence.Query) (presence.Located, error) {
	targets := 0
	for _, q := range queries {
		targets += len(q.Keys) + len(q.Mids)
	}
	keys := calls{name: "MGET"}
	users := make([]redisconn.Command, 0, targets+2)
	args := make([]any, 0, targets) // one backing array for the arguments of all
	for _, q := range queries {
		for _, key := range q.Keys {
			if key != "" {
				keys.add(keyKey(key))
			}
		}
		for _, mid := range q.Mids {
			if mid > 0 {
				args = append(args, userKey(mid))
				users = append(users, redisconn.Command{Name: "HGETALL", Args: args[len(args)-1:]})
			}
		}
	}
	commands := keys.commands(users)
	// The nodes are read last: see the doc of the package.
	replies, err := r.run(ctx, append(commands, nodeCommands()...))
	if err != nil {
		return presence.Located{}, err
	}
	values, err := keys.values(replies[len(users):len(commands)])
	if err != nil {
		return presence.Located{}, err
	}
	nodes, nowMS, err := r.liveNodes(replies[len(commands):])
	if err != nil {
		return presence.Located{}, err
	}
	reader := reader{keys: values, users: replies[:len(users)], nodes: nodes, index: byName(nodes), nowMS: nowMS}
	reader.found = make([]presence.Location, 0, targets)
	ends := make([]int, len(queries))
	for i, q := range queries {
		if err := reader.read(q); err != nil {
			return presence.Located{}, err
		}
		ends[i] = len(reader.found)
	}
	results := make([][]presence.Location, len(queries))
	from := 0
	for i, end := range ends {
		results[i] = reader.found[from:end:end]
		from = end
	}
	return presence.Located{Nodes: nodes, Results: results}, nil
}

// reader turns replies into locations.
type reader struct {
	keys  [][]byte // values of keys that are not read yet; nil = none
	users []any    // replies of users that are not read yet
	nodes []presence.NodeInfo
	index map[string]int // of nodes, by name
	nowMS uint64
	found []presence.Location
}

// read appends the locations of a query to found.
func (r *reader) read(q presence.Query) error {
	for i, key := range q.Keys {
		if key == "" {
			continue
		}
		if at, ok := parseKeyValue(r.keys[0]); ok {
			r.add(at, i)
		}
		r.keys = r.keys[1:]
	}
	for i, mid := range q.Mids {
		if mid <= 0 {
			continue
		}
		fields, ok := r.users[0].([]any)
		r.users = r.users[1:]
		if !ok || len(fields)%2 != 0 {
			return errReply
		}
		for f := 0; f < len(fields); f += 2 {
			field, ok1 := fields[f].([]byte)
			value, ok2 := fields[f+1].([]byte)
			if !ok1 || !ok2 {
				return errReply
			}
			if ends, ok := parseUint(value); !ok || ends <= r.nowMS {
				continue
			}
			if at, ok := parseIdentity(field, '/'); ok {
				r.add(at, len(q.Keys)+i)
			}
		}
	}
	return nil
}

// add keeps a location if its node lives, in the incarnation it names.
func (r *reader) add(at place, target int) {
	i, ok := r.index[string(at.node)]
	if ok && at.is(r.nodes[i].Node) {
		r.found = append(r.found, presence.Location{Node: i, Session: at.session, Target: target})
	}
}
