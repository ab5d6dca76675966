// Package presence says who is connected where: the nouns, and the port that
// logic uses. The truth is in Redis (redisreg).
//
// # Guarantees
//
// A location is valid only while the lease of its node lives and names the
// same incarnation, so the death of a comet needs no clean-up. A session is
// removed by its identity, never by key or user, so a late disconnect of an
// old connection cannot hide a new one (F-003.13).
package presence

import (
	"context"
	"time"
)

// Node is one life of a comet.
type Node struct {
	Name        string
	Incarnation uint64
}

// NodeInfo is what a comet tells about itself with each lease.
type NodeInfo struct {
	Node
	GRPCAddr    string // host:port of its gRPC server
	Region      string
	Zone        string
	Env         string
	Hostname    string
	PublicAddrs []string // what clients are told by nodes/weighted
	Weight      int64
	Offline     bool // hidden from new clients
	ConnCount   int64
	IPCount     int64
	UpdatedMS   int64 // Unix milliseconds of the last lease, by the registry's clock
}

// Session is one authenticated connection of a node. Mid 0 or less means
// that the connection belongs to no user.
type Session struct {
	ID  uint64
	Mid int64
	Key string
}

// Location is where a session is; Node indexes Located.Nodes.
type Location struct {
	Node    int
	Session uint64
	Target  int // index of the key, or len(Keys) + index of the mid
}

// Query asks for the sessions of keys and users.
type Query struct {
	Keys []string
	Mids []int64
}

// Located answers a batch of queries. Nodes are all live nodes, whether a
// location names them or not.
type Located struct {
	Nodes   []NodeInfo
	Results [][]Location // parallel to the queries
}

// Registry is the port to where presence is kept. All methods are safe for
// concurrent use and end with the context.
type Registry interface {
	// Connect records sessions of a node, in order. replaced[i] is the session
	// of the same node and incarnation that held the key of sessions[i]
	// before, or 0. The key then names the new session; a session of another
	// node that held it stays recorded under its user (goim: both stay open,
	// the key points to the last).
	Connect(ctx context.Context, node Node, sessions []Session) (replaced []uint64, err error)
	// Disconnect removes sessions, each only where it is still the recorded one.
	Disconnect(ctx context.Context, node Node, sessions []Session) error
	// Renew extends the locations of live sessions and restores those that are
	// not there. It never takes a key away from another session.
	Renew(ctx context.Context, node Node, sessions []Session) error
	// Lease renews the lease of a node for ttl; existed tells whether the
	// lease of the same incarnation was still there. If not, or if the store
	// has restarted since, locations may be gone, too.
	Lease(ctx context.Context, info NodeInfo, ttl time.Duration) (existed bool, err error)
	// Release ends the lease of this incarnation of the node at once.
	Release(ctx context.Context, node Node) error
	// Nodes lists the live nodes.
	Nodes(ctx context.Context) ([]NodeInfo, error)
	// Locate answers queries from one moment after the call began.
	Locate(ctx context.Context, queries []Query) (Located, error)
	// SetRooms replaces the room counts of a node, for ttl.
	SetRooms(ctx context.Context, node Node, counts map[string]int32, ttl time.Duration) error
	// Rooms returns the room counts of the live nodes, summed.
	Rooms(ctx context.Context) (map[string]int32, error)
	// Ping tells whether the registry answers.
	Ping(ctx context.Context) error
}
