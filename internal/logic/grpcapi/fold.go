package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
)

// routeStored answers a request with a fold.
func (s *Service) routeStored(ctx context.Context, r *logicv1.RouteRequest) *logicv1.RouteReply {
	items := make([]logic.StoredQuery, len(r.GetItems()))
	for i, item := range r.GetItems() {
		items[i].Query = presence.Query{Keys: item.GetKeys(), Mids: item.GetMids()}
		if item.GetStored() == nil {
			continue
		}
		record, err := readRecord(item)
		if err != nil {
			return &logicv1.RouteReply{Error: fmt.Sprintf("items[%d]: %v", i, err)}
		}
		items[i].Stored = &record
	}
	routed, full, err := s.core.RouteStored(ctx, readFold(r.GetFold()), items)
	switch {
	case errors.Is(err, timeline.ErrRewind):
		return &logicv1.RouteReply{Status: logicv1.RouteReply_REWIND}
	case errors.Is(err, timeline.ErrStaleFence):
		return &logicv1.RouteReply{Status: logicv1.RouteReply_STALE_FENCE}
	case err != nil:
		return &logicv1.RouteReply{Error: err.Error()}
	}
	reply := routeReply(routed)
	if full {
		reply.Status = logicv1.RouteReply_FULL
	}
	return reply
}

// readRecord reads a stored item: one inbox per mid, or one room.
func readRecord(item *logicv1.RouteItem) (timeline.Record, error) {
	stored := item.GetStored()
	m, err := readStored(stored.GetMessage())
	if err != nil {
		return timeline.Record{}, err
	}
	r := timeline.Record{Offset: stored.GetOffset(), Message: m}
	switch room := stored.GetRoom(); {
	case len(item.GetKeys()) > 0 || (room == "") == (len(item.GetMids()) == 0):
		return timeline.Record{}, errors.New("a stored record is for users or for one room")
	case room != "":
		if err := message.CheckRoomKey(room); err != nil {
			return timeline.Record{}, err
		}
		r.Timelines = []message.Timeline{message.ToRoom(room).Timeline()}
	default:
		r.Timelines = make([]message.Timeline, len(item.GetMids()))
		for i, mid := range item.GetMids() {
			r.Timelines[i] = message.Inbox(mid)
		}
	}
	return r, nil
}

func appendedReply(appended []timeline.Appended) []*logicv1.Appended {
	block, list := make([]logicv1.Appended, len(appended)), make([]*logicv1.Appended, len(appended))
	for i, a := range appended {
		// The verdicts and modes have the numbers of the protocol.
		block[i].Verdict, block[i].Mode = logicv1.Appended_Verdict(a.Verdict), logicv1.ArchiveMode(a.Mode)
		block[i].Epoch, block[i].Seq = a.Epoch, a.Seq
		list[i] = &block[i]
	}
	return list
}

// TakeFence makes a worker the one whose rows are archived.
func (s *Service) TakeFence(ctx context.Context, r *logicv1.TakeFenceRequest) (*logicv1.FenceReply, error) {
	var over *timeline.Fence
	if r.GetOver() != nil {
		over = &timeline.Fence{Owner: r.GetOver().GetOwner(), Rewinds: r.GetOver().GetRewinds()}
	}
	p := timeline.Partition{Log: r.GetLog(), Generation: r.GetGeneration(), Number: r.GetPartition()}
	return fenceReply(s.core.TakeFence(ctx, p, r.GetOwner(), over))
}

// RaiseFence begins a new life of the same worker.
func (s *Service) RaiseFence(ctx context.Context, r *logicv1.RaiseFenceRequest) (*logicv1.FenceReply, error) {
	return fenceReply(s.core.RaiseFence(ctx, readFold(r.GetFold())))
}

func fenceReply(f timeline.Fold, err error) (*logicv1.FenceReply, error) {
	var stale *timeline.StaleFence
	switch {
	case errors.As(err, &stale):
		return &logicv1.FenceReply{Stale: true, Fence: writeFence(stale.Stands)}, nil
	case errors.Is(err, timeline.ErrLogChanged):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &logicv1.FenceReply{Fence: writeFence(f.Fence), Incarnation: string(f.Incarnation)}, nil
}

// Archive writes rows.
func (s *Service) Archive(ctx context.Context, r *logicv1.ArchiveRequest) (*logicv1.ArchiveReply, error) {
	a := timeline.Archiving{Fold: readFold(r.GetFold()), Records: make([]timeline.Positioned, len(r.GetRecords()))}
	for i, record := range r.GetRecords() {
		m, err := readStored(record.GetMessage())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "records[%d]: %v", i, err)
		}
		out := &a.Records[i]
		out.Offset, out.Message = record.GetOffset(), m
		out.Places = make([]timeline.Place, len(record.GetPlaces()))
		for j, p := range record.GetPlaces() {
			mode := timeline.Mode(p.GetMode())
			if mode != timeline.BestEffort && mode != timeline.Required || !message.Timeline(p.GetTimeline()).CanStore() {
				return nil, status.Errorf(codes.InvalidArgument, "records[%d].places[%d]: %s with mode %v", i, j, p.GetTimeline(), p.GetMode())
			}
			out.Places[j] = timeline.Place{
				Timeline: message.Timeline(p.GetTimeline()),
				Position: timeline.Position{Epoch: p.GetEpoch(), Seq: p.GetSeq()},
				Mode:     mode,
			}
		}
	}
	switch err := s.core.Archive(ctx, a); {
	case err == nil:
		return &logicv1.ArchiveReply{}, nil
	case errors.Is(err, timeline.ErrStaleFence):
		return &logicv1.ArchiveReply{Status: logicv1.ArchiveReply_STALE_FENCE}, nil
	case errors.Is(err, timeline.ErrConflict):
		return &logicv1.ArchiveReply{Status: logicv1.ArchiveReply_CONFLICT, Message: err.Error()}, nil
	default:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
}

func readFold(f *logicv1.Fold) timeline.Fold {
	return timeline.Fold{
		Partition:   timeline.Partition{Log: f.GetLog(), Generation: f.GetGeneration(), Number: f.GetPartition()},
		Fence:       timeline.Fence{Owner: f.GetFence().GetOwner(), Rewinds: f.GetFence().GetRewinds()},
		Incarnation: timeline.Incarnation(f.GetIncarnation()),
	}
}

func writeFence(f timeline.Fence) *logicv1.Fence {
	return &logicv1.Fence{Owner: f.Owner, Rewinds: f.Rewinds}
}

// readStored reads a message as timelines keep it.
func readStored(in *logicv1.StoredMessage) (message.Message, error) {
	m := message.Message{
		Op:         in.GetOp(),
		Flags:      message.Flags(in.GetFlags()),
		Kind:       message.Kind(in.GetKind()),
		Sender:     in.GetSender(),
		ClientID:   in.GetClientId(),
		Operator:   in.GetOperator(),
		Source:     in.GetSource(),
		AcceptedMS: in.GetAcceptedMs(),
		ExpiresMS:  in.GetExpiresMs(),
		Body:       in.GetBody(),
	}
	if copy(m.ID[:], in.GetMsgId()) != len(m.ID) || len(in.GetMsgId()) != len(m.ID) {
		return message.Message{}, fmt.Errorf("msg_id: %d bytes, needed are %d", len(in.GetMsgId()), len(m.ID))
	}
	if in.GetKind() > math.MaxUint8 {
		return message.Message{}, fmt.Errorf("kind: %d, allowed are 0 to %d", in.GetKind(), math.MaxUint8)
	}
	return m, nil
}
