package logicclient

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// server is a logic that notes what it is asked and answers what it is told.
type server struct {
	logicv1.UnimplementedLogicServer
	mu    sync.Mutex
	asked []proto.Message
	reply proto.Message
	err   error
	hang  bool
}

func answer[T proto.Message](ctx context.Context, s *server, req proto.Message) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, proto.Clone(req))
	if s.hang {
		<-ctx.Done()
		var none T
		return none, status.FromContextError(ctx.Err()).Err()
	}
	reply, _ := s.reply.(T)
	return reply, s.err
}

func (s *server) Connect(ctx context.Context, req *logicv1.ConnectRequest) (*logicv1.ConnectReply, error) {
	return answer[*logicv1.ConnectReply](ctx, s, req)
}

func (s *server) Disconnect(ctx context.Context, req *logicv1.DisconnectRequest) (*logicv1.DisconnectReply, error) {
	return answer[*logicv1.DisconnectReply](ctx, s, req)
}

func (s *server) Refresh(ctx context.Context, req *logicv1.RefreshRequest) (*logicv1.RefreshReply, error) {
	return answer[*logicv1.RefreshReply](ctx, s, req)
}

func (s *server) Leave(ctx context.Context, req *logicv1.LeaveRequest) (*logicv1.LeaveReply, error) {
	return answer[*logicv1.LeaveReply](ctx, s, req)
}

// next is the request that came last; reply is what the next one gets.
func (s *server) next(reply proto.Message) (asked proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) > 0 {
		asked, s.asked = s.asked[0], nil
	}
	s.reply = reply
	return asked
}

func serve(t *testing.T) (*server, *Client) {
	t.Helper()
	s, rpc := &server{}, grpc.NewServer()
	logicv1.RegisterLogicServer(rpc, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		rpc.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return s, New(conn)
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if g, ok := got.(proto.Message); ok {
		if w := want.(proto.Message); !proto.Equal(g, w) {
			t.Errorf("asked %v, want %v", g, w)
		}
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// filled fails when a field of a struct that the test uses is zero: a new
// field must not be forgotten in the mapping. What is not exported is comet's.
func filled(t *testing.T, values ...any) {
	t.Helper()
	for _, v := range values {
		rv := reflect.ValueOf(v)
		for i := range rv.NumField() {
			if rv.Type().Field(i).IsExported() && rv.Field(i).IsZero() {
				t.Errorf("%s.%s is not tested", rv.Type(), rv.Type().Field(i).Name)
			}
		}
	}
}

func node() comet.Node { return comet.Node{Name: "comet-1", Incarnation: 7} }

func TestConnect(t *testing.T) {
	s, c := serve(t)
	items := []comet.ConnectItem{
		{Session: 1 << 63, Token: []byte("\x00\xfftoken"), Cookie: "a=b", IP: netip.MustParseAddr("2001:db8::1"), Ver: 2},
		{Session: 2, Token: nil, Ver: 1},
	}
	want := []comet.ConnectResult{
		{Code: 3500, Reason: "bad token", Mid: -1, Key: "k", Room: "live://1", Accepts: []int32{1, -2}, HeartbeatMS: 240_000, Replaced: 1<<64 - 1,
			Rooms: []string{"group://1"}, Tops: []timeline.Top{{Timeline: "u:1", Position: timeline.Position{Epoch: 2, Seq: 3}}},
			Resume: []timeline.Cursor{{Timeline: "u:1", Epoch: 2, After: 1}}},
		{},
	}
	filled(t, items[0], want[0])
	s.next(&logicv1.ConnectReply{Results: []*logicv1.ConnectResult{
		{Code: 3500, Reason: "bad token", Mid: -1, Key: "k", Room: "live://1", Accepts: []int32{1, -2}, HeartbeatMs: 240_000, Replaced: 1<<64 - 1,
			Rooms: []string{"group://1"}, Tops: []*logicv1.Top{{Timeline: "u:1", Epoch: 2, Top: 3}},
			Resume: []*logicv1.Cursor{{Timeline: "u:1", Epoch: 2, After: 1}}},
		{},
	}})
	got, err := c.Connect(t.Context(), node(), items)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	same(t, s.next(nil), &logicv1.ConnectRequest{
		Node: &logicv1.Node{Name: "comet-1", Incarnation: 7},
		Items: []*logicv1.ConnectItem{
			{Session: 1 << 63, Token: []byte("\x00\xfftoken"), Cookie: "a=b", Ip: "2001:db8::1", Ver: 2},
			{Session: 2, Ver: 1},
		},
	})
}

// A code that does not fit is still a refusal.
func TestHugeCodeIsNotZero(t *testing.T) {
	s, c := serve(t)
	s.next(&logicv1.ConnectReply{Results: []*logicv1.ConnectResult{{Code: 1 << 16}}})
	got, err := c.Connect(t.Context(), node(), make([]comet.ConnectItem, 1))
	if err != nil || len(got) != 1 || got[0].Code == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Symptom: nobody who connected at the same moment as a client with a strange
// cookie got in. Cause: a Cookie header may have any bytes, protobuf refuses
// to encode a string that is not UTF-8, and a call carries many sessions.
func TestCookieThatIsNoText(t *testing.T) {
	s, c := serve(t)
	s.next(&logicv1.ConnectReply{Results: []*logicv1.ConnectResult{{}, {}}})
	if _, err := c.Connect(t.Context(), node(), []comet.ConnectItem{{Session: 1, Cookie: "a=\xff\xfeb"}, {Session: 2}}); err != nil {
		t.Fatal(err)
	}
	if got := s.next(nil).(*logicv1.ConnectRequest).Items[0].Cookie; got != "a=\uFFFDb" {
		t.Errorf("cookie %q", got)
	}
}

func TestDisconnect(t *testing.T) {
	s, c := serve(t)
	refs := []comet.SessionRef{{Session: 1, Mid: 2, Key: "k"}, {}}
	filled(t, refs[0])
	s.next(&logicv1.DisconnectReply{})
	if err := c.Disconnect(t.Context(), node(), refs); err != nil {
		t.Fatal(err)
	}
	same(t, s.next(nil), &logicv1.DisconnectRequest{
		Node: &logicv1.Node{Name: "comet-1", Incarnation: 7}, Sessions: []*logicv1.Session{{Session: 1, Mid: 2, Key: "k"}, {}},
	})
}

func TestRefresh(t *testing.T) {
	s, c := serve(t)
	info := comet.NodeInfo{
		GRPCAddr: "127.0.0.1:3109", Region: "r", Zone: "z", Env: "e", Hostname: "h", PublicAddrs: []string{"a", "b"},
		Weight: 10, Offline: true, ConnCount: 5, IPCount: 4,
	}
	share := comet.Share{
		ID: message.ID{1, 15: 2}, Comets: 3, Speed: 4, StartedMS: 5, Finished: true, Total: 6, Delivered: 7, Filtered: 8, Slow: 9, Canceled: 10,
	}
	r := comet.Refresh{
		Info: info, Sessions: []comet.SessionRef{{Session: 1, Mid: 2, Key: "k"}}, Rooms: map[string]int32{"live://1": 3},
		Shares: []comet.Share{share},
	}
	reply := comet.RefreshReply{Resync: true, Rooms: map[string]int32{"live://1": 9}, Canceled: []message.ID{share.ID}}
	filled(t, info, r, reply, share)
	for _, rooms := range []map[string]int32{r.Rooms, {}, nil} {
		r.Rooms = rooms
		s.next(&logicv1.RefreshReply{Resync: true, RoomCounts: map[string]int32{"live://1": 9}, Canceled: [][]byte{share.ID[:], {1}}})
		got, err := c.Refresh(t.Context(), node(), r)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, reply)
		same(t, s.next(nil), &logicv1.RefreshRequest{
			Node: &logicv1.Node{Name: "comet-1", Incarnation: 7},
			Info: &logicv1.NodeInfo{
				GrpcAddr: "127.0.0.1:3109", Region: "r", Zone: "z", Env: "e", Hostname: "h", PublicAddrs: []string{"a", "b"},
				Weight: 10, Offline: true, ConnCount: 5, IpCount: 4,
			},
			Sessions:  []*logicv1.Session{{Session: 1, Mid: 2, Key: "k"}},
			WithRooms: rooms != nil, // no rooms is not the same as not reported
			Rooms:     rooms,
			Shares: []*logicv1.BroadcastShare{{
				MsgId: share.ID[:], Comets: 3, Speed: 4, StartedMs: 5, Finished: true, Total: 6, Delivered: 7, Filtered: 8, Slow: 9, Canceled: 10,
			}},
		})
	}
}

func TestLeave(t *testing.T) {
	s, c := serve(t)
	s.next(&logicv1.LeaveReply{})
	if err := c.Leave(t.Context(), node()); err != nil {
		t.Fatal(err)
	}
	same(t, s.next(nil), &logicv1.LeaveRequest{Node: &logicv1.Node{Name: "comet-1", Incarnation: 7}})
}

// Every call ends with its context, and says what failed.
func TestErrors(t *testing.T) {
	s, c := serve(t)
	calls := map[string]func(context.Context) error{
		"connect":    func(ctx context.Context) error { _, err := c.Connect(ctx, node(), nil); return err },
		"disconnect": func(ctx context.Context) error { return c.Disconnect(ctx, node(), nil) },
		"refresh":    func(ctx context.Context) error { _, err := c.Refresh(ctx, node(), comet.Refresh{}); return err },
		"leave":      func(ctx context.Context) error { return c.Leave(ctx, node()) },
	}
	s.err = status.Error(codes.Unavailable, "away")
	for name, call := range calls {
		if err := call(t.Context()); status.Code(err) != codes.Unavailable || err.Error()[:len("logic "+name)] != "logic "+name {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.mu.Lock()
	s.hang = true
	s.mu.Unlock()
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := call(ctx); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}
