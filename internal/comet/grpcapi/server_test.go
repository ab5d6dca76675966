package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// canceledPush is the id of a push to all that logic says is canceled.
func canceledPush() message.ID { return message.ID{0xc, 15: 0xa} }

const patience = time.Minute

// fixture is a comet with two loops behind a real gRPC server.
type fixture struct {
	t       *testing.T
	gateway *comet.Gateway
	loops   []*comettest.Loop
	api     *Server
	rpc     *grpc.Server
	client  cometv1.CometClient
	metrics *obs.Metrics
	offset  int64
}

func serve(t *testing.T, change func(*comet.Config)) *fixture {
	t.Helper()
	cfg := comettest.Config()
	if change != nil {
		change(&cfg)
	}
	f := &fixture{t: t, metrics: obs.NewMetrics(), rpc: grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))}
	f.gateway = comettest.Start(t, cfg, 1000, &comettest.Logic{Canceled: []message.ID{canceledPush()}}, f.metrics, comettest.Log(t))
	f.loops = []*comettest.Loop{comettest.NewLoop(t, f.gateway), comettest.NewLoop(t, f.gateway)}
	f.api = Register(f.rpc, f.gateway, comettest.Log(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.rpc.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	f.client = cometv1.NewCometClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		f.api.Close()
		f.rpc.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return f
}

type dispatchStream = grpc.BidiStreamingClient[cometv1.DispatchRequest, cometv1.DispatchReply]

func hello() *cometv1.Hello {
	return &cometv1.Hello{Job: "job-1", Log: "push/1", Lanes: 1, Incarnation: comettest.Node().Incarnation}
}

// open opens a lane; the stream ends with the test.
func (f *fixture) open(h *cometv1.Hello) (dispatchStream, context.CancelFunc, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	f.t.Cleanup(cancel)
	stream, err := f.client.Dispatch(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := stream.Send(&cometv1.DispatchRequest{Kind: &cometv1.DispatchRequest_Hello{Hello: h}}); err != nil {
		f.t.Fatal(err)
	}
	reply, err := stream.Recv()
	if err != nil {
		return nil, cancel, err
	}
	if w := reply.GetWelcome(); w.GetNode() != comettest.Node().Name || w.GetIncarnation() != comettest.Node().Incarnation {
		f.t.Fatalf("welcome %v", reply)
	}
	return stream, cancel, nil
}

func (f *fixture) lane() (dispatchStream, context.CancelFunc) {
	f.t.Helper()
	stream, cancel, err := f.open(hello())
	if err != nil {
		f.t.Fatal(err)
	}
	return stream, cancel
}

// next numbers pushes.
func (f *fixture) next(pushes ...*cometv1.Push) []*cometv1.Push {
	for _, p := range pushes {
		f.offset++
		p.Offset = f.offset
	}
	return pushes
}

func send(t *testing.T, stream dispatchStream, pushes ...*cometv1.Push) {
	t.Helper()
	if err := stream.Send(batch(pushes...)); err != nil {
		t.Fatal(err)
	}
}

func batch(pushes ...*cometv1.Push) *cometv1.DispatchRequest {
	return &cometv1.DispatchRequest{Kind: &cometv1.DispatchRequest_Batch{Batch: &cometv1.Batch{Pushes: pushes}}}
}

func recv(t *testing.T, stream dispatchStream) []*cometv1.PushResult {
	t.Helper()
	reply, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return reply.GetResult().GetResults()
}

// ends reads to the end of the stream and returns the code.
func ends(t *testing.T, stream dispatchStream) codes.Code {
	t.Helper()
	for {
		if _, err := stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return codes.OK
			}
			return status.Code(err)
		}
	}
}

func TestOutcomes(t *testing.T) {
	f := serve(t, nil)
	a := f.loops[0].Open(t, 1, `{"key":"a","room_id":"live://1","accepts":[1000]}`)
	b := f.loops[1].Open(t, 2, `{"key":"b","room_id":"live://1","accepts":[1001]}`)
	stream, _ := f.lane()
	canceled := canceledPush()
	unknown := a.Session() + 1<<40 // another generation
	send(t, stream, f.next(
		&cometv1.Push{Op: 1000, Body: []byte("uni"), Sessions: []uint64{a.Session(), b.Session(), unknown}},
		&cometv1.Push{Op: 7, Body: []byte("room"), Room: "live://1"},
		&cometv1.Push{Op: 7, Body: []byte("nobody"), Room: "live://2"},
		&cometv1.Push{Op: 1001, Body: []byte("all"), All: true},
		&cometv1.Push{Op: 1001, Body: []byte("canceled"), All: true, Speed: 5, MsgId: canceled[:]},
	)...)
	got := recv(t, stream)
	want := []*cometv1.PushResult{
		{Sessions: []cometv1.Outcome{cometv1.Outcome_DELIVERED, cometv1.Outcome_FILTERED, cometv1.Outcome_NOT_HERE}, Delivered: 1, Filtered: 1, NotHere: 1},
		{Delivered: 2},
		{},
		{Delivered: 1, Filtered: 1},
		{Canceled: 1, Filtered: 1},
	}
	if len(got) != len(want) {
		t.Fatalf("%d results", len(got))
	}
	for i := range want {
		if got[i].String() != want[i].String() {
			t.Errorf("push %d: %v, want %v", i, got[i], want[i])
		}
	}
	comettest.WaitFor(t, "the messages", func() bool {
		return slices.Equal(a.Bodies(1000), []string{"uni"}) && slices.Equal(a.Bodies(7), []string{"room"}) &&
			slices.Equal(b.Bodies(7), []string{"room"}) && slices.Equal(b.Bodies(1001), []string{"all"})
	})
}

// Results come in the order of the batches, however the loops get on.
func TestResultsKeepTheOrder(t *testing.T) {
	f := serve(t, nil)
	conns := []*comettest.Conn{f.loops[0].Open(t, 1, `{"key":"a","accepts":[1]}`), f.loops[1].Open(t, 1, `{"key":"b","accepts":[1]}`)}
	stream, _ := f.lane()
	release := f.loops[0].Block() // the first batch is the last to be done
	const batches = 500
	sent := make(chan error, 1)
	go func() {
		for i := range batches {
			if err := stream.Send(batch(&cometv1.Push{Offset: int64(i), Op: 1, Body: fmt.Append(nil, i), Sessions: slices.Repeat([]uint64{conns[i%2].Session()}, i%3+1)})); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	comettest.WaitFor(t, "the loop that is not stuck", func() bool { return len(conns[1].Bodies(1)) > 0 })
	release()
	for i := range batches {
		if got := recv(t, stream); len(got) != 1 || len(got[0].Sessions) != i%3+1 || got[0].Delivered != uint32(i%3+1) {
			t.Fatalf("batch %d: %v", i, got)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if code := ends(t, stream); code != codes.OK { // the job has hung up
		t.Error(code)
	}
	for c := range conns {
		var want []string
		for i := c; i < batches; i += 2 {
			want = append(want, slices.Repeat([]string{fmt.Sprint(i)}, i%3+1)...)
		}
		if got := conns[c].Bodies(1); !slices.Equal(got, want) {
			t.Errorf("client %d got %d messages, want %d in order", c, len(got), len(want))
		}
	}
}

// What was applied is not applied again, on whatever stream it comes.
func TestRepeatAcrossStreams(t *testing.T) {
	f := serve(t, nil)
	c := f.loops[0].Open(t, 1, `{"key":"a","room_id":"live://1","accepts":[1]}`)
	pushes := f.next(
		&cometv1.Push{Partition: 3, Op: 1, Body: []byte("one"), Sessions: []uint64{c.Session()}},
		&cometv1.Push{Partition: 3, Op: 1, Body: []byte("two"), Room: "live://1"},
		&cometv1.Push{Partition: 3, Op: 1, Body: []byte("three"), All: true})
	for range 3 {
		stream, cancel := f.lane()
		send(t, stream, pushes...)
		recv(t, stream)
		cancel()
	}
	stream, _ := f.lane()
	send(t, stream, append(pushes, f.next(&cometv1.Push{Partition: 3, Op: 1, Body: []byte("four"), Room: "live://1"})...)...)
	got := recv(t, stream)
	for i, r := range got {
		if r.Repeat != (i < 3) || (i == 0 && !slices.Equal(r.Sessions, []cometv1.Outcome{cometv1.Outcome_REPEAT})) || (i == 3 && r.Delivered != 1) {
			t.Errorf("push %d: %v", i, r)
		}
	}
	comettest.WaitFor(t, "the messages", func() bool {
		return slices.Equal(c.Bodies(1), []string{"one", "two", "three", "four"})
	})
}

func TestRefusedStreams(t *testing.T) {
	f := serve(t, nil)
	for name, tc := range map[string]struct {
		change func(*cometv1.Hello)
		code   codes.Code
	}{
		"other incarnation": {func(h *cometv1.Hello) { h.Incarnation++ }, codes.FailedPrecondition},
		"any incarnation":   {func(h *cometv1.Hello) { h.Incarnation = 0 }, codes.OK},
		"no lanes":          {func(h *cometv1.Hello) { h.Lanes = 0 }, codes.InvalidArgument},
		"lane above lanes":  {func(h *cometv1.Hello) { h.Lane = 1 }, codes.InvalidArgument},
	} {
		h := hello()
		tc.change(h)
		if _, _, err := f.open(h); status.Code(err) != tc.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]*cometv1.DispatchRequest{"batch first": batch(), "nothing": {}} {
		stream, err := f.client.Dispatch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		if code := ends(t, stream); code != codes.InvalidArgument {
			t.Errorf("%s: %s", name, code)
		}
	}
}

// A batch that breaks the contract ends the stream; those before it are
// answered.
func TestBadBatches(t *testing.T) {
	f := serve(t, nil)
	c := f.loops[0].Open(t, 1, `{"key":"a","accepts":[1]}`)
	id := []uint64{c.Session()}
	for name, req := range map[string]*cometv1.DispatchRequest{
		"no target":    batch(&cometv1.Push{Op: 1}),
		"two targets":  batch(&cometv1.Push{Op: 1, Sessions: id, All: true}),
		"room and all": batch(&cometv1.Push{Op: 1, Room: "live://1", All: true}),
		"second hello": {Kind: &cometv1.DispatchRequest_Hello{Hello: hello()}},
		"nothing":      {},
	} {
		stream, _ := f.lane()
		send(t, stream, f.next(&cometv1.Push{Op: 1, Body: []byte(name), Sessions: id})...)
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		if got := recv(t, stream); len(got) != 1 || got[0].Delivered != 1 {
			t.Errorf("%s: %v", name, got)
		}
		if code := ends(t, stream); code != codes.InvalidArgument {
			t.Errorf("%s: %s", name, code)
		}
	}
}

func TestKickAndDrain(t *testing.T) {
	f := serve(t, nil)
	a, b := f.loops[0].Open(t, 2, `{"key":"a"}`), f.loops[1].Open(t, 2, `{"key":"b"}`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := f.client.Kick(ctx, &cometv1.KickRequest{Incarnation: 1, Sessions: []uint64{a.Session()}}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if _, err := f.client.Kick(ctx, &cometv1.KickRequest{Sessions: []uint64{a.Session(), 1, ^uint64(0)}, Code: 3502}); err != nil {
		t.Error(err)
	}
	comettest.WaitFor(t, "the kick", a.Ended)
	if bye := a.Bodies(6); len(bye) != 1 || !strings.Contains(bye[0], `"code":3502,"reason":"limits"`) {
		t.Errorf("bye %q", bye)
	}
	if b.Ended() {
		t.Error("the other session was closed")
	}
	reply, err := f.client.Drain(ctx, &cometv1.DrainRequest{WindowMs: 100})
	// Symptom: now and then 0. Cause: counted when the drain had begun.
	if err != nil || reply.Sessions != 1 {
		t.Errorf("%v, %v", reply, err)
	}
	comettest.WaitFor(t, "the drain", b.Ended)
	if reply, err := f.client.Drain(ctx, &cometv1.DrainRequest{}); err != nil || reply.Sessions != 0 {
		t.Errorf("a second drain: %v, %v", reply, err)
	}
}
