package logicclient

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

func (s *server) Sync(ctx context.Context, req *logicv1.SyncRequest) (*logicv1.SyncReply, error) {
	return answer[*logicv1.SyncReply](ctx, s, req)
}

func (s *server) History(ctx context.Context, req *logicv1.HistoryRequest) (*logicv1.HistoryReply, error) {
	return answer[*logicv1.HistoryReply](ctx, s, req)
}

func (s *server) Ack(ctx context.Context, req *logicv1.AckRequest) (*logicv1.AckReply, error) {
	return answer[*logicv1.AckReply](ctx, s, req)
}

func (s *server) Publish(ctx context.Context, req *logicv1.PublishRequest) (*logicv1.PublishReply, error) {
	return answer[*logicv1.PublishReply](ctx, s, req)
}

func (s *server) Tops(ctx context.Context, req *logicv1.TopsRequest) (*logicv1.TopsReply, error) {
	return answer[*logicv1.TopsReply](ctx, s, req)
}

func who() comet.Reader { return comet.Reader{Session: 5, Mid: 7} }

func reader() *logicv1.Reader {
	return &logicv1.Reader{Node: &logicv1.Node{Name: "comet-1", Incarnation: 7}, Session: 5, Mid: 7}
}

func TestSync(t *testing.T) {
	s, c := serve(t)
	id := message.ID{1, 2, 3}
	s.next(&logicv1.SyncReply{Pages: []*logicv1.Page{
		{
			Timeline: "u:7", Epoch: 2, Next: 9, HasMore: true, Top: 12, Floor: 3, Reset_: true, Truncated: true,
			Entries: []*logicv1.Entry{
				{Seq: 4, Message: &logicv1.StoredMessage{
					MsgId: id[:], Op: 1000, Flags: 1, Kind: 1, Sender: 8, ClientId: "c", AcceptedMs: 99, ExpiresMs: 100, Body: []byte("b"),
				}},
				{Seq: 5, Gone: logicv1.Entry_REVOKED},
				{Seq: 6, Message: &logicv1.StoredMessage{MsgId: []byte("short")}},
			},
		},
		{Timeline: "u:8", Code: 403, Reason: "no"},
	}})
	pages, err := c.Sync(t.Context(), node(), comet.SyncQuery{
		Reader: who(), Cursors: []timeline.Cursor{{Timeline: "u:7", Epoch: 1, After: 3}, {Timeline: "r:\xff://1"}},
		Rooms: []string{"live://1"}, Limit: timeline.Limit{Entries: 20, Bytes: 30},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, pages, []comet.Page{
		{Page: timeline.Page{Timeline: "u:7", Epoch: 2, Next: 9, HasMore: true, Top: 12, Floor: 3, Reset: true, Truncated: true, Entries: []timeline.Entry{
			{Seq: 4, Message: message.Message{ID: id, Op: 1000, Flags: 1, Kind: 1, Sender: 8, ClientID: "c", AcceptedMS: 99, ExpiresMS: 100, Body: []byte("b")}},
			{Seq: 5, Gone: timeline.Revoked},
			{Seq: 6, Gone: timeline.Lost},
		}}},
		{Page: timeline.Page{Timeline: "u:8", Entries: []timeline.Entry{}}, Code: 403, Reason: "no"},
	})
	same(t, s.next(nil), &logicv1.SyncRequest{
		Reader: reader(), Rooms: []string{"live://1"}, Limit: 20, MaxBytes: 30,
		Cursors: []*logicv1.Cursor{{Timeline: "u:7", Epoch: 1, After: 3}, {Timeline: "r:\uFFFD://1"}},
	})
}

func TestHistory(t *testing.T) {
	s, c := serve(t)
	for at, want := range map[timeline.At]*logicv1.HistoryRequest{
		timeline.Before: {At: &logicv1.HistoryRequest_Before{Before: 6}},
		timeline.After:  {At: &logicv1.HistoryRequest_After{After: 6}},
		timeline.Around: {At: &logicv1.HistoryRequest_Around{Around: 6}},
	} {
		s.next(&logicv1.HistoryReply{Page: &logicv1.Page{Timeline: "r:live://1", Epoch: 4}})
		page, err := c.History(t.Context(), node(), comet.HistoryQuery{
			Reader: who(), InRoom: true, Part: timeline.Part{Timeline: "r:live://1", Epoch: 4, At: at, Seq: 6}, Limit: timeline.Limit{Entries: 2, Bytes: 3},
		})
		if err != nil || page.Epoch != 4 {
			t.Errorf("%+v, %v", page, err)
		}
		want.Reader, want.Timeline, want.InRoom, want.Epoch, want.Limit, want.MaxBytes = reader(), "r:live://1", true, 4, 2, 3
		same(t, s.next(nil), want)
	}
}

func TestAckAndPublish(t *testing.T) {
	s, c := serve(t)
	s.next(&logicv1.AckReply{Results: []*logicv1.Cursors{
		{Cursors: []*logicv1.UserCursor{{Timeline: "u:7", Epoch: 1, Acked: 5, Read: 4, Unread: 1}}}, {Code: 403, Reason: "no"},
	}})
	acked, err := c.Ack(t.Context(), node(), []comet.AckItem{{Reader: who(), Acks: []timeline.Cursor{{Timeline: "u:7", Epoch: 1, After: 5}}}, {Reader: who()}})
	if err != nil {
		t.Fatal(err)
	}
	same(t, acked, []comet.Acked{
		{Standings: []timeline.Standing{{UserCursor: timeline.UserCursor{Timeline: "u:7", Epoch: 1, Acked: 5, Read: 4}, Unread: 1}}}, {Code: 403, Reason: "no"},
	})
	same(t, s.next(nil), &logicv1.AckRequest{Items: []*logicv1.AckItem{{Reader: reader(), Acks: []*logicv1.Cursor{{Timeline: "u:7", Epoch: 1, After: 5}}}, {Reader: reader()}}})

	id := message.ID{9}
	s.next(&logicv1.PublishReply{Results: []*logicv1.PublishResult{{MsgId: id[:]}, {Code: 1 << 20, Reason: "no"}}})
	published, err := c.Publish(t.Context(), node(), []comet.PublishItem{
		{Reader: who(), To: "u:8", InRoom: true, Kind: message.Signal, Op: 1000, ClientID: "c\xff", Flags: 1, FlagsSet: 3, Payload: []byte("p")}, {Reader: who()},
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, published, []comet.Published{{ID: id}, {Code: 0xffff, Reason: "no"}})
	same(t, s.next(nil), &logicv1.PublishRequest{Items: []*logicv1.PublishItem{
		{Reader: reader(), To: "u:8", InRoom: true, Kind: uint32(message.Signal), Op: 1000, ClientMsgId: "c\uFFFD", Flags: 1, FlagsSet: 3, Payload: []byte("p")}, {Reader: reader()},
	}})
	s.next(&logicv1.PublishReply{Results: []*logicv1.PublishResult{{MsgId: []byte("short")}}})
	if _, err := c.Publish(t.Context(), node(), make([]comet.PublishItem, 1)); err == nil {
		t.Error("a msg_id of 5 bytes is taken")
	}
}

// A no of logic is no failure of the call: the session is told, nobody asks
// again. A logic of before stored messages has none.
func TestNoIsNotAway(t *testing.T) {
	s, c := serve(t)
	for code, want := range map[codes.Code]uint16{codes.InvalidArgument: 400, codes.Unimplemented: 501, codes.Unavailable: 0} {
		s.err = status.Error(code, "why")
		_, err := c.Sync(t.Context(), node(), comet.SyncQuery{})
		var no *comet.Refused
		if errors.As(err, &no) != (want != 0) || no != nil && no.Code != want {
			t.Errorf("%v: %v", code, err)
		}
	}
	s.err = status.Error(codes.Unimplemented, "unknown method")
	if tops, stored, err := c.Tops(t.Context(), []message.Timeline{"u:1"}); tops != nil || stored || err != nil {
		t.Errorf("%v, %v, %v", tops, stored, err)
	}
	s.err = nil
	s.next(&logicv1.TopsReply{Stored: true, Tops: []*logicv1.Top{{Timeline: "u:1", Epoch: 1, Top: 2}}})
	tops, stored, err := c.Tops(t.Context(), []message.Timeline{"u:1"})
	if err != nil || !stored {
		t.Errorf("%v, %v", stored, err)
	}
	same(t, tops, []timeline.Top{{Timeline: "u:1", Position: timeline.Position{Epoch: 1, Seq: 2}}})
}
