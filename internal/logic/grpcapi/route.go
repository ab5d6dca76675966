package grpcapi

import (
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/presence"
)

// Route answers requests one after the other, so that replies cannot overtake.
func (s *Service) Route(stream grpc.BidiStreamingServer[logicv1.RouteRequest, logicv1.RouteReply]) error {
	requests, ended := receive(stream)
	for {
		select {
		case <-s.draining:
			return status.Error(codes.Unavailable, "draining")
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case r := <-requests:
			if err := stream.Send(s.route(stream, r)); err != nil {
				return err
			}
		}
	}
}

// receive reads the stream in a goroutine of its own, because Recv cannot be
// woken for a drain; it ends at the latest with the stream's context, which
// ends when the handler returns.
func receive(stream grpc.BidiStreamingServer[logicv1.RouteRequest, logicv1.RouteReply]) (<-chan *logicv1.RouteRequest, <-chan error) {
	requests, ended := make(chan *logicv1.RouteRequest), make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return requests, ended
}

func (s *Service) route(stream grpc.ServerStream, r *logicv1.RouteRequest) *logicv1.RouteReply {
	if r.GetFold() != nil {
		return s.routeStored(stream.Context(), r)
	}
	queries := make([]presence.Query, len(r.GetItems()))
	for i, item := range r.GetItems() {
		queries[i] = presence.Query{Keys: item.GetKeys(), Mids: item.GetMids()}
	}
	routed, err := s.core.Route(stream.Context(), queries)
	if err != nil {
		return &logicv1.RouteReply{Error: err.Error()}
	}
	return routeReply(routed)
}

func routeReply(routed logic.Routed) *logicv1.RouteReply {
	reply := &logicv1.RouteReply{
		Nodes:   make([]*logicv1.LiveNode, len(routed.Nodes)),
		Results: make([]*logicv1.RouteResult, len(routed.Results)),
	}
	for i, n := range routed.Nodes {
		reply.Nodes[i] = &logicv1.LiveNode{
			Node:     &logicv1.Node{Name: n.Name, Incarnation: n.Incarnation},
			GrpcAddr: n.GRPCAddr,
		}
	}
	for i, item := range routed.Results {
		result := &logicv1.RouteResult{Offline: uint32(item.Offline)}
		for _, at := range item.Locations {
			result.Locations = append(result.Locations, &logicv1.Location{
				Node: uint32(at.Node), Session: at.Session, Target: uint32(at.Target),
			})
		}
		if item.Appended != nil {
			result.Appended = appendedReply(item.Appended)
		}
		reply.Results[i] = result
	}
	return reply
}
