package grpcapi

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Sync answers the pages after cursors of one session.
func (s *Service) Sync(ctx context.Context, r *logicv1.SyncRequest) (*logicv1.SyncReply, error) {
	pages, err := s.core.Sync(ctx, readerOf(r.GetReader(), r.GetRooms()), cursorsOf(r.GetCursors()), limitOf(r.GetLimit(), r.GetMaxBytes()))
	if err != nil {
		return nil, statusOf(err)
	}
	reply := &logicv1.SyncReply{Pages: make([]*logicv1.Page, len(pages))}
	for i := range pages {
		reply.Pages[i] = pageOf(&pages[i])
	}
	return reply, nil
}

// History answers a part of one timeline around a position.
func (s *Service) History(ctx context.Context, r *logicv1.HistoryRequest) (*logicv1.HistoryReply, error) {
	tl := message.Timeline(r.GetTimeline())
	reader := readerOf(r.GetReader(), nil)
	if r.GetInRoom() {
		reader.Rooms = []message.Timeline{tl}
	}
	part := timeline.Part{Timeline: tl, Epoch: r.GetEpoch()}
	switch at := r.GetAt().(type) {
	case *logicv1.HistoryRequest_After:
		part.At, part.Seq = timeline.After, at.After
	case *logicv1.HistoryRequest_Around:
		part.At, part.Seq = timeline.Around, at.Around
	default:
		part.At, part.Seq = timeline.Before, r.GetBefore()
	}
	page, err := s.core.History(ctx, reader, part, limitOf(r.GetLimit(), r.GetMaxBytes()))
	if err != nil {
		page = timeline.Page{Timeline: tl, Err: err}
	}
	return &logicv1.HistoryReply{Page: pageOf(&page)}, nil
}

// Tops answers the newest positions of timelines.
func (s *Service) Tops(ctx context.Context, r *logicv1.TopsRequest) (*logicv1.TopsReply, error) {
	tls := make([]message.Timeline, len(r.GetTimelines()))
	for i, tl := range r.GetTimelines() {
		tls[i] = message.Timeline(tl)
	}
	tops, stored, err := s.core.Tops(ctx, tls)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &logicv1.TopsReply{Tops: topsOf(tops), Stored: stored}, nil
}

// Ack raises delivery cursors of sessions.
func (s *Service) Ack(ctx context.Context, r *logicv1.AckRequest) (*logicv1.AckReply, error) {
	reply := &logicv1.AckReply{Results: make([]*logicv1.Cursors, len(r.GetItems()))}
	for i, item := range r.GetItems() {
		standings, err := s.core.Ack(ctx, readerOf(item.GetReader(), nil), cursorsOf(item.GetAcks()))
		p := logic.ProblemOf(err)
		reply.Results[i] = &logicv1.Cursors{Code: p.Code, Reason: p.Reason}
		for n := range standings {
			reply.Results[i].Cursors = append(reply.Results[i].Cursors, standingOf(&standings[n]))
		}
	}
	return reply, nil
}

// Read raises the read cursor of a session's user.
func (s *Service) Read(ctx context.Context, r *logicv1.ReadRequest) (*logicv1.ReadReply, error) {
	standing, err := s.core.Read(ctx, readerOf(r.GetReader(), nil), timeline.Cursor{
		Timeline: message.Timeline(r.GetTimeline()), Epoch: r.GetEpoch(), After: r.GetSeq(),
	})
	if err != nil {
		p := logic.ProblemOf(err)
		return &logicv1.ReadReply{Code: p.Code, Reason: p.Reason}, nil
	}
	return &logicv1.ReadReply{Cursor: standingOf(&standing), Moved: standing.Moved}, nil
}

// Publish accepts messages from sessions.
func (s *Service) Publish(ctx context.Context, r *logicv1.PublishRequest) (*logicv1.PublishReply, error) {
	items := make([]logic.Publishing, len(r.GetItems()))
	for i, it := range r.GetItems() {
		items[i] = logic.Publishing{
			Mid: it.GetReader().GetMid(), To: message.Timeline(it.GetTo()), InRoom: it.GetInRoom(), Kind: message.Kind(min(it.GetKind(), 255)),
			Op: it.GetOp(), ClientID: it.GetClientMsgId(), Flags: message.Flags(it.GetFlags()), FlagsSet: message.Flags(it.GetFlagsSet()), Payload: it.GetPayload(),
		}
	}
	reply := &logicv1.PublishReply{Results: make([]*logicv1.PublishResult, len(items))}
	for i, p := range s.core.Publish(ctx, items) {
		reply.Results[i] = &logicv1.PublishResult{ClientMsgId: items[i].ClientID, Code: p.Code, Reason: p.Reason}
		if p.Code == 0 {
			reply.Results[i].MsgId = p.ID[:]
		}
	}
	return reply, nil
}

// statusOf tells a call that failed as a whole. What the session did wrong is
// InvalidArgument, what this installation has not is Unimplemented.
func statusOf(err error) error {
	p := logic.ProblemOf(err)
	switch p.Code {
	case logic.CodeNoStore:
		return status.Error(codes.Unimplemented, p.Reason)
	case logic.CodeBadRequest:
		return status.Error(codes.InvalidArgument, p.Reason)
	}
	return status.Error(codes.Unavailable, err.Error())
}

func readerOf(r *logicv1.Reader, rooms []string) timeline.Reader {
	reader := timeline.Reader{Mid: r.GetMid()}
	for _, room := range rooms {
		reader.Rooms = append(reader.Rooms, message.ToRoom(room).Timeline())
	}
	return reader
}

func cursorsOf(list []*logicv1.Cursor) []timeline.Cursor {
	cursors := make([]timeline.Cursor, len(list))
	for i, c := range list {
		cursors[i] = timeline.Cursor{Timeline: message.Timeline(c.GetTimeline()), Epoch: c.GetEpoch(), After: c.GetAfter()}
	}
	return cursors
}

func limitOf(entries, bytes uint32) timeline.Limit {
	return timeline.Limit{Entries: int(min(entries, timeline.MaxPageEntries)), Bytes: int(min(bytes, timeline.MaxPageBytes))}
}

func topsOf(tops []timeline.Top) []*logicv1.Top {
	out := make([]*logicv1.Top, len(tops))
	for i, t := range tops {
		out[i] = &logicv1.Top{Timeline: string(t.Timeline), Epoch: t.Epoch, Top: t.Seq}
	}
	return out
}

func pageOf(p *timeline.Page) *logicv1.Page {
	if p.Err != nil {
		problem := logic.ProblemOf(p.Err)
		return &logicv1.Page{Timeline: string(p.Timeline), Code: problem.Code, Reason: problem.Reason}
	}
	page := &logicv1.Page{
		Timeline: string(p.Timeline), Epoch: p.Epoch, Next: p.Next, HasMore: p.HasMore, Top: p.Top, Floor: p.Floor,
		Reset_: p.Reset, Truncated: p.Truncated, Entries: make([]*logicv1.Entry, len(p.Entries)),
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		page.Entries[i] = &logicv1.Entry{Seq: e.Seq, Gone: logicv1.Entry_Gone(e.Gone)}
		if e.Gone != timeline.Here {
			continue
		}
		m := &e.Message
		page.Entries[i].Message = &logicv1.StoredMessage{
			MsgId: m.ID[:], Op: m.Op, Flags: uint32(m.Flags), Kind: uint32(m.Kind), Sender: m.Sender, ClientId: m.ClientID,
			AcceptedMs: m.AcceptedMS, ExpiresMs: m.ExpiresMS, Body: m.Body,
		}
	}
	return page
}

func standingOf(s *timeline.Standing) *logicv1.UserCursor {
	return &logicv1.UserCursor{Timeline: string(s.Timeline), Epoch: s.Epoch, Acked: s.Acked, Read: s.Read, Unread: uint64(s.Unread)}
}

func resumeOf(cursors []timeline.Cursor) []*logicv1.Cursor {
	out := make([]*logicv1.Cursor, len(cursors))
	for i, c := range cursors {
		out[i] = &logicv1.Cursor{Timeline: string(c.Timeline), Epoch: c.Epoch, After: c.After}
	}
	return out
}
