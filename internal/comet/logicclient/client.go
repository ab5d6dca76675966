// Package logicclient is the comet's way to logic: comet.Logic over gRPC.
//
// # Concurrency
//
// Client is safe for concurrent use; it holds one connection, which spreads
// the calls over all logics that its resolver knows.
//
// # Guarantees
//
// Every call carries its caller's deadline. A call that no logic took (gRPC
// says Unavailable) may be made again by the caller: all of them name the
// session, so that a repeat changes nothing.
package logicclient

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
)

// Client implements comet.Logic.
type Client struct{ rpc logicv1.LogicClient }

var _ comet.Logic = (*Client)(nil)

// New makes a client on a connection, which stays the caller's.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: logicv1.NewLogicClient(conn)}
}

// Connect implements comet.Logic.
func (c *Client) Connect(ctx context.Context, node comet.Node, items []comet.ConnectItem) ([]comet.ConnectResult, error) {
	req := &logicv1.ConnectRequest{Node: nodeOf(node), Items: make([]*logicv1.ConnectItem, len(items))}
	for i, it := range items {
		// A header may carry any bytes, a string of protobuf only text: one bad
		// cookie would fail the call for everybody in it.
		cookie := text(it.Cookie)
		req.Items[i] = &logicv1.ConnectItem{Session: it.Session, Token: it.Token, Cookie: cookie, Ver: int32(it.Ver)}
		if it.IP.IsValid() {
			req.Items[i].Ip = it.IP.String()
		}
	}
	reply, err := c.rpc.Connect(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("logic connect: %w", err)
	}
	out := make([]comet.ConnectResult, len(reply.Results))
	for i, r := range reply.Results {
		out[i] = comet.ConnectResult{
			Code: uint16(min(r.Code, 0xffff)), Reason: r.Reason, Mid: r.Mid, Key: r.Key, Room: r.Room,
			Accepts: r.Accepts, HeartbeatMS: r.HeartbeatMs, Replaced: r.Replaced,
			Rooms: r.Rooms, Tops: topsFrom(r.Tops), Resume: cursorsFrom(r.Resume),
		}
	}
	return out, nil
}

// Disconnect implements comet.Logic.
func (c *Client) Disconnect(ctx context.Context, node comet.Node, sessions []comet.SessionRef) error {
	if _, err := c.rpc.Disconnect(ctx, &logicv1.DisconnectRequest{Node: nodeOf(node), Sessions: sessionsOf(sessions)}); err != nil {
		return fmt.Errorf("logic disconnect: %w", err)
	}
	return nil
}

// Refresh implements comet.Logic.
func (c *Client) Refresh(ctx context.Context, node comet.Node, r comet.Refresh) (comet.RefreshReply, error) {
	i := r.Info
	reply, err := c.rpc.Refresh(ctx, &logicv1.RefreshRequest{
		Node: nodeOf(node),
		Info: &logicv1.NodeInfo{
			GrpcAddr: i.GRPCAddr, Region: i.Region, Zone: i.Zone, Env: i.Env, Hostname: i.Hostname,
			PublicAddrs: i.PublicAddrs, Weight: i.Weight, Offline: i.Offline, ConnCount: i.ConnCount, IpCount: i.IPCount,
		},
		Sessions:  sessionsOf(r.Sessions),
		WithRooms: r.Rooms != nil,
		Rooms:     r.Rooms,
		Shares:    sharesOf(r.Shares),
	})
	if err != nil {
		return comet.RefreshReply{}, fmt.Errorf("logic refresh: %w", err)
	}
	out := comet.RefreshReply{Resync: reply.Resync, Rooms: reply.RoomCounts}
	for _, id := range reply.Canceled {
		if len(id) == len(message.ID{}) {
			out.Canceled = append(out.Canceled, message.ID(id))
		}
	}
	return out, nil
}

// Leave implements comet.Logic.
func (c *Client) Leave(ctx context.Context, node comet.Node) error {
	if _, err := c.rpc.Leave(ctx, &logicv1.LeaveRequest{Node: nodeOf(node)}); err != nil {
		return fmt.Errorf("logic leave: %w", err)
	}
	return nil
}

// text makes a string of a client fit for protobuf.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func nodeOf(n comet.Node) *logicv1.Node {
	return &logicv1.Node{Name: n.Name, Incarnation: n.Incarnation}
}

func sharesOf(shares []comet.Share) []*logicv1.BroadcastShare {
	out := make([]*logicv1.BroadcastShare, len(shares))
	for i := range shares {
		s := &shares[i]
		out[i] = &logicv1.BroadcastShare{
			MsgId: s.ID[:], Comets: s.Comets, Speed: s.Speed, StartedMs: s.StartedMS, Finished: s.Finished, Total: s.Total,
			Delivered: s.Delivered, Filtered: s.Filtered, Slow: s.Slow, Canceled: s.Canceled,
		}
	}
	return out
}

func sessionsOf(refs []comet.SessionRef) []*logicv1.Session {
	out := make([]*logicv1.Session, len(refs))
	for i, r := range refs {
		out[i] = &logicv1.Session{Session: r.Session, Mid: r.Mid, Key: r.Key}
	}
	return out
}
