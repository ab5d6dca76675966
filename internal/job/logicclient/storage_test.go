package logicclient

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// keeping is a logic that keeps messages, as the test says.
type keeping struct {
	*logic
	fence   func(proto.Message) (*logicv1.FenceReply, error)
	archive func(*logicv1.ArchiveRequest) (*logicv1.ArchiveReply, error)
}

func (k *keeping) TakeFence(_ context.Context, r *logicv1.TakeFenceRequest) (*logicv1.FenceReply, error) {
	return k.fence(r)
}
func (k *keeping) RaiseFence(_ context.Context, r *logicv1.RaiseFenceRequest) (*logicv1.FenceReply, error) {
	return k.fence(r)
}
func (k *keeping) Archive(_ context.Context, r *logicv1.ArchiveRequest) (*logicv1.ArchiveReply, error) {
	return k.archive(r)
}

var (
	storedMessage = message.Message{
		ID: message.ID([]byte("0123456789abcdef")), Op: 7, Flags: 1, Kind: 1, Sender: 9, ClientID: "c", Operator: "o", Source: "s",
		AcceptedMS: 10, ExpiresMS: 11, Body: []byte("body"),
	}
	wireMessage = &logicv1.StoredMessage{
		MsgId: []byte("0123456789abcdef"), Op: 7, Flags: 1, Kind: 1, Sender: 9, ClientId: "c", Operator: "o", Source: "s",
		AcceptedMs: 10, ExpiresMs: 11, Body: []byte("body"),
	}
	aFold = timeline.Fold{
		Partition: timeline.Partition{Log: "push/1", Generation: 2, Number: 3},
		Fence:     timeline.Fence{Owner: 4, Rewinds: 5}, Incarnation: "six",
	}
	wireFold = &logicv1.Fold{Log: "push/1", Generation: 2, Partition: 3, Fence: &logicv1.Fence{Owner: 4, Rewinds: 5}, Incarnation: "six"}
)

func TestFences(t *testing.T) {
	checkLeaks(t)
	k := newKeeping(t)
	c := newClient(t, newDirectory(t, k.logic))
	var asked proto.Message
	reply, failure := &logicv1.FenceReply{Fence: &logicv1.Fence{Owner: 4, Rewinds: 5}, Incarnation: "six"}, error(nil)
	k.fence = func(r proto.Message) (*logicv1.FenceReply, error) { asked = r; return reply, failure }
	over := &timeline.Fence{Owner: 8, Rewinds: 1}
	if f, err := c.TakeFence(t.Context(), aFold.Partition, 4, over); err != nil || f != aFold {
		t.Errorf("%+v, %v", f, err)
	}
	want := proto.Message(&logicv1.TakeFenceRequest{Log: "push/1", Generation: 2, Partition: 3, Owner: 4, Over: &logicv1.Fence{Owner: 8, Rewinds: 1}})
	if !proto.Equal(asked, want) {
		t.Errorf("asked %v", asked)
	}
	if f, err := c.RaiseFence(t.Context(), aFold); err != nil || f != aFold || !proto.Equal(asked, &logicv1.RaiseFenceRequest{Fold: wireFold}) {
		t.Errorf("%+v, %v, asked %v", f, err, asked)
	}
	reply = &logicv1.FenceReply{Stale: true, Fence: &logicv1.Fence{Owner: 9, Rewinds: 2}}
	var stale *timeline.StaleFence
	if _, err := c.TakeFence(t.Context(), aFold.Partition, 4, nil); !errors.As(err, &stale) || stale.Stands != (timeline.Fence{Owner: 9, Rewinds: 2}) {
		t.Errorf("stale: %v", err)
	}
	failure = status.Error(codes.FailedPrecondition, "another log")
	if _, err := c.TakeFence(t.Context(), aFold.Partition, 4, nil); !errors.Is(err, timeline.ErrLogChanged) {
		t.Errorf("another log: %v", err)
	}
}

func newKeeping(t *testing.T) *keeping {
	k := &keeping{}
	k.logic = newServer(t, "a", func(l *logic) logicv1.LogicServer { k.logic = l; return k })
	return k
}

func TestRouteStored(t *testing.T) {
	checkLeaks(t)
	l := newLogic(t, "a")
	c := newClient(t, newDirectory(t, l))
	listInForce(t, c)
	items := []job.RouteItem{
		{Mids: []int64{42}, Stored: &timeline.Record{Offset: 20, Message: storedMessage, Timelines: []message.Timeline{"u:42"}}},
		{Keys: []string{"k"}},
		{Stored: &timeline.Record{Offset: 22, Message: storedMessage, Timelines: []message.Timeline{"r:live://1"}}},
		{Mids: []int64{1, 2}, Stored: &timeline.Record{Offset: 23, Message: storedMessage, Timelines: []message.Timeline{"u:1", "u:2"}}},
		{Stored: &timeline.Record{Offset: 24, Message: storedMessage, Timelines: []message.Timeline{message.AllTimeline}}},
	}
	want := &logicv1.RouteRequest{Fold: wireFold, Items: []*logicv1.RouteItem{
		{Mids: []int64{42}, Stored: &logicv1.StoredRecord{Offset: 20, Message: wireMessage}},
		{Keys: []string{"k"}},
		{Stored: &logicv1.StoredRecord{Offset: 22, Room: "live://1", Message: wireMessage}},
		{Mids: []int64{1, 2}, Stored: &logicv1.StoredRecord{Offset: 23, Message: wireMessage}},
		{Stored: &logicv1.StoredRecord{Offset: 24, Room: "sys://all", Message: wireMessage}},
	}}
	one := []*logicv1.Appended{{Verdict: logicv1.Appended_NEW, Epoch: 1, Seq: 2, Mode: logicv1.ArchiveMode_REQUIRED}}
	good := func() *logicv1.RouteReply {
		return &logicv1.RouteReply{Results: []*logicv1.RouteResult{
			{Appended: one}, {}, {Appended: one},
			{Appended: []*logicv1.Appended{{Verdict: logicv1.Appended_REPEAT}, {Verdict: logicv1.Appended_DUP, Epoch: 3, Seq: 4, Mode: logicv1.ArchiveMode_BEST_EFFORT}}},
			{Appended: one},
		}}
	}
	say := func(change func(*logicv1.RouteReply)) {
		l.say(func(in *logicv1.RouteRequest) (*logicv1.RouteReply, error) {
			if !proto.Equal(in, want) {
				t.Errorf("asked %v\nwant %v", in, want)
			}
			r := good()
			change(r)
			return r, nil
		})
	}
	say(func(*logicv1.RouteReply) {})
	routes, full, err := c.RouteStored(t.Context(), aFold, items)
	if err != nil || full || len(routes.Results) != 5 {
		t.Fatal(routes, full, err)
	}
	first := timeline.Appended{Verdict: timeline.New, Position: timeline.Position{Epoch: 1, Seq: 2}, Mode: timeline.Required}
	if got := routes.Results[0].Appended; !reflect.DeepEqual(got, []timeline.Appended{first}) || routes.Results[1].Appended != nil {
		t.Errorf("first: %+v", got)
	}
	if got := routes.Results[3].Appended; !reflect.DeepEqual(got, []timeline.Appended{
		{Verdict: timeline.Repeat}, {Verdict: timeline.Dup, Position: timeline.Position{Epoch: 3, Seq: 4}, Mode: timeline.BestEffort}}) {
		t.Errorf("two: %+v", got)
	}
	say(func(r *logicv1.RouteReply) { r.Status, r.Results = logicv1.RouteReply_FULL, r.Results[:2] })
	if routes, full, err = c.RouteStored(t.Context(), aFold, items); err != nil || !full || len(routes.Results) != 2 {
		t.Errorf("full: %v %v %v", routes, full, err)
	}
	streams := l.opened()
	for s, is := range map[logicv1.RouteReply_Status]error{
		logicv1.RouteReply_REWIND: timeline.ErrRewind, logicv1.RouteReply_STALE_FENCE: timeline.ErrStaleFence,
	} {
		say(func(r *logicv1.RouteReply) { r.Status, r.Results = s, nil })
		if _, _, err = c.RouteStored(t.Context(), aFold, items); !errors.Is(err, is) {
			t.Errorf("%v: %v", s, err)
		}
	}
	if l.opened() != streams {
		t.Error("an answer cost the stream")
	}
	for name, change := range map[string]func(*logicv1.RouteReply){
		"a logic that knows no positions": func(r *logicv1.RouteReply) { r.Results[0].Appended = nil },
		"too many positions":              func(r *logicv1.RouteReply) { r.Results[2].Appended = append(r.Results[2].Appended, one...) },
		"no verdict":                      func(r *logicv1.RouteReply) { r.Results[0].Appended = []*logicv1.Appended{{Seq: 1}} },
		"new without a number":            func(r *logicv1.RouteReply) { r.Results[0].Appended = []*logicv1.Appended{{Verdict: 1}} },
		"a mode of later": func(r *logicv1.RouteReply) {
			r.Results[0].Appended = []*logicv1.Appended{{Verdict: 1, Seq: 1, Mode: 3}}
		},
		"fewer and not full": func(r *logicv1.RouteReply) { r.Results = r.Results[:2] },
		"a status of later":  func(r *logicv1.RouteReply) { r.Status = 9 },
	} {
		say(change)
		if _, _, err = c.RouteStored(t.Context(), aFold, items); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestArchive(t *testing.T) {
	checkLeaks(t)
	k := newKeeping(t)
	c := newClient(t, newDirectory(t, k.logic))
	reply := &logicv1.ArchiveReply{}
	k.archive = func(r *logicv1.ArchiveRequest) (*logicv1.ArchiveReply, error) {
		want := &logicv1.ArchiveRequest{Fold: wireFold, Records: []*logicv1.ArchiveRecord{{Offset: 20, Message: wireMessage, Places: []*logicv1.ArchivePlace{
			{Timeline: "u:42", Epoch: 1, Seq: 2, Mode: logicv1.ArchiveMode_REQUIRED},
			{Timeline: "r:live://1", Epoch: 3, Seq: 4, Mode: logicv1.ArchiveMode_BEST_EFFORT},
		}}}}
		if !proto.Equal(r, want) {
			t.Errorf("asked %v\nwant %v", r, want)
		}
		return reply, nil
	}
	ask := timeline.Archiving{Fold: aFold, Records: []timeline.Positioned{{Offset: 20, Message: storedMessage, Places: []timeline.Place{
		{Timeline: "u:42", Position: timeline.Position{Epoch: 1, Seq: 2}, Mode: timeline.Required},
		{Timeline: "r:live://1", Position: timeline.Position{Epoch: 3, Seq: 4}, Mode: timeline.BestEffort},
	}}}}
	if err := c.Archive(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	reply = &logicv1.ArchiveReply{Status: logicv1.ArchiveReply_STALE_FENCE}
	if err := c.Archive(t.Context(), ask); !errors.Is(err, timeline.ErrStaleFence) {
		t.Error(err)
	}
	reply = &logicv1.ArchiveReply{Status: logicv1.ArchiveReply_CONFLICT, Message: "u:42 2"}
	if err := c.Archive(t.Context(), ask); !errors.Is(err, timeline.ErrConflict) || !strings.Contains(err.Error(), "u:42 2") {
		t.Error(err)
	}
	reply = &logicv1.ArchiveReply{Status: 9}
	if err := c.Archive(t.Context(), ask); err == nil {
		t.Error("a status of later was taken for success")
	}
}
