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
	commands := make([]redisconn.Command, 0, targets+2)
	args := make([]any, 0, targets) // one backing array for the arguments of all
	ask := func(name, key string) {
		args = append(args, key)
		commands = append(commands, redisconn.Command{Name: name, Args: args[len(args)-1:]})
	}
	for _, q := range queries {
		for _, key := range q.Keys {
			if key != "" {
				ask("GET", keyKey(key))
			}
		}
		for _, mid := range q.Mids {
			if mid > 0 {
				ask("HGETALL", userKey(mid))
			}
		}
	}
	asked := len(commands)
	replies, err := r.run(ctx, append(commands, nodeCommands()...))
	if err != nil {
		return presence.Located{}, err
	}
	nodes, nowMS, err := r.liveNodes(replies[asked:])
	if err != nil {
		return presence.Located{}, err
	}
	reader := reader{replies: replies[:asked], nodes: nodes, index: byName(nodes), nowMS: nowMS}
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
	replies []any // those not read yet
	nodes   []presence.NodeInfo
	index   map[string]int // of nodes, by name
	nowMS   uint64
	found   []presence.Location
}

// read appends the locations of a query to found.
func (r *reader) read(q presence.Query) error {
	for i, key := range q.Keys {
		if key == "" {
			continue
		}
		switch value := r.next().(type) {
		case nil:
		case []byte:
			if at, ok := parseKeyValue(value); ok {
				r.add(at, i)
			}
		default:
			return errReply
		}
	}
	for i, mid := range q.Mids {
		if mid <= 0 {
			continue
		}
		fields, ok := r.next().([]any)
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

func (r *reader) next() any {
	reply := r.replies[0]
	r.replies = r.replies[1:]
	return reply
}

// add keeps a location if its node lives, in the incarnation it names.
func (r *reader) add(at place, target int) {
	i, ok := r.index[string(at.node)]
	if ok && at.is(r.nodes[i].Node) {
		r.found = append(r.found, presence.Location{Node: i, Session: at.session, Target: target})
	}
}
