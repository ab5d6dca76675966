package logic

import (
	"context"
	"errors"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Close codes of a refused connection (protocol.md): 3101 = reconnect with
// back-off, 3500 = stay away.
const (
	CodeUnavailable uint32 = 3101
	CodeBadToken    uint32 = 3500
)

// ConnectItem is one session that wants in.
type ConnectItem struct {
	Session uint64
	Token   []byte // body of the auth packet
	Cookie  string
	IP      string
	Ver     int32 // of the protocol; stored messages are for 2 and above
}

// ConnectResult is a session that is in (Code 0), or a close code and why.
type ConnectResult struct {
	Code   uint32
	Reason string
	Identity
	Heartbeat time.Duration // a session that is silent for longer is closed
	Replaced  uint64        // session of the same node that held the key; 0 = none
	SessionReading
}

// SessionReading is what a session of version 2 reads of timelines.
type SessionReading struct {
	Rooms  []string          // durable rooms of the user, besides the named one
	Tops   []timeline.Top    // of the inbox and of all rooms
	Resume []timeline.Cursor // what the auth packet asked for
}

// Connect authenticates sessions of one node and records where they are. The
// results are parallel to the items; it never fails as a whole. A session is
// recorded when nothing else can turn it away: nobody would remove it.
func (c *Core) Connect(ctx context.Context, node presence.Node, items []ConnectItem) []ConnectResult {
	results := make([]ConnectResult, len(items))
	for i, item := range items {
		identity, err := c.identify(ctx, item)
		if err != nil {
			results[i] = refuseConnect(err)
			continue
		}
		results[i] = ConnectResult{
			Identity:  identity,
			Heartbeat: c.cfg.Node.Heartbeat * time.Duration(c.cfg.Node.HeartbeatMax),
		}
	}
	// One deadline for rooms and tops: comets do not wait for long.
	reading, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	c.connectRooms(reading, node, items, results)
	if c.recordSessions(ctx, node, items, results) {
		c.connectTops(reading, items, results)
	}
	for i := range results {
		c.metrics.connect.Inc(connectResult(results[i].Code))
	}
	return results
}

// recordSessions tells presence of the sessions that are not turned away, and
// whether there are any afterwards.
func (c *Core) recordSessions(ctx context.Context, node presence.Node, items []ConnectItem, results []ConnectResult) bool {
	sessions := make([]presence.Session, 0, len(items))
	index := make([]int, 0, len(items)) // of the result of each session
	for i, item := range items {
		if results[i].Code == 0 {
			sessions = append(sessions, presence.Session{ID: item.Session, Mid: results[i].Mid, Key: results[i].Key})
			index = append(index, i)
		}
	}
	if len(sessions) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	replaced, err := c.presence.Connect(ctx, node, sessions)
	if err == nil && len(replaced) != len(sessions) {
		err = errors.New("answers do not match the sessions")
	}
	if err != nil {
		c.metrics.presence.Inc(forConnect)
		c.storms.Warn("connect", "sessions turned away, presence does not answer", "node", node.Name, "sessions", len(sessions), "error", err)
	}
	for n, i := range index {
		if err != nil {
			results[i] = ConnectResult{Code: CodeUnavailable, Reason: "presence is away, reconnect"}
			continue
		}
		results[i].Replaced = replaced[n]
	}
	return err == nil
}

func (c *Core) identify(ctx context.Context, item ConnectItem) (Identity, error) {
	identity, err := c.auth.Authenticate(ctx, item.Token, item.Cookie, item.IP)
	if err != nil {
		return Identity{}, err
	}
	if identity.Key == "" {
		identity.Key, err = newKey(c.random)
	}
	return identity, err
}

func refuseConnect(err error) ConnectResult {
	var bad *BadToken
	if errors.As(err, &bad) {
		return ConnectResult{Code: CodeBadToken, Reason: bad.Error()}
	}
	return ConnectResult{Code: CodeUnavailable, Reason: "authentication is away, reconnect"}
}
