package grpcapi_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
)

// folding is the part of the timelines that workers use, as the test says.
type folding struct {
	logic.Timelines
	take    func(timeline.Partition, uint64, *timeline.Fence) (timeline.Fold, error)
	raise   func(timeline.Fold) (timeline.Fold, error)
	append  func(timeline.Batch) (timeline.BatchResult, error)
	archive func(timeline.Archiving) error
}

func (f *folding) TakeFence(_ context.Context, p timeline.Partition, owner uint64, over *timeline.Fence) (timeline.Fold, error) {
	return f.take(p, owner, over)
}
func (f *folding) RaiseFence(_ context.Context, fold timeline.Fold) (timeline.Fold, error) {
	return f.raise(fold)
}
func (f *folding) Append(_ context.Context, b timeline.Batch) (timeline.BatchResult, error) {
	return f.append(b)
}
func (f *folding) Archive(_ context.Context, a timeline.Archiving) error { return f.archive(a) }

func storing(t *testing.T, f *folding) (*logictest.Env, logicv1.LogicClient) {
	env := logictest.New(t)
	client, _ := serve(t, env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines = f }))
	return env, client
}

var (
	wireFold = &logicv1.Fold{Log: "push/1", Generation: 2, Partition: 3, Fence: &logicv1.Fence{Owner: 4, Rewinds: 5}, Incarnation: "six"}
	coreFold = timeline.Fold{
		Partition: timeline.Partition{Log: "push/1", Generation: 2, Number: 3},
		Fence:     timeline.Fence{Owner: 4, Rewinds: 5}, Incarnation: "six",
	}
	wireStored = &logicv1.StoredMessage{
		MsgId: []byte("0123456789abcdef"), Op: 7, Flags: 1, Kind: 1, Sender: 9, ClientId: "c", Operator: "o", Source: "s",
		AcceptedMs: 10, ExpiresMs: 11, Body: []byte("body"),
	}
	coreStored = message.Message{
		ID: message.ID([]byte("0123456789abcdef")), Op: 7, Flags: 1, Kind: 1, Sender: 9, ClientID: "c", Operator: "o", Source: "s",
		AcceptedMS: 10, ExpiresMS: 11, Body: []byte("body"),
	}
)

func TestFencesOverTheWire(t *testing.T) {
	f := &folding{}
	_, client := storing(t, f)
	ctx := within(t)
	var over *timeline.Fence
	f.take = func(p timeline.Partition, owner uint64, o *timeline.Fence) (timeline.Fold, error) {
		if over = o; p != coreFold.Partition || owner != 4 {
			t.Errorf("take %+v for %d", p, owner)
		}
		return coreFold, nil
	}
	request := &logicv1.TakeFenceRequest{Log: "push/1", Generation: 2, Partition: 3, Owner: 4}
	reply, err := client.TakeFence(ctx, request)
	if err != nil || reply.Stale || reply.Incarnation != "six" || reply.Fence.Owner != 4 || reply.Fence.Rewinds != 5 || over != nil {
		t.Fatalf("%v, over %v, %v", reply, over, err)
	}
	request.Over = &logicv1.Fence{Owner: 8, Rewinds: 1}
	if _, err = client.TakeFence(ctx, request); err != nil || over == nil || *over != (timeline.Fence{Owner: 8, Rewinds: 1}) {
		t.Errorf("over %v, %v", over, err)
	}
	f.raise = func(fold timeline.Fold) (timeline.Fold, error) {
		if fold != coreFold {
			t.Errorf("raise %+v", fold)
		}
		return timeline.Fold{}, fmt.Errorf("x: %w", &timeline.StaleFence{Stands: timeline.Fence{Owner: 9, Rewinds: 2}})
	}
	reply, err = client.RaiseFence(ctx, &logicv1.RaiseFenceRequest{Fold: wireFold})
	if err != nil || !reply.Stale || reply.Fence.Owner != 9 || reply.Fence.Rewinds != 2 {
		t.Errorf("%v, %v", reply, err)
	}
	f.raise = func(timeline.Fold) (timeline.Fold, error) { return timeline.Fold{}, timeline.ErrLogChanged }
	if _, err = client.RaiseFence(ctx, &logicv1.RaiseFenceRequest{Fold: wireFold}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	f.raise = func(timeline.Fold) (timeline.Fold, error) { return timeline.Fold{}, errors.New("SQL is away") }
	if _, err = client.RaiseFence(ctx, &logicv1.RaiseFenceRequest{Fold: wireFold}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

// Records are appended before anybody is located: a session that is not
// located must find the record by its first sync.
func TestRouteStoredAppendsFirst(t *testing.T) {
	f := &folding{}
	env, client := storing(t, f)
	ctx := within(t)
	stream, err := client.Route(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f.append = func(b timeline.Batch) (timeline.BatchResult, error) {
		want := timeline.Batch{Fold: coreFold, Records: []timeline.Record{
			{Offset: 20, Message: coreStored, Timelines: []message.Timeline{"u:42", "u:43"}},
			{Offset: 22, Message: coreStored, Timelines: []message.Timeline{"r:live://1"}},
		}}
		if !reflect.DeepEqual(b, want) {
			t.Errorf("append %+v, want %+v", b, want)
		}
		// Who comes now is found.
		if _, err := env.Presence.Lease(ctx, presence.NodeInfo{Node: presence.Node{Name: "c1", Incarnation: 5}}, 10*time.Minute); err != nil {
			t.Error(err)
		}
		return timeline.BatchResult{Records: [][]timeline.Appended{
			{{Verdict: timeline.New, Position: timeline.Position{Epoch: 1, Seq: 2}, Mode: timeline.Required}, {Verdict: timeline.Repeat}},
			{{Verdict: timeline.Dup, Position: timeline.Position{Epoch: 3, Seq: 4}, Mode: timeline.BestEffort}},
		}}, nil
	}
	items := []*logicv1.RouteItem{
		{Mids: []int64{42, 43}, Stored: &logicv1.StoredRecord{Offset: 20, Message: wireStored}},
		{Keys: []string{"k"}},
		{Stored: &logicv1.StoredRecord{Offset: 22, Room: "live://1", Message: wireStored}},
	}
	ask := func() *logicv1.RouteReply {
		t.Helper()
		if err := stream.Send(&logicv1.RouteRequest{Items: items, Fold: wireFold}); err != nil {
			t.Fatal(err)
		}
		reply, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	reply := ask()
	if reply.Error != "" || reply.Status != logicv1.RouteReply_OK || len(reply.Results) != 3 || len(reply.Nodes) != 1 {
		t.Fatal(reply)
	}
	first, third := reply.Results[0].Appended, reply.Results[2].Appended
	if len(first) != 2 || first[0].Verdict != logicv1.Appended_NEW || first[0].Epoch != 1 || first[0].Seq != 2 || first[0].Mode != logicv1.ArchiveMode_REQUIRED ||
		first[1].Verdict != logicv1.Appended_REPEAT || first[1].Seq != 0 || reply.Results[0].Offline != 2 || len(reply.Results[1].Appended) != 0 ||
		len(third) != 1 || third[0].Verdict != logicv1.Appended_DUP || third[0].Mode != logicv1.ArchiveMode_BEST_EFFORT {
		t.Error(reply)
	}

	full := f.append
	f.append = func(b timeline.Batch) (timeline.BatchResult, error) {
		r, err := full(b)
		r.Records, r.Full = r.Records[:1], true
		return r, err
	}
	if reply = ask(); reply.Status != logicv1.RouteReply_FULL || len(reply.Results) != 2 {
		t.Errorf("full: %v", reply)
	}
	f.append = func(timeline.Batch) (timeline.BatchResult, error) { return timeline.BatchResult{}, timeline.ErrRewind }
	if reply = ask(); reply.Status != logicv1.RouteReply_REWIND || len(reply.Results) != 0 {
		t.Errorf("rewind: %v", reply)
	}
	f.append = func(timeline.Batch) (timeline.BatchResult, error) {
		return timeline.BatchResult{}, &timeline.StaleFence{}
	}
	if reply = ask(); reply.Status != logicv1.RouteReply_STALE_FENCE || len(reply.Results) != 0 {
		t.Errorf("stale: %v", reply)
	}
	// An answer that does not fit the question is an error, not a wrong position.
	f.append = func(timeline.Batch) (timeline.BatchResult, error) { return timeline.BatchResult{}, nil }
	if reply = ask(); !strings.Contains(reply.Error, "0 answers") {
		t.Errorf("too few: %v", reply)
	}
	f.append = func(timeline.Batch) (timeline.BatchResult, error) {
		return timeline.BatchResult{Records: make([][]timeline.Appended, 2)}, nil
	}
	if reply = ask(); !strings.Contains(reply.Error, "0 positions for the 2 timelines of offset 20") {
		t.Errorf("too few positions: %v", reply)
	}
	for name, item := range map[string]*logicv1.RouteItem{
		"key":    {Keys: []string{"k"}, Mids: []int64{1}, Stored: &logicv1.StoredRecord{Message: wireStored}},
		"nobody": {Stored: &logicv1.StoredRecord{Message: wireStored}},
		"both":   {Mids: []int64{1}, Stored: &logicv1.StoredRecord{Room: "a://b", Message: wireStored}},
		"room":   {Stored: &logicv1.StoredRecord{Room: "a", Message: wireStored}},
		"id":     {Mids: []int64{1}, Stored: &logicv1.StoredRecord{Message: &logicv1.StoredMessage{}}},
	} {
		if items[0] = item; !strings.Contains(ask().Error, "items[0]") {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestArchiveOverTheWire(t *testing.T) {
	f := &folding{}
	_, client := storing(t, f)
	ctx := within(t)
	request := &logicv1.ArchiveRequest{Fold: wireFold, Records: []*logicv1.ArchiveRecord{{
		Offset: 20, Message: wireStored, Places: []*logicv1.ArchivePlace{
			{Timeline: "u:42", Epoch: 1, Seq: 2, Mode: logicv1.ArchiveMode_REQUIRED},
			{Timeline: "r:live://1", Epoch: 3, Seq: 4, Mode: logicv1.ArchiveMode_BEST_EFFORT},
		},
	}}}
	f.archive = func(a timeline.Archiving) error {
		want := timeline.Archiving{Fold: coreFold, Records: []timeline.Positioned{{Offset: 20, Message: coreStored, Places: []timeline.Place{
			{Timeline: "u:42", Position: timeline.Position{Epoch: 1, Seq: 2}, Mode: timeline.Required},
			{Timeline: "r:live://1", Position: timeline.Position{Epoch: 3, Seq: 4}, Mode: timeline.BestEffort},
		}}}}
		if !reflect.DeepEqual(a, want) {
			t.Errorf("archive %+v, want %+v", a, want)
		}
		return nil
	}
	if reply, err := client.Archive(ctx, request); err != nil || reply.Status != logicv1.ArchiveReply_OK {
		t.Fatal(reply, err)
	}
	for _, c := range []struct {
		err    error
		status logicv1.ArchiveReply_Status
		code   codes.Code
	}{
		{&timeline.StaleFence{}, logicv1.ArchiveReply_STALE_FENCE, codes.OK},
		{&timeline.Conflict{Timeline: "u:42", Seq: 7}, logicv1.ArchiveReply_CONFLICT, codes.OK},
		{errors.New("SQL is away"), 0, codes.Unavailable},
	} {
		f.archive = func(timeline.Archiving) error { return fmt.Errorf("write: %w", c.err) }
		reply, err := client.Archive(ctx, request)
		if status.Code(err) != c.code || reply.GetStatus() != c.status {
			t.Errorf("%v: %v, %v", c.err, reply, err)
		}
		if c.status == logicv1.ArchiveReply_CONFLICT && !strings.Contains(reply.GetMessage(), "u:42 7") {
			t.Errorf("the conflict does not say where: %v", reply)
		}
	}
	request.Records[0].Places[0].Mode = logicv1.ArchiveMode_OFF
	if _, err := client.Archive(ctx, request); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a row of a timeline without an archive: %v", err)
	}
}

// A logic without timelines refuses: a stored record must not look moved.
func TestNothingIsStoredWithoutTimelines(t *testing.T) {
	client, _ := serve(t, logictest.New(t).Core(t, nil))
	ctx := within(t)
	if _, err := client.TakeFence(ctx, &logicv1.TakeFenceRequest{}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if _, err := client.Archive(ctx, &logicv1.ArchiveRequest{}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	stream, err := client.Route(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&logicv1.RouteRequest{Fold: wireFold}); err != nil {
		t.Fatal(err)
	}
	if reply, err := stream.Recv(); err != nil || !strings.Contains(reply.Error, "not configured") {
		t.Error(reply, err)
	}
}
