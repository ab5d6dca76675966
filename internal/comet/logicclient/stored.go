package logicclient

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Sync implements comet.Stored.
func (c *Client) Sync(ctx context.Context, node comet.Node, q comet.SyncQuery) ([]comet.Page, error) {
	reply, err := c.rpc.Sync(ctx, &logicv1.SyncRequest{
		Reader: readerOf(node, q.Reader), Cursors: cursorsTo(q.Cursors), Rooms: q.Rooms,
		Limit: uint32(q.Limit.Entries), MaxBytes: uint32(q.Limit.Bytes),
	})
	if err != nil {
		return nil, failed("sync", err)
	}
	pages := make([]comet.Page, len(reply.Pages))
	for i, p := range reply.Pages {
		pages[i] = pageOf(p)
	}
	return pages, nil
}

// History implements comet.Stored.
func (c *Client) History(ctx context.Context, node comet.Node, q comet.HistoryQuery) (comet.Page, error) {
	req := &logicv1.HistoryRequest{
		Reader: readerOf(node, q.Reader), Timeline: text(string(q.Part.Timeline)), InRoom: q.InRoom, Epoch: q.Part.Epoch,
		Limit: uint32(q.Limit.Entries), MaxBytes: uint32(q.Limit.Bytes),
	}
	switch q.Part.At {
	case timeline.After:
		req.At = &logicv1.HistoryRequest_After{After: q.Part.Seq}
	case timeline.Around:
		req.At = &logicv1.HistoryRequest_Around{Around: q.Part.Seq}
	default:
		req.At = &logicv1.HistoryRequest_Before{Before: q.Part.Seq}
	}
	reply, err := c.rpc.History(ctx, req)
	if err != nil {
		return comet.Page{}, failed("history", err)
	}
	return pageOf(reply.Page), nil
}

// Ack implements comet.Stored.
func (c *Client) Ack(ctx context.Context, node comet.Node, items []comet.AckItem) ([]comet.Acked, error) {
	req := &logicv1.AckRequest{Items: make([]*logicv1.AckItem, len(items))}
	for i := range items {
		req.Items[i] = &logicv1.AckItem{Reader: readerOf(node, items[i].Reader), Acks: cursorsTo(items[i].Acks)}
	}
	reply, err := c.rpc.Ack(ctx, req)
	if err != nil {
		return nil, failed("ack", err)
	}
	out := make([]comet.Acked, len(reply.Results))
	for i, r := range reply.Results {
		out[i] = comet.Acked{Code: codeOf(r.GetCode()), Reason: r.GetReason()}
		for _, u := range r.GetCursors() {
			out[i].Standings = append(out[i].Standings, standingOf(u))
		}
	}
	return out, nil
}

// Read implements comet.Stored.
func (c *Client) Read(ctx context.Context, node comet.Node, who comet.Reader, at timeline.Cursor) (timeline.Standing, error) {
	reply, err := c.rpc.Read(ctx, &logicv1.ReadRequest{Reader: readerOf(node, who), Timeline: text(string(at.Timeline)), Epoch: at.Epoch, Seq: at.After})
	switch {
	case err != nil:
		return timeline.Standing{}, failed("read", err)
	case reply.Code != 0:
		return timeline.Standing{}, &comet.Refused{Code: codeOf(reply.Code), Reason: reply.Reason}
	}
	standing := standingOf(reply.Cursor)
	standing.Moved = reply.Moved
	return standing, nil
}

// Publish implements comet.Stored.
func (c *Client) Publish(ctx context.Context, node comet.Node, items []comet.PublishItem) ([]comet.Published, error) {
	req := &logicv1.PublishRequest{Items: make([]*logicv1.PublishItem, len(items))}
	for i := range items {
		it := &items[i]
		req.Items[i] = &logicv1.PublishItem{
			Reader: readerOf(node, it.Reader), To: text(it.To), InRoom: it.InRoom, Kind: uint32(it.Kind), Op: it.Op, ClientMsgId: text(it.ClientID),
			Flags: uint32(it.Flags), FlagsSet: uint32(it.FlagsSet), Payload: it.Payload,
		}
	}
	reply, err := c.rpc.Publish(ctx, req)
	if err != nil {
		return nil, failed("publish", err)
	}
	out := make([]comet.Published, len(reply.Results))
	for i, r := range reply.Results {
		out[i] = comet.Published{Code: codeOf(r.GetCode()), Reason: r.GetReason()}
		if r.GetCode() == 0 {
			if len(r.GetMsgId()) != len(message.ID{}) {
				return nil, fmt.Errorf("logic publish: a msg_id of %d bytes", len(r.GetMsgId()))
			}
			out[i].ID = message.ID(r.GetMsgId())
		}
	}
	return out, nil
}

// Tops implements comet.Stored. A logic of before stored messages has none.
func (c *Client) Tops(ctx context.Context, tls []message.Timeline) ([]timeline.Top, bool, error) {
	req := &logicv1.TopsRequest{Timelines: make([]string, len(tls))}
	for i, tl := range tls {
		req.Timelines[i] = text(string(tl))
	}
	reply, err := c.rpc.Tops(ctx, req)
	if status.Code(err) == codes.Unimplemented {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, failed("tops", err)
	}
	return topsFrom(reply.Tops), reply.Stored, nil
}

// failed keeps a no of logic apart from a logic that did not answer.
func failed(call string, err error) error {
	switch s := status.Convert(err); s.Code() {
	case codes.InvalidArgument:
		return &comet.Refused{Code: 400, Reason: s.Message()}
	case codes.Unimplemented:
		return &comet.Refused{Code: 501, Reason: "not_supported"}
	}
	return fmt.Errorf("logic %s: %w", call, err)
}

func readerOf(node comet.Node, r comet.Reader) *logicv1.Reader {
	return &logicv1.Reader{Node: nodeOf(node), Session: r.Session, Mid: r.Mid}
}

func cursorsTo(list []timeline.Cursor) []*logicv1.Cursor {
	out := make([]*logicv1.Cursor, len(list))
	for i, c := range list {
		out[i] = &logicv1.Cursor{Timeline: text(string(c.Timeline)), Epoch: c.Epoch, After: c.After}
	}
	return out
}

func cursorsFrom(list []*logicv1.Cursor) []timeline.Cursor {
	var out []timeline.Cursor
	for _, c := range list {
		out = append(out, timeline.Cursor{Timeline: message.Timeline(c.GetTimeline()), Epoch: c.GetEpoch(), After: c.GetAfter()})
	}
	return out
}

func topsFrom(list []*logicv1.Top) []timeline.Top {
	var out []timeline.Top
	for _, t := range list {
		out = append(out, timeline.Top{Timeline: message.Timeline(t.GetTimeline()), Position: timeline.Position{Epoch: t.GetEpoch(), Seq: t.GetTop()}})
	}
	return out
}

func pageOf(p *logicv1.Page) comet.Page {
	page := comet.Page{Code: codeOf(p.GetCode()), Reason: p.GetReason(), Page: timeline.Page{
		Timeline: message.Timeline(p.GetTimeline()), Epoch: p.GetEpoch(), Next: p.GetNext(), HasMore: p.GetHasMore(), Top: p.GetTop(), Floor: p.GetFloor(),
		Reset: p.GetReset_(), Truncated: p.GetTruncated(), Entries: make([]timeline.Entry, len(p.GetEntries())),
	}}
	for i, e := range p.GetEntries() {
		page.Entries[i] = timeline.Entry{Seq: e.GetSeq(), Gone: timeline.Gone(min(e.GetGone(), 255))}
		m := e.GetMessage()
		if page.Entries[i].Gone != timeline.Here {
			continue
		}
		if len(m.GetMsgId()) != len(message.ID{}) {
			page.Entries[i].Gone = timeline.Lost // a fault of logic: the position is not hidden from the client
			continue
		}
		page.Entries[i].Message = message.Message{
			ID: message.ID(m.GetMsgId()), Op: m.GetOp(), Flags: message.Flags(m.GetFlags()), Kind: message.Kind(min(m.GetKind(), 255)), Sender: m.GetSender(),
			ClientID: m.GetClientId(), AcceptedMS: m.GetAcceptedMs(), ExpiresMS: m.GetExpiresMs(), Body: m.GetBody(),
		}
	}
	return page
}

func standingOf(u *logicv1.UserCursor) timeline.Standing {
	return timeline.Standing{
		UserCursor: timeline.UserCursor{Timeline: message.Timeline(u.GetTimeline()), Epoch: u.GetEpoch(), Acked: u.GetAcked(), Read: u.GetRead()},
		Unread:     int(min(u.GetUnread(), timeline.MaxUnread)),
	}
}

func codeOf(code uint32) uint16 { return uint16(min(code, 0xffff)) }
