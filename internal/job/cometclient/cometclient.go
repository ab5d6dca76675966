// Package cometclient reaches comets over gRPC: the job's Edge. It turns the
// streams of api/comet/v1 into the port's streams and holds one connection per
// life of a comet.
//
// # Concurrency
//
// An Edge and a Link may be used from any goroutine; a stream as its port
// says. Nothing here retries or keeps state beyond the connection: when and
// whether a stream is opened again is the job's decision.
//
// # Guarantees
//
// The end of a stream's context ends its blocked calls. A dead peer is noticed
// by pings within about 15 seconds, also when nothing is sent; the comet's
// server must allow them (keepalive.EnforcementPolicy with MinTime of 5 s or
// less and PermitWithoutStream).
package cometclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/job"
)

// maxMessageBytes of one gRPC message in either direction.
const maxMessageBytes = 16 << 20

// Edge dials comets. The zero value is ready.
type Edge struct{}

var _ job.Edge = (*Edge)(nil)

// New makes an Edge.
func New() *Edge { return &Edge{} }

// Link prepares the connection; it is made by the first stream.
func (*Edge) Link(node job.Node) job.Link {
	l := &link{node: node}
	conn, err := grpc.NewClient("passthrough:///"+node.Addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithContextDialer(l.dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
	)
	if err != nil {
		l.err = fmt.Errorf("comet %s at %q: %w", node.Name, node.Addr, err)
		return l
	}
	l.conn, l.client = conn, cometv1.NewCometClient(conn)
	return l
}

// link is the connection to one life of a comet.
type link struct {
	node   job.Node
	conn   *grpc.ClientConn
	client cometv1.CometClient
	err    error // of an address that cannot be used; conn is nil then

	refusedSince atomic.Pointer[time.Time] // connections were refused from then on; nil = the last was not
}

// believed is how long connections must be refused until that is believed: a
// network device may say so for a moment.
const believed = time.Second

// dial notes what gRPC does not tell: whether somebody listens.
func (l *link) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		l.refusedSince.Store(nil)
	} else if l.refusedSince.Load() == nil {
		now := time.Now()
		l.refusedSince.Store(&now)
	}
	return conn, err
}

// Close ends the connection and all its streams. It is idempotent.
func (l *link) Close() error {
	if l.conn == nil {
		return nil
	}
	if err := l.conn.Close(); err != nil && status.Code(err) != codes.Canceled {
		return fmt.Errorf("comet %s: close: %w", l.node.Name, err)
	}
	return nil
}

// Dispatch opens a lane and waits for the welcome.
func (l *link) Dispatch(ctx context.Context, h job.Hello) (job.DispatchStream, error) {
	if l.err != nil {
		return nil, l.err
	}
	stream, err := l.client.Dispatch(ctx)
	if err != nil {
		return nil, l.wrap("dispatch", err)
	}
	hello := &cometv1.Hello{
		Job:         h.Job,
		Log:         h.Log,
		Lane:        uint32(h.Lane),
		Lanes:       uint32(h.Lanes),
		Incarnation: l.node.Incarnation,
	}
	// An error of Send is io.EOF; Recv tells what it was.
	_ = stream.Send(&cometv1.DispatchRequest{Kind: &cometv1.DispatchRequest_Hello{Hello: hello}})
	reply, err := stream.Recv()
	if err != nil {
		return nil, l.wrap("hello", err)
	}
	welcome := reply.GetWelcome()
	if welcome == nil {
		return nil, l.wrap("hello", errors.New("the first reply is no welcome"))
	}
	if err := l.same(welcome.GetNode(), welcome.GetIncarnation()); err != nil {
		return nil, l.wrap("hello", err)
	}
	return &dispatchStream{link: l, stream: stream}, nil
}

// Rooms opens the room index.
func (l *link) Rooms(ctx context.Context, name string) (job.RoomStream, error) {
	if l.err != nil {
		return nil, l.err
	}
	stream, err := l.client.Rooms(ctx)
	if err != nil {
		return nil, l.wrap("rooms", err)
	}
	if err := stream.Send(&cometv1.RoomsAck{Job: name}); err != nil {
		_, err = stream.Recv()
		return nil, l.wrap("rooms", err)
	}
	return &roomStream{link: l, stream: stream}, nil
}

// same checks that the life that answers is the one that was asked for.
func (l *link) same(name string, incarnation uint64) error {
	if name != l.node.Name || incarnation != l.node.Incarnation {
		return fmt.Errorf("%w: %s/%d answers for %s/%d", job.ErrOtherLife,
			name, incarnation, l.node.Name, l.node.Incarnation)
	}
	return nil
}

func (l *link) wrap(what string, err error) error {
	switch status.Code(err) {
	case codes.FailedPrecondition:
		err = fmt.Errorf("%w: %w", job.ErrOtherLife, err)
	case codes.Unavailable:
		if since := l.refusedSince.Load(); since != nil && time.Since(*since) >= believed {
			err = fmt.Errorf("%w: %w", job.ErrRefused, err)
		}
	}
	return fmt.Errorf("comet %s: %s: %w", l.node.Name, what, err)
}
