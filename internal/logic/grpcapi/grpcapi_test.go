package grpcapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-kratos/kratos/v2/transport"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/grpcapi"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
)

var _ transport.Server = (*grpcapi.Server)(nil)

// patience is how long anything here may take before the test fails: a busy
// machine may stop a process for seconds, at any point.
const patience = time.Minute

// serve runs the API on a loopback port.
func serve(t testing.TB, core *logic.Core) (client logicv1.LogicClient, server *grpcapi.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := grpcapi.DefaultConfig()
	cfg.Timeout = patience
	server, err = grpcapi.New(cfg, grpcapi.Deps{Core: core, Listener: listener})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Start(context.Background()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return logicv1.NewLogicClient(conn), server
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

func c1() *logicv1.Node { return &logicv1.Node{Name: "c1", Incarnation: 5} }

func TestLifeOfAComet(t *testing.T) {
	env := logictest.New(t)
	client, _ := serve(t, env.Core(t, nil))
	ctx := within(t)
	info := &logicv1.NodeInfo{
		GrpcAddr: "10.0.0.1:3109", Region: "sh", Zone: "z", Env: "e", Hostname: "h", PublicAddrs: []string{"1.1.1.1"},
		Weight: 7, ConnCount: 3, IpCount: 2,
	}
	refreshed, err := client.Refresh(ctx, &logicv1.RefreshRequest{Node: c1(), Info: info}, grpc.UseCompressor(gzip.Name))
	if err != nil || !refreshed.GetResync() {
		t.Fatalf("first refresh: %v, %v", refreshed, err)
	}
	connected, err := client.Connect(ctx, &logicv1.ConnectRequest{Node: c1(), Items: []*logicv1.ConnectItem{
		{Session: 11, Token: []byte(`{"mid":7,"key":"k","room_id":"live://1","platform":"ios","accepts":[1000]}`), Ver: 1},
		{Session: 12, Token: []byte(`{"mid":7,"key":"k"}`)},
		{Session: 13, Token: []byte(`{`)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	first, second, third := connected.Results[0], connected.Results[1], connected.Results[2]
	if first.Code != 0 || first.Mid != 7 || first.Key != "k" || first.Room != "live://1" || first.Platform != "ios" ||
		len(first.Accepts) != 1 || first.HeartbeatMs != 480_000 || first.Replaced != 0 {
		t.Errorf("first: %v", first)
	}
	if second.Code != 0 || second.Replaced != 11 {
		t.Errorf("second: %v", second)
	}
	if third.Code != 3500 || third.Reason == "" {
		t.Errorf("third: %v", third)
	}

	stream, err := client.Route(ctx)
	if err != nil {
		t.Fatal(err)
	}
	routed := ask(t, stream, &logicv1.RouteItem{Keys: []string{"nobody", "k"}, Mids: []int64{7}}, &logicv1.RouteItem{})
	if len(routed.Nodes) != 1 || routed.Nodes[0].Node.Name != "c1" || routed.Nodes[0].Node.Incarnation != 5 || routed.Nodes[0].GrpcAddr != "10.0.0.1:3109" {
		t.Errorf("nodes: %v", routed.Nodes)
	}
	if len(routed.Results) != 2 || routed.Results[0].Offline != 1 || len(routed.Results[1].Locations) != 0 {
		t.Errorf("results: %v", routed.Results)
	}
	if at := routed.Results[0].Locations[0]; at.Session != 12 || at.Target != 1 || at.Node != 0 {
		t.Errorf("location: %v", at)
	}

	refreshed, err = client.Refresh(ctx, &logicv1.RefreshRequest{
		Node: c1(), Info: info, Sessions: []*logicv1.Session{{Session: 12, Mid: 7, Key: "k"}}, WithRooms: true, Rooms: map[string]int32{"live://1": 2},
	})
	if err != nil || refreshed.GetResync() {
		t.Errorf("refresh: %v, %v", refreshed, err)
	}
	logictest.Eventually(t, "the cluster's count comes back", func() bool {
		refreshed, err := client.Refresh(ctx, &logicv1.RefreshRequest{Node: c1(), Info: info, WithRooms: true, Rooms: map[string]int32{"live://1": 2}})
		return err == nil && refreshed.GetRoomCounts()["live://1"] == 2
	})
	nodes, err := env.Presence.Nodes(ctx)
	if err != nil || len(nodes) != 1 || nodes[0].Region != "sh" || nodes[0].Weight != 7 || nodes[0].ConnCount != 3 || nodes[0].IPCount != 2 || nodes[0].Hostname != "h" {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}

	if _, err := client.Disconnect(ctx, &logicv1.DisconnectRequest{Node: c1(), Sessions: []*logicv1.Session{{Session: 12, Mid: 7, Key: "k"}, {Session: 11, Mid: 7, Key: "k"}}}); err != nil {
		t.Error(err)
	}
	if routed := ask(t, stream, &logicv1.RouteItem{Keys: []string{"k"}, Mids: []int64{7}}); routed.Results[0].Offline != 2 {
		t.Errorf("after disconnect: %v", routed)
	}
	if _, err := client.Leave(ctx, &logicv1.LeaveRequest{Node: c1()}); err != nil {
		t.Error(err)
	}
	if routed := ask(t, stream); len(routed.Nodes) != 0 || len(routed.Results) != 0 {
		t.Errorf("after leave: %v", routed)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the stream: %v", err)
	}
}

func ask(t testing.TB, stream logicv1.Logic_RouteClient, items ...*logicv1.RouteItem) *logicv1.RouteReply {
	t.Helper()
	if err := stream.Send(&logicv1.RouteRequest{Items: items}); err != nil {
		t.Fatal(err)
	}
	reply, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// A presence that is away is told in the reply, and the stream goes on.
func TestRouteOutlivesPresence(t *testing.T) {
	env := logictest.New(t)
	client, _ := serve(t, env.Core(t, nil))
	ctx := within(t)
	stream, err := client.Route(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if reply := ask(t, stream, &logicv1.RouteItem{Keys: []string{"k"}}); reply.Error != "" || len(reply.Results) != 1 {
		t.Errorf("before: %v", reply)
	}
	env.Redis.SetError("away")
	if reply := ask(t, stream, &logicv1.RouteItem{Keys: []string{"k"}}); reply.Error == "" || len(reply.Results) != 0 || len(reply.Nodes) != 0 {
		t.Errorf("away: %v", reply)
	}
	for what, call := range map[string]func() error{
		"disconnect": func() error {
			_, err := client.Disconnect(ctx, &logicv1.DisconnectRequest{Node: c1(), Sessions: []*logicv1.Session{{Session: 1, Key: "k"}}})
			return err
		},
		"refresh": func() error {
			_, err := client.Refresh(ctx, &logicv1.RefreshRequest{Node: c1(), Info: &logicv1.NodeInfo{GrpcAddr: "a:1"}})
			return err
		},
		"leave": func() error { _, err := client.Leave(ctx, &logicv1.LeaveRequest{Node: c1()}); return err },
	} {
		if err := call(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	env.Redis.SetError("")
	if reply := ask(t, stream, &logicv1.RouteItem{Keys: []string{"k"}}); reply.Error != "" || len(reply.Results) != 1 {
		t.Errorf("back: %v", reply)
	}
}

// Many requests under way are answered one for one, in order.
func TestRouteKeepsOrder(t *testing.T) {
	env := logictest.New(t)
	client, _ := serve(t, env.Core(t, nil))
	stream, err := client.Route(within(t))
	if err != nil {
		t.Fatal(err)
	}
	const requests = 200
	go func() {
		for i := range requests {
			if err := stream.Send(&logicv1.RouteRequest{Items: make([]*logicv1.RouteItem, i%7)}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range requests {
		reply, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(reply.Results) != i%7 {
			t.Fatalf("reply %d is for %d items, want %d", i, len(reply.Results), i%7)
		}
	}
}

// An idle Route stream does not hold up the stop, and says so to the job.
func TestStopEndsRoute(t *testing.T) {
	env := logictest.New(t)
	client, server := serve(t, env.Core(t, nil))
	stream, err := client.Route(within(t))
	if err != nil {
		t.Fatal(err)
	}
	ask(t, stream)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := server.Stop(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("stop: %v, %v", err, ctx.Err())
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "draining") {
		t.Errorf("stream: %v", err)
	}
}

func TestInvalidRequests(t *testing.T) {
	env := logictest.New(t)
	client, _ := serve(t, env.Core(t, nil))
	ctx := within(t)
	_, noNode := client.Connect(ctx, &logicv1.ConnectRequest{})
	_, noSession := client.Connect(ctx, &logicv1.ConnectRequest{Node: c1(), Items: []*logicv1.ConnectItem{{}}})
	_, noName := client.Disconnect(ctx, &logicv1.DisconnectRequest{Node: &logicv1.Node{}})
	_, noInfo := client.Refresh(ctx, &logicv1.RefreshRequest{Node: c1()})
	_, noLeaver := client.Leave(ctx, &logicv1.LeaveRequest{})
	for i, err := range []error{noNode, noSession, noName, noInfo, noLeaver} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

type panicking struct{ presence.Registry }

func (panicking) Release(context.Context, presence.Node) error { panic("broken") }
func (panicking) Locate(context.Context, []presence.Query) (presence.Located, error) {
	panic("broken")
}

func TestPanicEndsOneCall(t *testing.T) {
	env := logictest.New(t)
	client, _ := serve(t, env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Presence = panicking{env.Presence} }))
	ctx := within(t)
	if _, err := client.Leave(ctx, &logicv1.LeaveRequest{Node: c1()}); status.Code(err) != codes.Internal {
		t.Errorf("leave: %v", err)
	}
	stream, err := client.Route(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&logicv1.RouteRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("route: %v", err)
	}
	if _, err := client.Refresh(ctx, &logicv1.RefreshRequest{Node: c1(), Info: &logicv1.NodeInfo{GrpcAddr: "a:1"}}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestConfigProblems(t *testing.T) {
	cfg := grpcapi.DefaultConfig()
	if p := cfg.Problems(); len(p) != 0 {
		t.Error(p)
	}
	cfg = grpcapi.Config{Addr: "3119"}
	if p := strings.Join(cfg.Problems(), "\n"); !strings.Contains(p, `addr = "3119"`) || !strings.Contains(p, "timeout") || !strings.Contains(p, "max_message_bytes") {
		t.Error(p)
	}
	if _, err := grpcapi.New(cfg, grpcapi.Deps{}); err == nil {
		t.Error("New takes a wrong configuration")
	}
}

// A comet tells how far it is with pushes to all, and learns which are canceled.
func TestShares(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	client, _ := serve(t, core)
	ctx := within(t)
	id, err := core.Accept(ctx, 1000, 0, []byte("x"), []message.Target{message.ToAll(10)})
	if err != nil {
		t.Fatal(err)
	}
	request := &logicv1.RefreshRequest{Node: c1(), Info: &logicv1.NodeInfo{GrpcAddr: "a:1"}, Shares: []*logicv1.BroadcastShare{{
		MsgId: id[:], Comets: 1, Speed: 10, StartedMs: 5, Total: 100, Delivered: 4, Filtered: 3, Slow: 2, Canceled: 1, Finished: true,
	}}}
	if reply, err := client.Refresh(ctx, request); err != nil || len(reply.GetCanceled()) != 0 {
		t.Fatalf("%v, %v", reply, err)
	}
	p, err := core.Broadcast(ctx, id)
	if err != nil || p.State != logic.Done || p.Speed != 10 || p.StartedMS != 5 || p.Total != 100 || p.Delivered != 4 || p.Filtered != 3 || p.Slow != 2 || p.Canceled != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if err := env.Presence.Cancel(ctx, id); err != nil {
		t.Fatal(err)
	}
	if reply, err := client.Refresh(ctx, request); err != nil || len(reply.GetCanceled()) != 1 || message.ID(reply.Canceled[0]) != id {
		t.Errorf("%v, %v", reply, err)
	}
	for what, shares := range map[string][]*logicv1.BroadcastShare{
		"no id": {{}}, "a short id": {{MsgId: id[:15]}}, "too many": make([]*logicv1.BroadcastShare, 1025),
	} {
		request.Shares = shares
		if _, err := client.Refresh(ctx, request); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
}
