package cometclient

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

// patience is how long something may take on a loaded machine.
const patience = time.Minute

// checkLeaks fails when a goroutine of gRPC outlives the test.
func checkLeaks(t *testing.T) {
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "google.golang.org/grpc") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("goroutines left:\n%s", stacks)
			}
			<-time.After(2 * time.Millisecond)
		}
	})
}

// scripted is a comet whose streams do what the test says.
type scripted struct {
	cometv1.UnimplementedCometServer
	dispatch func(grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error
	rooms    func(grpc.BidiStreamingServer[cometv1.RoomsAck, cometv1.RoomsUpdate]) error
}

func (s *scripted) Dispatch(stream grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error {
	return s.dispatch(stream)
}

func (s *scripted) Rooms(stream grpc.BidiStreamingServer[cometv1.RoomsAck, cometv1.RoomsUpdate]) error {
	return s.rooms(stream)
}

// connect serves s and links to it as comet-1, incarnation 7.
func connect(t *testing.T, s *scripted) (job.Link, context.Context) {
	checkLeaks(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes), grpc.KeepaliveEnforcementPolicy(
		keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	cometv1.RegisterCometServer(server, s)
	go func() { _ = server.Serve(lis) }()
	made := New().Link(job.Node{Name: "comet-1", Incarnation: 7, Addr: lis.Addr().String()})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := made.Close(); err != nil {
				t.Error(err)
			}
		}
		server.Stop()
	})
	// A call on a connection whose making was held up for its timeout fails
	// before the server sees it.
	conn := made.(*link).conn
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			t.Fatalf("the connection is %v", state)
		}
	}
	return made, ctx
}

func welcome(name string, incarnation uint64) *cometv1.DispatchReply {
	return &cometv1.DispatchReply{Kind: &cometv1.DispatchReply_Welcome{
		Welcome: &cometv1.Welcome{Node: name, Incarnation: incarnation}}}
}

func TestHello(t *testing.T) {
	cases := []struct {
		name      string
		reply     *cometv1.DispatchReply
		err       error
		otherLife bool
		ok        bool
	}{
		{name: "welcome", reply: welcome("comet-1", 7), ok: true},
		{name: "refused life", err: status.Error(codes.FailedPrecondition, "no"), otherLife: true},
		{name: "other incarnation", reply: welcome("comet-1", 8), otherLife: true},
		{name: "other comet", reply: welcome("comet-2", 7), otherLife: true},
		{name: "no welcome", reply: &cometv1.DispatchReply{}},
		{name: "unavailable", err: status.Error(codes.Unavailable, "no")},
		{name: "end at once"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			hello := make(chan *cometv1.Hello, 1)
			link, ctx := connect(t, &scripted{dispatch: func(s grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error {
				in, err := s.Recv()
				if err != nil {
					return err
				}
				hello <- in.GetHello()
				if c.reply == nil {
					return c.err
				}
				if err := s.Send(c.reply); err != nil {
					return err
				}
				<-s.Context().Done()
				return nil
			}})
			own, cancel := context.WithCancel(ctx)
			defer cancel()
			_, err := link.Dispatch(own, job.Hello{Job: "j", Log: "push/1", Lane: 3, Lanes: 4})
			if (err == nil) != c.ok || errors.Is(err, job.ErrOtherLife) != c.otherLife {
				t.Errorf("Dispatch = %v", err)
			}
			got := <-hello
			if got.Job != "j" || got.Log != "push/1" || got.Lane != 3 || got.Lanes != 4 || got.Incarnation != 7 {
				t.Errorf("hello %v", got)
			}
		})
	}
}

func TestBatchesAndResults(t *testing.T) {
	batches := make(chan *cometv1.Batch, 1)
	link, ctx := connect(t, &scripted{dispatch: func(s grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(welcome("comet-1", 7)); err != nil {
			return err
		}
		in, err := s.Recv()
		if err != nil {
			return err
		}
		batches <- in.GetBatch()
		if err := s.Send(&cometv1.DispatchReply{Kind: &cometv1.DispatchReply_Result{Result: &cometv1.BatchResult{
			Results: []*cometv1.PushResult{
				{Sessions: []cometv1.Outcome{cometv1.Outcome_DELIVERED, cometv1.Outcome_NOT_HERE, cometv1.Outcome_FILTERED,
					cometv1.Outcome_SLOW, cometv1.Outcome_DRAINING, cometv1.Outcome_REPEAT, cometv1.Outcome_OUTCOME_UNKNOWN, 99},
					Delivered: 1, NotHere: 1, Filtered: 1, Slow: 1},
				{Delivered: 10, NotHere: 2, Filtered: 3, Slow: 4, Canceled: 5, Conflated: 6},
				{Repeat: true},
				{},
			}}}}); err != nil {
			return err
		}
		return status.Error(codes.FailedPrecondition, "another life")
	}})
	stream, err := link.Dispatch(ctx, job.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	withID := message.Message{ID: message.ID{1, 2}, Op: 9, Flags: message.Urgent, AcceptedMS: 5, Body: []byte("x")}
	old := message.Message{Op: 8, Body: make([]byte, 5<<20)} // more than gRPC's default limit
	err = stream.Send([]job.Push{
		{Partition: 1, Offset: 2, Message: &withID, Sessions: []uint64{1, 2, 3}},
		{Partition: 1, Offset: 3, Message: &old, Room: "live://1"},
		{Partition: 1, Offset: 4, Message: &old, All: true, Speed: 6, Comets: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := (<-batches).Pushes
	if p := got[0]; p.Partition != 1 || p.Offset != 2 || p.Op != 9 || p.Flags != uint32(message.Urgent) || p.AcceptedMs != 5 ||
		string(p.Body) != "x" || string(p.MsgId) != string(withID.ID[:]) || len(p.Sessions) != 3 || p.Room != "" || p.All {
		t.Errorf("push %v", p)
	}
	if p := got[1]; len(p.MsgId) != 0 || p.Room != "live://1" || len(p.Body) != 5<<20 || p.AcceptedMs != 0 {
		t.Errorf("room push: id %x, room %q", p.MsgId, p.Room)
	}
	if p := got[2]; !p.All || p.Speed != 6 || p.Comets != 3 || p.Room != "" {
		t.Error("all push is not one")
	}
	results, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	want := []job.Result{
		{Counts: job.Tally{job.Delivered: 1, job.NotHere: 1, job.Filtered: 1, job.Slow: 1, job.Draining: 1, job.Repeat: 1, job.Unreachable: 2}},
		{Counts: job.Tally{job.Delivered: 10, job.NotHere: 2, job.Filtered: 3, job.Slow: 4, job.Canceled: 5, job.Conflated: 6}},
		{Repeat: true},
		{},
	}
	if len(results) != len(want) {
		t.Fatalf("%d results", len(results))
	}
	for i := range want {
		if results[i] != want[i] {
			t.Errorf("result %d = %v, want %v", i, results[i], want[i])
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, job.ErrOtherLife) {
		t.Errorf("Recv = %v", err)
	}
}

func TestRooms(t *testing.T) {
	acks := make(chan *cometv1.RoomsAck, 2)
	link, ctx := connect(t, &scripted{rooms: func(s grpc.BidiStreamingServer[cometv1.RoomsAck, cometv1.RoomsUpdate]) error {
		for _, incarnation := range []uint64{7, 8} {
			ack, err := s.Recv()
			if err != nil {
				return err
			}
			acks <- ack
			if err := s.Send(&cometv1.RoomsUpdate{Node: "comet-1", Incarnation: incarnation, Version: 5,
				Snapshot: true, SnapshotEnd: true, Added: []string{"a"}, Removed: []string{"b"}}); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return nil
	}})
	stream, err := link.Rooms(ctx, "j")
	if err != nil {
		t.Fatal(err)
	}
	change, err := stream.Recv()
	if err != nil || change.Version != 5 || !change.Snapshot || !change.SnapshotEnd || change.Added[0] != "a" || change.Removed[0] != "b" {
		t.Errorf("Recv = %v, %v", change, err)
	}
	if err := stream.Ack(change.Version); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, job.ErrOtherLife) {
		t.Errorf("Recv of another life = %v", err)
	}
	if first, second := <-acks, <-acks; first.Job != "j" || first.Version != 0 || second.Version != 5 {
		t.Errorf("acks %v, %v", first, second)
	}
}

// The end of the context ends a blocked call.
func TestContextEndsAStream(t *testing.T) {
	link, ctx := connect(t, &scripted{
		dispatch: func(s grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error {
			<-s.Context().Done()
			return nil
		},
	})
	own, cancel := context.WithCancel(ctx)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := link.Dispatch(own, job.Hello{}); err == nil {
		t.Error("a stream without welcome was opened")
	}
	if ctx.Err() != nil {
		t.Error("the call lasted to the deadline of the test")
	}
}

func TestAddressesThatCannotBeUsed(t *testing.T) {
	checkLeaks(t)
	for _, addr := range []string{"", "127.0.0.1:1", "no.such.host.invalid:1", "%zz"} {
		link := New().Link(job.Node{Name: "c", Addr: addr})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := link.Dispatch(ctx, job.Hello{}); err == nil {
			t.Errorf("%q: Dispatch succeeded", addr)
		}
		if _, err := link.Rooms(ctx, "j"); err == nil {
			t.Errorf("%q: Rooms succeeded", addr)
		}
		cancel()
		if err := link.Close(); err != nil {
			t.Errorf("%q: Close = %v", addr, err)
		}
	}
}
