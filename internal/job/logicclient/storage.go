package logicclient

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

var _ job.Storage = (*Client)(nil)

// TakeFence asks one logic, like the other calls here. After an error without
// an answer the fence may stand all the same.
func (c *Client) TakeFence(ctx context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fold, error) {
	request := &logicv1.TakeFenceRequest{Log: p.Log, Generation: p.Generation, Partition: p.Number, Owner: owner}
	if over != nil {
		request.Over = writeFence(*over)
	}
	if err := c.Start(ctx); err != nil {
		return timeline.Fold{}, err
	}
	reply, err := c.client.TakeFence(ctx, request)
	return readFence("take fence", p, reply, err)
}

// RaiseFence begins the next life of a worker.
func (c *Client) RaiseFence(ctx context.Context, f timeline.Fold) (timeline.Fold, error) {
	if err := c.Start(ctx); err != nil {
		return timeline.Fold{}, err
	}
	reply, err := c.client.RaiseFence(ctx, &logicv1.RaiseFenceRequest{Fold: writeFold(f)})
	return readFence("raise fence", f.Partition, reply, err)
}

func readFence(what string, p timeline.Partition, reply *logicv1.FenceReply, err error) (timeline.Fold, error) {
	if status.Code(err) == codes.FailedPrecondition {
		err = fmt.Errorf("%w: %w", timeline.ErrLogChanged, err)
	}
	fence := timeline.Fence{Owner: reply.GetFence().GetOwner(), Rewinds: reply.GetFence().GetRewinds()}
	if err == nil && reply.GetStale() {
		err = &timeline.StaleFence{Stands: fence}
	}
	if err != nil {
		return timeline.Fold{}, fmt.Errorf("logic %s: %w", what, err)
	}
	return timeline.Fold{Partition: p, Fence: fence, Incarnation: timeline.Incarnation(reply.GetIncarnation())}, nil
}

// RouteStored asks one logic over a Route stream.
func (c *Client) RouteStored(ctx context.Context, f timeline.Fold, items []job.RouteItem) (job.Routes, bool, error) {
	reply, routes, err := c.ask(ctx, items, &f)
	return routes, reply.GetStatus() == logicv1.RouteReply_FULL, err
}

// Archive asks one logic to make rows durable.
func (c *Client) Archive(ctx context.Context, a timeline.Archiving) error {
	if err := c.Start(ctx); err != nil {
		return err
	}
	records := make([]logicv1.ArchiveRecord, len(a.Records))
	request := &logicv1.ArchiveRequest{Fold: writeFold(a.Fold), Records: make([]*logicv1.ArchiveRecord, len(a.Records))}
	for i := range a.Records {
		in, out := &a.Records[i], &records[i]
		out.Offset, out.Message = in.Offset, writeStored(&in.Message)
		out.Places = make([]*logicv1.ArchivePlace, len(in.Places))
		places := make([]logicv1.ArchivePlace, len(in.Places))
		for j := range in.Places {
			p := &places[j]
			p.Timeline, p.Epoch, p.Seq = string(in.Places[j].Timeline), in.Places[j].Epoch, in.Places[j].Seq
			p.Mode = logicv1.ArchiveMode(in.Places[j].Mode)
			out.Places[j] = p
		}
		request.Records[i] = out
	}
	reply, err := c.client.Archive(ctx, request)
	switch {
	case err != nil:
	case reply.GetStatus() == logicv1.ArchiveReply_STALE_FENCE:
		err = &timeline.StaleFence{}
	case reply.GetStatus() == logicv1.ArchiveReply_CONFLICT:
		err = fmt.Errorf("%w: %s", timeline.ErrConflict, reply.GetMessage())
	case reply.GetStatus() != logicv1.ArchiveReply_OK:
		err = fmt.Errorf("status %v", reply.GetStatus())
	}
	if err != nil {
		return fmt.Errorf("logic archive: %w", err)
	}
	return nil
}

// storedItem adds what is appended to an item of a request.
func storedItem(r *timeline.Record) *logicv1.StoredRecord {
	out := &logicv1.StoredRecord{Offset: r.Offset, Message: writeStored(&r.Message)}
	if room, ok := r.Timelines[0].Room(); ok {
		out.Room = room
	}
	return out
}

// readStatus is the error of a whole answer, if it is one.
func readStatus(reply *logicv1.RouteReply) error {
	switch s := reply.GetStatus(); s {
	case logicv1.RouteReply_OK, logicv1.RouteReply_FULL:
		return nil
	case logicv1.RouteReply_REWIND:
		return timeline.ErrRewind
	case logicv1.RouteReply_STALE_FENCE:
		return &timeline.StaleFence{}
	default:
		return fmt.Errorf("status %v", s)
	}
}

// readAppended checks the positions of a stored item.
func readAppended(in []*logicv1.Appended, r *timeline.Record) ([]timeline.Appended, error) {
	if len(in) != len(r.Timelines) {
		return nil, fmt.Errorf("offset %d: %d positions for %d timelines", r.Offset, len(in), len(r.Timelines))
	}
	out := make([]timeline.Appended, len(in))
	for i, a := range in {
		verdict, mode := timeline.Verdict(a.GetVerdict()), timeline.Mode(a.GetMode())
		if verdict < timeline.New || verdict > timeline.Dup || mode > timeline.Required || verdict == timeline.New && a.GetSeq() == 0 {
			return nil, fmt.Errorf("offset %d: verdict %v, seq %d, mode %v", r.Offset, a.GetVerdict(), a.GetSeq(), a.GetMode())
		}
		out[i] = timeline.Appended{Verdict: verdict, Position: timeline.Position{Epoch: a.GetEpoch(), Seq: a.GetSeq()}, Mode: mode}
	}
	return out, nil
}

func writeFold(f timeline.Fold) *logicv1.Fold {
	return &logicv1.Fold{
		Log: f.Partition.Log, Generation: f.Partition.Generation, Partition: f.Partition.Number,
		Fence: writeFence(f.Fence), Incarnation: string(f.Incarnation),
	}
}

func writeFence(f timeline.Fence) *logicv1.Fence {
	return &logicv1.Fence{Owner: f.Owner, Rewinds: f.Rewinds}
}

// writeStored shares the body.
func writeStored(m *message.Message) *logicv1.StoredMessage {
	return &logicv1.StoredMessage{
		MsgId: m.ID[:], Op: m.Op, Flags: uint32(m.Flags), Kind: uint32(m.Kind), Sender: m.Sender, ClientId: m.ClientID,
		Operator: m.Operator, Source: m.Source, AcceptedMs: m.AcceptedMS, ExpiresMs: m.ExpiresMS, Body: m.Body,
	}
}

// whole tells whether a stream is good for another call after err: it answered
// as it should, whatever it had to say.
func whole(err error) bool {
	return err == nil || errors.Is(err, timeline.ErrRewind) || errors.Is(err, timeline.ErrStaleFence)
}
