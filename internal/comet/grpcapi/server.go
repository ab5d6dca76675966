// Package grpcapi is the comet's gRPC service for jobs and operators: ordered
// dispatch streams, the room index, kick and drain.
//
// # Concurrency
//
// One stream is one lane of one job: its receiver hands batches to the loops
// in order, its sender answers them in order. The number of batches without
// an answer is bounded, and a loop that is behind makes the receiver wait, so
// gRPC's flow control slows the job down.
//
// # Guarantees
//
// Every push of a batch is answered with an outcome for each target. When a
// stream breaks, what was handed over is still delivered; the job may send it
// again on another stream, and the gateway's guard drops the repeat.
package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
)

// window is the number of batches of one stream that may wait for their end.
const window = 64

// Server implements cometv1.CometServer.
type Server struct {
	cometv1.UnimplementedCometServer
	gateway *comet.Gateway
	log     *slog.Logger
	life    context.Context
	end     context.CancelFunc
}

var _ cometv1.CometServer = (*Server)(nil)

// Register adds the service to a gRPC server. Close ends its streams.
func Register(r grpc.ServiceRegistrar, gateway *comet.Gateway, log *slog.Logger) *Server {
	s := &Server{gateway: gateway, log: log}
	s.life, s.end = context.WithCancel(context.Background())
	cometv1.RegisterCometServer(r, s)
	return s
}

// Close ends the streams, so that a graceful stop of the gRPC server does not
// wait for jobs that never hang up.
func (s *Server) Close() { s.end() }

// Dispatch serves one lane of one job.
func (s *Server) Dispatch(stream grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	node := s.gateway.Node()
	switch {
	case hello == nil:
		return status.Error(codes.InvalidArgument, "the first request of a dispatch stream must be a Hello")
	case hello.Lanes == 0 || hello.Lane >= hello.Lanes:
		return status.Errorf(codes.InvalidArgument, "lane is %d of %d lanes, allowed is 0 to lanes-1", hello.Lane, hello.Lanes)
	case hello.Incarnation != 0 && hello.Incarnation != node.Incarnation:
		return status.Errorf(codes.FailedPrecondition, "this is incarnation %d of %s, not %d", node.Incarnation, node.Name, hello.Incarnation)
	}
	if err := stream.Send(&cometv1.DispatchReply{Kind: &cometv1.DispatchReply_Welcome{
		Welcome: &cometv1.Welcome{Node: node.Name, Incarnation: node.Incarnation},
	}}); err != nil {
		return err
	}
	lane := comet.Lane{Log: hello.Log, Lane: hello.Lane, Lanes: hello.Lanes}
	deliveries := make(chan *comet.Delivery, window)
	sent := make(chan error, 1)
	go func() { sent <- s.answer(stream, deliveries) }()
	received := s.receive(stream, lane, deliveries)
	close(deliveries)
	if err := <-sent; err != nil && received == nil {
		return err
	}
	return received
}

// receive hands batches over until the job hangs up or the server stops.
func (s *Server) receive(stream grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply], lane comet.Lane, deliveries chan<- *comet.Delivery) error {
	requests := make(chan *cometv1.DispatchRequest)
	failed := make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	for {
		select {
		case req := <-requests:
			batch := req.GetBatch()
			if batch == nil {
				return status.Error(codes.InvalidArgument, "after the Hello every request must be a Batch")
			}
			pushes, err := pushesOf(batch)
			if err != nil {
				return err
			}
			d, err := s.gateway.Dispatch(ctx, lane, pushes)
			if err != nil {
				return status.Error(codes.Unavailable, err.Error())
			}
			select {
			case deliveries <- d:
			case <-stream.Context().Done():
				return stream.Context().Err()
			case <-s.life.Done():
				return errStopping
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.life.Done():
			return errStopping
		}
	}
}

var errStopping = status.Error(codes.Unavailable, "this comet stops")

// answer sends the results in the order of the batches.
func (s *Server) answer(stream grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply], deliveries <-chan *comet.Delivery) error {
	for d := range deliveries {
		select {
		case <-d.Done():
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.life.Done():
			return errStopping
		}
		if err := stream.Send(&cometv1.DispatchReply{Kind: &cometv1.DispatchReply_Result{Result: resultOf(d)}}); err != nil {
			return err
		}
	}
	return nil
}

func pushesOf(batch *cometv1.Batch) ([]comet.Push, error) {
	pushes := make([]comet.Push, len(batch.Pushes))
	for i, p := range batch.Pushes {
		kinds := 0
		for _, set := range []bool{len(p.Sessions) > 0, p.Room != "", p.All} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			return nil, status.Errorf(codes.InvalidArgument, "push %d of a batch names %d kinds of targets, allowed is exactly one of sessions, room and all", i, kinds)
		}
		pushes[i] = comet.Push{
			Partition: p.Partition, Offset: p.Offset, Op: p.Op, Body: p.Body,
			Class: classOf(message.Flags(p.Flags)), Conflate: p.Conflate,
			Sessions: p.Sessions, Room: p.Room, All: p.All, Speed: p.Speed, Comets: p.Comets,
		}
		if len(p.MsgId) == len(message.ID{}) { // a goim logic gives none
			pushes[i].ID = message.ID(p.MsgId)
		}
		if err := addPositions(&pushes[i], i, p); err != nil {
			return nil, err
		}
	}
	return pushes, nil
}

// classOf is the priority that the flags of a message ask for.
func classOf(f message.Flags) comet.Class {
	switch {
	case f.Has(message.Urgent):
		return comet.High
	case f.Has(message.Low):
		return comet.Low
	}
	return comet.Normal
}

func resultOf(d *comet.Delivery) *cometv1.BatchResult {
	out := &cometv1.BatchResult{Results: make([]*cometv1.PushResult, len(d.Results))}
	for i := range d.Results {
		r := &d.Results[i]
		pr := &cometv1.PushResult{Delivered: r.Delivered, NotHere: r.NotHere, Filtered: r.Filtered, Slow: r.Slow, Conflated: r.Conflated, Canceled: r.Canceled, Repeat: r.Repeat}
		if len(r.Sessions) > 0 {
			pr.Sessions = make([]cometv1.Outcome, len(r.Sessions))
			for t, o := range r.Sessions {
				pr.Sessions[t] = outcomeOf(o)
			}
		}
		out.Results[i] = pr
	}
	return out
}

func outcomeOf(o comet.Outcome) cometv1.Outcome {
	switch o {
	case comet.Delivered:
		return cometv1.Outcome_DELIVERED
	case comet.NotHere:
		return cometv1.Outcome_NOT_HERE
	case comet.Filtered:
		return cometv1.Outcome_FILTERED
	case comet.Slow:
		return cometv1.Outcome_SLOW
	case comet.Repeat:
		return cometv1.Outcome_REPEAT
	}
	return cometv1.Outcome_OUTCOME_UNKNOWN
}

// Rooms tells a job which rooms have members here, and takes its
// acknowledgements.
func (s *Server) Rooms(stream grpc.BidiStreamingServer[cometv1.RoomsAck, cometv1.RoomsUpdate]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	w := s.gateway.Rooms().Watch(first.Job)
	defer w.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(s.life, cancel)
	defer stop()
	go func() {
		defer cancel()
		for {
			ack, err := stream.Recv()
			if err != nil {
				return
			}
			w.Ack(ack.Version)
		}
	}()
	node := s.gateway.Node()
	for {
		u, err := w.Next(ctx)
		if err != nil {
			if s.life.Err() != nil {
				return errStopping
			}
			return nil
		}
		if err := stream.Send(&cometv1.RoomsUpdate{
			Node: node.Name, Incarnation: node.Incarnation, Version: u.Version,
			Snapshot: u.Snapshot, SnapshotEnd: u.SnapshotEnd, Added: u.Added, Removed: u.Removed,
		}); err != nil {
			return fmt.Errorf("rooms: %w", err)
		}
	}
}

// Kick closes sessions.
func (s *Server) Kick(_ context.Context, req *cometv1.KickRequest) (*cometv1.KickReply, error) {
	if node := s.gateway.Node(); req.Incarnation != 0 && req.Incarnation != node.Incarnation {
		return nil, status.Errorf(codes.FailedPrecondition, "this is incarnation %d of %s, not %d", node.Incarnation, node.Name, req.Incarnation)
	}
	why := comet.Kicked
	if req.Code != 0 {
		why = comet.ReasonOf(uint16(min(req.Code, 0xffff)))
	}
	s.gateway.Kick(req.Sessions, why)
	return &cometv1.KickReply{Kicked: uint32(len(req.Sessions))}, nil
}

// Drain starts a paced drain.
func (s *Server) Drain(_ context.Context, req *cometv1.DrainRequest) (*cometv1.DrainReply, error) {
	n := s.gateway.StartDrain(time.Duration(req.WindowMs) * time.Millisecond)
	return &cometv1.DrainReply{Sessions: uint32(n)}, nil
}
