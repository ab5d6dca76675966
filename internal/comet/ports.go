package comet

import (
	"context"
	"net/netip"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Conn is one client connection as a transport gives it to the core. All
// methods are for the loop that owns the session.
type Conn interface {
	// Write takes all of p or closes the connection: what the socket does not
	// take now is buffered by the transport. p may be shared and is not kept.
	Write(p []byte)
	// Buffered is the number of bytes that wait for the socket.
	Buffered() int
	// Close ends the connection after what is buffered was tried once more. It
	// may wait for the peer, so that what the peer was told is not lost, and
	// has Bucket.Linger end that. Reset drops the connection at once. Bucket.Closed
	// follows in any case.
	Close()
	Reset()
	// Resume looks again at what was received while the session was paused.
	Resume()
}

// Loop runs functions on one event loop, one after the other. Execute may be
// called from any goroutine and must not run fn before it returns. Yield is
// called on the loop when it has more to do: the loop goes on after the
// goroutines of the process that have something to do by now. Pages is nil where
// the kernel has none to share.
type Loop interface {
	Execute(fn func())
	Yield()
	Pages() Pages
}

// Pages is memory of the kernel from which many connections of one loop are
// written to without a copy for each of them. It belongs to the loop.
type Pages interface {
	// Put copies p there; ok is false when it cannot be.
	Put(p []byte) (at int, ok bool)
	// Write does what c.Write(p) does, for a p that was put at at.
	Write(c Conn, p []byte, at int)
	// Drop gives back what Put took. What is still on its way to a client stays
	// as it is.
	Drop(at int)
}

// Node is one life of this comet.
type Node struct {
	Name        string
	Incarnation uint64
}

// NodeInfo is what the rest of the system is told about this comet.
type NodeInfo struct {
	GRPCAddr    string // host:port, as jobs dial it
	Region      string
	Zone        string
	Env         string
	Hostname    string
	PublicAddrs []string
	Weight      int64
	Offline     bool
	ConnCount   int64
	IPCount     int64
}

// ConnectItem is one session that wants to be authenticated.
type ConnectItem struct {
	Session uint64
	Token   []byte // body of the auth packet
	Cookie  string
	IP      netip.Addr
	Ver     int16
	sinceMS int64 // when it came, by Gateway.nowMS
}

// ConnectResult answers a ConnectItem. Code 0 means accepted.
type ConnectResult struct {
	Code        uint16
	Reason      string
	Mid         int64
	Key         string
	Room        string // first room, "" = none
	Accepts     []int32
	HeartbeatMS int64
	Replaced    uint64 // session of this node that held the key before; 0 = none
	// Version 2 only.
	Rooms  []string // durable rooms of the user, besides Room
	Tops   []timeline.Top
	Resume []timeline.Cursor // to sync as soon as the session is live
}

// SessionRef names a session where its location is recorded.
type SessionRef struct {
	Session uint64
	Mid     int64
	Key     string
}

// Refresh is what a comet reports with each renewal of its lease.
type Refresh struct {
	Info     NodeInfo
	Sessions []SessionRef
	Rooms    map[string]int32 // nil = not reported this time
	Shares   []Share          // of pushes to all at a speed
}

// RefreshReply is what it learns.
type RefreshReply struct {
	Resync bool // report all sessions: their locations may be lost
	Rooms  map[string]int32
	// Canceled are all pushes to all that are canceled and not yet forgotten.
	Canceled []message.ID
}

// Logic is the port to logic. Calls carry what came together; results are
// parallel to the items.
type Logic interface {
	Connect(ctx context.Context, node Node, items []ConnectItem) ([]ConnectResult, error)
	Disconnect(ctx context.Context, node Node, sessions []SessionRef) error
	Refresh(ctx context.Context, node Node, r Refresh) (RefreshReply, error)
	Leave(ctx context.Context, node Node) error
	Stored
}
