// Package grpcapi is logic as comet and job see it: logic.v1.Logic over gRPC.
// It turns messages into the types of the core and back, and nothing more.
//
// # Ownership
//
// The server owns its listener, from Start to Stop. A Route stream has one
// goroutine beside its handler's, which ends with the stream.
//
// # Guarantees
//
// Replies of Route come in the order of the requests; a presence that does not
// answer is told in the reply (error) and the stream goes on. Stop ends Route
// streams with Unavailable between two replies, so that jobs go to another
// logic at once instead of holding the stop up. A panic ends one call.
//
// # Non-goals
//
// No authentication, no TLS: the port is for the cluster's own network.
package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	kgrpc "github.com/go-kratos/kratos/v2/transport/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // comets may compress room counts, as goim's do
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/logic"
)

// Deps is what the server works with. Core is required.
type Deps struct {
	Core     *logic.Core
	Listener net.Listener // nil = Config.Addr is listened on at Start
	Logger   *slog.Logger // nil = silent
}

// Server is the gRPC API as a kratos transport.Server. Start blocks until Stop.
type Server struct {
	*kgrpc.Server
	service *Service
}

// New builds the server; nothing listens before Start, except the listener
// that was handed in.
func New(cfg Config, deps Deps) (*Server, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("grpc: %s", p[0])
	}
	if deps.Core == nil {
		return nil, errors.New("grpc: core is required")
	}
	logger := deps.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	options := []kgrpc.ServerOption{
		kgrpc.Address(cfg.Addr),
		kgrpc.Timeout(cfg.Timeout),
		kgrpc.DisableReflection(),
		kgrpc.UnaryInterceptor(recoverUnary(logger)),
		kgrpc.StreamInterceptor(recoverStream(logger)),
		kgrpc.Options(
			grpc.MaxRecvMsgSize(cfg.MaxMessageBytes),
			grpc.MaxSendMsgSize(cfg.MaxMessageBytes),
			// Clients that ping an idle link are wanted: it is how a dead peer
			// is seen. grpc's default policy would cut them off.
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		),
	}
	if deps.Listener != nil {
		options = append(options, kgrpc.Listener(deps.Listener))
	}
	s := &Server{Server: kgrpc.NewServer(options...), service: NewService(deps.Core)}
	s.service.Register(s.Server)
	return s, nil
}

// Start serves until Stop. The end of ctx cuts no call: stopping is Stop's.
func (s *Server) Start(ctx context.Context) error {
	return s.Server.Start(context.WithoutCancel(ctx))
}

// Stop ends the Route streams, waits for the other calls, and cuts what is
// left when ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	s.service.Drain()
	return s.Server.Stop(ctx)
}

// Service implements logic.v1.Logic on a core.
type Service struct {
	logicv1.UnimplementedLogicServer
	core     *logic.Core
	drained  sync.Once
	draining chan struct{} // closed by Drain
}

// NewService makes a service; Register puts it on a server.
func NewService(core *logic.Core) *Service {
	return &Service{core: core, draining: make(chan struct{})}
}

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { logicv1.RegisterLogicServer(r, s) }

// Drain ends the Route streams, and refuses new ones. It is idempotent.
func (s *Service) Drain() { s.drained.Do(func() { close(s.draining) }) }

func recoverUnary(logger *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = panicked(logger, info.FullMethod, p)
			}
		}()
		return handler(ctx, req)
	}
}

func recoverStream(logger *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = panicked(logger, info.FullMethod, p)
			}
		}()
		return handler(srv, ss)
	}
}

func panicked(logger *slog.Logger, method string, p any) error {
	logger.Error("panic in a call", "method", method, "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "panic")
}
