// Package gnetio is the edge's transport: TCP and WebSocket listeners on
// gnet's event loops, one comet.Bucket per loop.
//
// # Ownership
//
// A connection and its session belong to one loop. Everything is written from
// the loop: gnet's AsyncWrite would overtake its task queue.
//
// # Guarantees
//
// gnet ends its whole engine when accept fails for want of file descriptors.
// The gateway therefore refuses connections above a bound that leaves a
// reserve, and the server accepts with one socket per loop, so that the bound
// cannot be overrun by more than one connection per loop.
package gnetio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	gnetErrors "github.com/panjf2000/gnet/v2/pkg/errors"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/obs"
)

// Config says where and how clients connect.
type Config struct {
	TCP           string        `toml:"tcp" doc:"address of the TCP listener (goim: :3101); empty = none"`
	WebSocket     string        `toml:"websocket" doc:"address of the WebSocket listener, path /sub (goim: :3102); empty = none"`
	Loops         int           `toml:"loops" doc:"event loops; 0 = one per CPU that Go may use; at most 256"`
	KeepAlive     time.Duration `toml:"keep_alive" doc:"idle time before TCP keep-alive probes; 0s = off, else 1s or more"`
	SendBuffer    int           `toml:"send_buffer" doc:"socket send buffer in bytes; 0 = the system's choice"`
	ReceiveBuffer int           `toml:"receive_buffer" doc:"socket receive buffer in bytes; 0 = the system's choice"`
	WebSocketPath string        `toml:"websocket_path" doc:"path of the WebSocket handshake (goim: /sub)"`
}

// DefaultConfig is goim's ports.
func DefaultConfig() Config {
	return Config{TCP: ":3101", WebSocket: ":3102", KeepAlive: 60 * time.Second, WebSocketPath: "/sub"}
}

// Problems lists every setting that is out of range.
func (c *Config) Problems() []string {
	var p []string
	if c.TCP == "" && c.WebSocket == "" {
		p = append(p, `tcp = "": allowed is an address, when websocket is empty too`)
	}
	if c.Loops < 0 || c.Loops > comet.MaxLoops {
		p = append(p, fmt.Sprintf("loops = %d: allowed is 0 to %d", c.Loops, comet.MaxLoops))
	}
	if c.KeepAlive != 0 && c.KeepAlive < time.Second {
		p = append(p, fmt.Sprintf("keep_alive = %s: allowed is 0s or 1s and more", c.KeepAlive))
	}
	if c.SendBuffer < 0 || c.ReceiveBuffer < 0 {
		p = append(p, fmt.Sprintf("send_buffer = %d, receive_buffer = %d: allowed is 0 and more", c.SendBuffer, c.ReceiveBuffer))
	}
	if len(c.WebSocketPath) == 0 || c.WebSocketPath[0] != '/' {
		p = append(p, fmt.Sprintf("websocket_path = %q: allowed is a path that begins with /", c.WebSocketPath))
	}
	return p
}

// Server accepts clients for a gateway.
type Server struct {
	gnet.BuiltinEventEngine
	cfg     Config
	gateway *comet.Gateway
	log     *slog.Logger
	tcp, ws netip.AddrPort // where it listens; the zero value = not

	buckets   sync.Map           // gnet.EventLoop -> *comet.Bucket
	inflaters sync.Pool          // of *ws.Inflater
	pages     func() comet.Pages // of a loop
	files     atomic.Int32       // of all pages
	booted    chan struct{}
	bootOne   sync.Once
	done      chan struct{}
	err       error // of Run, once done is closed

	mu       sync.Mutex // Run, the boot, the loops and Stop come from different goroutines
	started  bool       // Run was called
	stopped  bool       // Stop was called
	engine   *gnet.Engine
	yielders []*yielder // of the loops
}

// EventLoops is how many the setting listen.loops means.
func EventLoops(setting int) int {
	if setting > 0 {
		return setting
	}
	return min(runtime.GOMAXPROCS(0), comet.MaxLoops)
}

// New checks the configuration and finds the addresses; a port that is taken
// is an error here. Start begins to accept.
func New(cfg Config, gateway *comet.Gateway, log *slog.Logger) (*Server, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("gnetio: %s", p[0])
	}
	s := &Server{cfg: cfg, gateway: gateway, log: log, booted: make(chan struct{}), done: make(chan struct{})}
	s.pages = func() comet.Pages { return kernelPages(&s.files) }
	var err error
	if s.tcp, err = probe("tcp", cfg.TCP); err != nil {
		return nil, err
	}
	if s.ws, err = probe("websocket", cfg.WebSocket); err != nil {
		return nil, err
	}
	if s.tcp.IsValid() && s.tcp == s.ws { // with SO_REUSEPORT both would listen
		return nil, fmt.Errorf("gnetio: listen.tcp = %q, listen.websocket = %q: allowed are two addresses", cfg.TCP, cfg.WebSocket)
	}
	return s, nil
}

// probe finds out whether an address is free and which port 0 means. The
// loops share their port with SO_REUSEPORT, which would let a second comet
// listen on it too without a word.
func probe(key, addr string) (netip.AddrPort, error) {
	if addr == "" {
		return netip.AddrPort{}, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gnetio: listen.%s = %q: %w", key, addr, err)
	}
	bound := l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		return netip.AddrPort{}, fmt.Errorf("gnetio: listen.%s = %q: %w", key, addr, err)
	}
	return bound, nil
}

// TCPAddr and WebSocketAddr are where clients connect; "" = not at all.
func (s *Server) TCPAddr() string       { return show(s.tcp) }
func (s *Server) WebSocketAddr() string { return show(s.ws) }

func show(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Run accepts clients until Stop. Loops that end unasked are an error: their
// connections are gone, and a process that accepts nobody must not look well.
func (s *Server) Run() (err error) {
	defer func() {
		s.err = err
		close(s.done)
	}()
	s.mu.Lock()
	s.started = true
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		return nil
	}
	var addrs []string
	for _, a := range []netip.AddrPort{s.tcp, s.ws} {
		if a.IsValid() {
			addrs = append(addrs, "tcp://"+listenAddr(a))
		}
	}
	opts := []gnet.Option{
		gnet.WithNumEventLoop(EventLoops(s.cfg.Loops)),
		gnet.WithReusePort(true),
		gnet.WithReuseAddr(true),
		gnet.WithTicker(true),
		gnet.WithLogger(obs.NewGnetLogger(s.log)),
		gnet.WithSocketSendBuffer(s.cfg.SendBuffer),
		gnet.WithSocketRecvBuffer(s.cfg.ReceiveBuffer),
	}
	if s.cfg.KeepAlive > 0 {
		opts = append(opts, gnet.WithTCPKeepAlive(s.cfg.KeepAlive))
	}
	err = gnet.Rotate(s, addrs, opts...)
	s.closeYielders()
	s.mu.Lock()
	stopped = s.stopped
	s.mu.Unlock()
	switch {
	case stopped:
		return nil
	case err != nil:
		// Of an address that is taken gnet says "bad file descriptor".
		_, tcpErr := probe("tcp", show(s.tcp))
		_, wsErr := probe("websocket", show(s.ws))
		return errors.Join(fmt.Errorf("gnetio: listen on %v: %w", addrs, err), tcpErr, wsErr)
	}
	return errors.New("gnetio: the event loops ended unasked; gnet does so when accept fails, most likely for want of file descriptors")
}

// listenAddr spells "all addresses of both families" as gnet does. A host
// without IPv6 has 0.0.0.0 instead, where gnet's spelling would fail.
func listenAddr(a netip.AddrPort) string {
	if a.Addr() == netip.IPv6Unspecified() {
		return ":" + strconv.Itoa(int(a.Port()))
	}
	return a.String()
}

// Ready blocks until the first engine accepts, or ctx ends. Where Run could not
// listen it tells why.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.booted:
		return nil
	case <-s.done:
		if s.err != nil {
			return s.err
		}
		return errors.New("gnetio: was stopped before it accepted")
	case <-ctx.Done():
		return fmt.Errorf("gnetio: not accepting yet: %w", ctx.Err())
	}
}

// Stop ends all connections and the loops. It may come before Run, which then
// returns at once.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	started, engine := s.started, s.engine
	s.mu.Unlock()
	if !started {
		return nil
	}
	select {
	case <-s.done: // it could not start, or ended by itself
		return nil
	default:
	}
	if engine != nil {
		if err := engine.Stop(ctx); err != nil && !errors.Is(err, gnetErrors.ErrEngineInShutdown) {
			return fmt.Errorf("gnetio: stop: %w", err)
		}
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("gnetio: stop: %w", ctx.Err())
	}
}

// OnBoot is called by gnet when it is about to accept.
func (s *Server) OnBoot(e gnet.Engine) gnet.Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return gnet.Shutdown
	}
	s.engine = &e
	s.bootOne.Do(func() { close(s.booted) })
	return gnet.None
}

// OnTick drives the deadlines of all loops; gnet calls it on one goroutine.
func (s *Server) OnTick() (time.Duration, gnet.Action) {
	s.gateway.Tick()
	return 100 * time.Millisecond, gnet.None
}

// bucket returns the bucket of the loop that the callback runs on.
func (s *Server) bucket(l gnet.EventLoop) (*comet.Bucket, error) {
	if b, ok := s.buckets.Load(l); ok {
		return b.(*comet.Bucket), nil
	}
	y, err := newYielder()
	if err != nil {
		return nil, fmt.Errorf("gnetio: pipe of an event loop: %w", err)
	}
	b, err := s.gateway.NewBucket(loop{l, y, s.pages()})
	if err != nil {
		y.close()
		return nil, err
	}
	s.buckets.Store(l, b)
	s.mu.Lock()
	s.yielders = append(s.yielders, y)
	s.mu.Unlock()
	return b, nil
}

// closeYielders is called when the loops have ended.
func (s *Server) closeYielders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, y := range s.yielders {
		y.close()
	}
	s.yielders = nil
}

type loop struct {
	l     gnet.EventLoop
	y     *yielder
	pages comet.Pages
}

// Yield implements comet.Loop.
func (l loop) Yield() { l.y.yield() }

// Pages implements comet.Loop.
func (l loop) Pages() comet.Pages { return l.pages }

// Execute implements comet.Loop.
func (l loop) Execute(fn func()) {
	// It fails only while the engine shuts down, when no turn matters.
	_ = l.l.Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
		fn()
		return nil
	}))
}
