// Package logicclient asks logic over gRPC where the targets are: the job's
// Router. The logics are found through a kratos registry and used in turn.
//
// # Concurrency
//
// A call of Route has a stream for itself while it lasts; idle streams are
// kept, so that there are as many as there were calls at one time. A stream
// stays with one logic; after an error, a change of the list of logics, or a
// minute, the next call opens another, which goes to the next logic that is
// connected.
//
// # Guarantees
//
// Route ends with its context, returns whole answers only (every index in
// them is checked), and never retries: the job does. A logic that left the
// registry gets no new streams; one that is listed but dead is passed over.
package logicclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kregistry "github.com/go-kratos/kratos/v2/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/registry"
)

const (
	// maxMessageBytes of one gRPC message in either direction.
	maxMessageBytes = 16 << 20
	// streamAge bounds how long a stream stays with one logic, so that a logic
	// that comes gets its share.
	streamAge = time.Minute
	// watchPause is between attempts to watch the registry.
	watchPause = time.Second
)

// ErrClosed is what Route answers after Close.
var ErrClosed = errors.New("logicclient: closed")

// Client is the Router.
type Client struct {
	discovery kregistry.Discovery
	log       *slog.Logger
	resolver  *manual.Resolver
	conn      *grpc.ClientConn
	client    logicv1.LogicClient

	mu     sync.Mutex
	closed bool
	life   context.Context // nil before Start or the first Route
	stop   context.CancelFunc
	list   int            // number of the list of logics that is in force
	idle   []*routeStream // last used last
	wg     sync.WaitGroup
}

var _ job.Router = (*Client)(nil)

// New makes a Client for the logics in the registry. It starts nothing.
func New(discovery kregistry.Discovery, log *slog.Logger) (*Client, error) {
	if discovery == nil || log == nil {
		return nil, errors.New("logicclient: discovery and logger are required")
	}
	c := &Client{discovery: discovery, log: log, resolver: manual.NewBuilderWithScheme("perseid")}
	conn, err := grpc.NewClient("perseid:///"+registry.Logic,
		grpc.WithResolvers(c.resolver),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithIdleTimeout(0),
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
		return nil, fmt.Errorf("logicclient: %w", err)
	}
	c.conn, c.client = conn, logicv1.NewLogicClient(conn)
	return c, nil
}

// Close ends streams, connections and the watch of the registry. It is
// idempotent.
func (c *Client) Close() error {
	c.mu.Lock()
	already := c.closed
	c.closed = true
	if c.stop != nil {
		c.stop()
	}
	c.idle = nil
	c.mu.Unlock()
	var err error
	if !already {
		err = c.conn.Close()
	}
	c.wg.Wait()
	if err != nil {
		return fmt.Errorf("logicclient: close: %w", err)
	}
	return nil
}

// Start begins the watch of the registry. Without it the first Route does,
// which would leave a job that has no partitions yet without a list of logics
// when the registry goes away before it gets some.
func (c *Client) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begin(ctx)
}

// begin is called with the lock held.
func (c *Client) begin(ctx context.Context) error {
	if c.closed {
		return ErrClosed
	}
	if c.life == nil {
		c.life, c.stop = context.WithCancel(context.WithoutCancel(ctx))
		c.wg.Go(func() { c.watch(c.life) })
	}
	return nil
}

// take returns an idle stream, or one that has yet to be opened in life.
func (c *Client) take(ctx context.Context) (stream *routeStream, life context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx); err != nil {
		return nil, nil, err
	}
	for n := len(c.idle); n > 0; n = len(c.idle) {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		if s.list == c.list && time.Since(s.opened) < streamAge && s.stream.Context().Err() == nil {
			return s, c.life, nil
		}
		s.cancel()
	}
	return &routeStream{list: c.list}, c.life, nil
}

// keep makes the stream idle.
func (c *Client) keep(s *routeStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		s.cancel()
		return
	}
	c.idle = append(c.idle, s)
}

// watch tells gRPC which logics there are. An empty list is a state: calls
// then fail at once.
func (c *Client) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("watch of the logics broke, it is opened again", slog.Any("error", err))
		pause := time.NewTimer(watchPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

func (c *Client) follow(ctx context.Context) (err error) {
	watcher, err := c.discovery.Watch(ctx, registry.Logic)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watcher.Stop()) }()
	for {
		instances, err := watcher.Next()
		if err != nil {
			return err
		}
		var state resolver.State
		for _, instance := range instances {
			if addr := registry.GRPCAddress(instance); addr != "" {
				state.Addresses = append(state.Addresses, resolver.Address{Addr: addr})
			}
		}
		c.resolver.UpdateState(state)
		// Streams of the list before end after their call. Not before the line
		// above: a stream that was opened in between would count as new, and
		// stay with a logic that has left for as long as a stream may.
		c.mu.Lock()
		c.list++
		c.mu.Unlock()
	}
}
