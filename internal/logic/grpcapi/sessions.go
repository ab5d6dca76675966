package grpcapi

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

var _ logicv1.LogicServer = (*Service)(nil)

// Connect authenticates sessions and records where they are.
func (s *Service) Connect(ctx context.Context, r *logicv1.ConnectRequest) (*logicv1.ConnectReply, error) {
	node, err := nodeOf(r.GetNode())
	if err != nil {
		return nil, err
	}
	items := make([]logic.ConnectItem, len(r.GetItems()))
	for i, it := range r.GetItems() {
		if it.GetSession() == 0 {
			return nil, status.Errorf(codes.InvalidArgument, "items[%d].session = 0: 1 or more", i)
		}
		items[i] = logic.ConnectItem{Session: it.GetSession(), Token: it.GetToken(), Cookie: it.GetCookie(), IP: it.GetIp(), Ver: it.GetVer()}
	}
	reply := &logicv1.ConnectReply{Results: make([]*logicv1.ConnectResult, len(items))}
	for i, result := range s.core.Connect(ctx, node, items) {
		reply.Results[i] = &logicv1.ConnectResult{
			Code:        result.Code,
			Reason:      result.Reason,
			Mid:         result.Mid,
			Key:         result.Key,
			Room:        result.Room,
			Accepts:     result.Accepts,
			HeartbeatMs: result.Heartbeat.Milliseconds(),
			Platform:    result.Platform,
			Replaced:    result.Replaced,
			Rooms:       result.Rooms,
			Tops:        topsOf(result.Tops),
			Resume:      resumeOf(result.Resume),
		}
	}
	return reply, nil
}

// Disconnect removes sessions, each only if it is still the recorded one.
func (s *Service) Disconnect(ctx context.Context, r *logicv1.DisconnectRequest) (*logicv1.DisconnectReply, error) {
	node, err := nodeOf(r.GetNode())
	if err != nil {
		return nil, err
	}
	if err := s.core.Disconnect(ctx, node, sessionsOf(r.GetSessions())); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &logicv1.DisconnectReply{}, nil
}

// Refresh renews the lease of a comet, locations and room counts.
func (s *Service) Refresh(ctx context.Context, r *logicv1.RefreshRequest) (*logicv1.RefreshReply, error) {
	node, err := nodeOf(r.GetNode())
	if err != nil {
		return nil, err
	}
	info := r.GetInfo()
	if info.GetGrpcAddr() == "" {
		return nil, status.Error(codes.InvalidArgument, `info.grpc_addr = "": host:port that jobs dial`)
	}
	shares, err := sharesOf(r.GetShares())
	if err != nil {
		return nil, err
	}
	answer, err := s.core.Refresh(ctx, logic.Refresh{
		Info: presence.NodeInfo{
			Node:        node,
			GRPCAddr:    info.GetGrpcAddr(),
			Region:      info.GetRegion(),
			Zone:        info.GetZone(),
			Env:         info.GetEnv(),
			Hostname:    info.GetHostname(),
			PublicAddrs: info.GetPublicAddrs(),
			Weight:      info.GetWeight(),
			Offline:     info.GetOffline(),
			ConnCount:   info.GetConnCount(),
			IPCount:     info.GetIpCount(),
		},
		Sessions:  sessionsOf(r.GetSessions()),
		WithRooms: r.GetWithRooms(),
		Rooms:     r.GetRooms(),
		Shares:    shares,
	})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	reply := &logicv1.RefreshReply{Resync: answer.Resync, RoomCounts: answer.RoomCounts}
	for i := range answer.Canceled {
		reply.Canceled = append(reply.Canceled, answer.Canceled[i][:])
	}
	return reply, nil
}

// Leave ends the lease of a comet that stops.
func (s *Service) Leave(ctx context.Context, r *logicv1.LeaveRequest) (*logicv1.LeaveReply, error) {
	node, err := nodeOf(r.GetNode())
	if err != nil {
		return nil, err
	}
	if err := s.core.Leave(ctx, node); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &logicv1.LeaveReply{}, nil
}

func nodeOf(n *logicv1.Node) (presence.Node, error) {
	if n.GetName() == "" {
		return presence.Node{}, status.Error(codes.InvalidArgument, `node.name = "": not empty`)
	}
	return presence.Node{Name: n.GetName(), Incarnation: n.GetIncarnation()}, nil
}

// maxShares is how many broadcasts one call may tell of.
const maxShares = 1024

func sharesOf(list []*logicv1.BroadcastShare) ([]presence.Share, error) {
	if len(list) > maxShares {
		return nil, status.Errorf(codes.InvalidArgument, "%d shares: at most %d", len(list), maxShares)
	}
	shares := make([]presence.Share, len(list))
	for i, one := range list {
		if len(one.GetMsgId()) != len(message.ID{}) {
			return nil, status.Errorf(codes.InvalidArgument, "shares[%d].msg_id has %d bytes: %d", i, len(one.GetMsgId()), len(message.ID{}))
		}
		shares[i] = presence.Share{
			ID: message.ID(one.GetMsgId()), Comets: one.GetComets(), Speed: one.GetSpeed(),
			StartedMS: one.GetStartedMs(), Finished: one.GetFinished(), Total: one.GetTotal(),
			Delivered: one.GetDelivered(), Filtered: one.GetFiltered(), Slow: one.GetSlow(), Canceled: one.GetCanceled(),
		}
	}
	return shares, nil
}

func sessionsOf(list []*logicv1.Session) []presence.Session {
	sessions := make([]presence.Session, len(list))
	for i, one := range list {
		sessions[i] = presence.Session{ID: one.GetSession(), Mid: one.GetMid(), Key: one.GetKey()}
	}
	return sessions
}
