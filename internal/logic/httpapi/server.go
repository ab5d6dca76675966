// Package httpapi is the HTTP API of logic: goim's routes under /goim, byte
// for byte as goim answers them, and those under /v1/push, which say what
// happened with HTTP status codes. api/push describes both.
//
// # Ownership
//
// The server owns its listener and its connections, from Start to Stop. A
// request's body is read into a buffer of its own, which the log may keep.
//
// # Guarantees
//
// Every request has a deadline, its body a limit, and the pushes under way a
// number. A panic ends one request, answered 500 with an empty body as goim
// does. No handler of the default mux is reachable. Bodies, keys and query
// strings are not logged.
//
// # Non-goals
//
// No authentication, no TLS, no rate limit per caller: goim has none either;
// keep the port away from the public.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	khttp "github.com/go-kratos/kratos/v2/transport/http"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/obs"
)

// Deps is what the server works with. Core is required.
type Deps struct {
	Core     *logic.Core
	Listener net.Listener // nil = Config.Addr is listened on at Start
	Logger   *slog.Logger // nil = silent
	Metrics  *obs.Metrics // nil = not counted
}

// Server is the HTTP API as a kratos transport.Server. Start blocks until
// Stop, which waits for the requests under way.
type Server struct {
	*khttp.Server
	cfg     Config
	core    *logic.Core
	logger  *slog.Logger
	storms  *obs.Limited // all pushes fail while the log is away
	metrics metrics
	trusted []netip.Prefix
	pushes  atomic.Int64 // under way
}

// New builds the server; nothing listens before Start, except the listener
// that was handed in.
func New(cfg Config, deps Deps) (*Server, error) {
	if p := cfg.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("http: %s", p[0])
	}
	if deps.Core == nil {
		return nil, errors.New("http: core is required")
	}
	s := &Server{cfg: cfg, core: deps.Core, logger: deps.Logger, metrics: newMetrics(deps.Metrics)}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.storms = obs.NewLimited(s.logger, 5*time.Second)
	for _, cidr := range cfg.TrustedProxies {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("http: trusted_proxies: %w", err)
		}
		s.trusted = append(s.trusted, prefix.Masked())
	}
	options := []khttp.ServerOption{
		khttp.Address(cfg.Addr),
		khttp.Timeout(cfg.Timeout),
		khttp.StrictSlash(false),
		khttp.Filter(s.drain, s.identify, s.measure, s.recoverPanic, s.exactPath),
		// Both default to http.DefaultServeMux, where an imported pprof sits.
		khttp.NotFoundHandler(http.HandlerFunc(s.notFound)),
		khttp.MethodNotAllowedHandler(http.HandlerFunc(s.methodNotAllowed)),
	}
	if deps.Listener != nil {
		options = append(options, khttp.Listener(deps.Listener))
	}
	s.Server = khttp.NewServer(options...)
	// kratos sets none of these.
	s.ReadHeaderTimeout = cfg.ReadHeaderTimeout
	s.ReadTimeout = cfg.ReadTimeout
	s.WriteTimeout = cfg.WriteTimeout
	s.IdleTimeout = cfg.IdleTimeout
	s.MaxHeaderBytes = cfg.MaxHeaderBytes
	s.ErrorLog = slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug)
	s.routes()
	return s, nil
}

// Start serves until Stop. The end of ctx cuts no request: stopping is Stop's.
func (s *Server) Start(ctx context.Context) error {
	return s.Server.Start(context.WithoutCancel(ctx))
}

// Paths of the API, which are also the routes of the metrics.
const (
	pathPushKeys       = "/goim/push/keys"
	pathPushMids       = "/goim/push/mids"
	pathPushRoom       = "/goim/push/room"
	pathPushAll        = "/goim/push/all"
	pathOnlineTop      = "/goim/online/top"
	pathOnlineRoom     = "/goim/online/room"
	pathOnlineTotal    = "/goim/online/total"
	pathNodesWeighted  = "/goim/nodes/weighted"
	pathNodesInstances = "/goim/nodes/instances"
	pathPush           = "/v1/push"
	pathBroadcasts     = "/v1/push/all"
	pathBroadcast      = "/v1/push/all/{msg_id}"
	pathMembers        = "/v1/rooms/{type}/{id}/members"
	pathRoomsOf        = "/v1/users/{mid}/rooms"
	pathUnread         = "/v1/users/{mid}/unread"
	pathHide           = "/v1/users/{mid}/hide"
	pathClear          = "/v1/users/{mid}/clear"
	pathHotRooms       = "/v1/rooms/hot"
	pathMessages       = "/v1/messages"
	pathRevoke         = "/v1/messages/revoke"
)

// templates are the paths with names in them.
var templates = []string{pathBroadcast, pathMembers, pathRoomsOf, pathUnread, pathHide, pathClear}

// match tells whether a path is of a template, and what its names stand for.
func match(template, path string) (names []string, ok bool) {
	// Every request asks for all templates; most are of none.
	if fixed, _, _ := strings.Cut(template, "{"); !strings.HasPrefix(path, fixed) {
		return nil, false
	}
	t, p := strings.Split(template, "/"), strings.Split(path, "/")
	if len(t) != len(p) {
		return nil, false
	}
	for i := range t {
		switch {
		case strings.HasPrefix(t[i], "{") && p[i] != "":
			names = append(names, p[i])
		case t[i] != p[i]:
			return nil, false
		}
	}
	return names, true
}

// routeOf is the path of the API that a request's path belongs to, or the path
// itself if it is none of the API.
func routeOf(path string) string {
	for _, template := range templates {
		if _, ok := match(template, path); ok {
			return template
		}
	}
	return path
}

// methodsOf are the methods of each path, as the header Allow has them.
func methodsOf(path string) (methods string, ok bool) {
	switch routeOf(path) {
	case pathPushKeys, pathPushMids, pathPushRoom, pathPushAll, pathPush, pathRevoke, pathHide, pathClear:
		return http.MethodPost, true
	case pathOnlineTop, pathOnlineRoom, pathOnlineTotal, pathNodesWeighted, pathNodesInstances, pathBroadcasts, pathRoomsOf, pathUnread, pathMessages, pathHotRooms:
		return http.MethodGet, true
	case pathBroadcast:
		return http.MethodGet + ", " + http.MethodDelete, true
	case pathMembers:
		return http.MethodGet + ", " + http.MethodPost + ", " + http.MethodDelete, true
	}
	return "", false
}

func (s *Server) routes() {
	handlers := map[string]func(http.ResponseWriter, *http.Request){
		pathPushKeys:       s.limited(s.pushKeys, goimKeysBusy),
		pathPushMids:       s.limited(s.pushMids, goimBusy),
		pathPushRoom:       s.limited(s.pushRoom, goimBusy),
		pathPushAll:        s.limited(s.pushAll, goimBusy),
		pathOnlineTop:      s.onlineTop,
		pathOnlineRoom:     s.onlineRoom,
		pathOnlineTotal:    s.onlineTotal,
		pathNodesWeighted:  s.nodesWeighted,
		pathNodesInstances: s.nodesInstances,
		pathPush:           s.limited(s.push, v1Busy),
		pathBroadcasts:     s.limited(s.broadcasts, v1Busy),
		pathBroadcast:      s.limited(s.broadcast, v1Busy),
		pathMembers:        s.limited(s.members, v1Busy),
		pathRoomsOf:        s.limited(s.roomsOf, v1Busy),
		pathUnread:         s.limited(s.unread, v1Busy),
		pathHide:           s.limited(s.hide, v1Busy),
		pathClear:          s.limited(s.clear, v1Busy),
		pathHotRooms:       s.limited(s.hotRooms, v1Busy),
		pathMessages:       s.limited(s.messages, v1Busy),
		pathRevoke:         s.limited(s.revoke, v1Busy),
	}
	router := s.Route("/")
	for path, handle := range handlers {
		methods, _ := methodsOf(path)
		for method := range strings.SplitSeq(methods, ", ") {
			router.Handle(method, path, func(ctx khttp.Context) error {
				handle(ctx.Response(), ctx.Request())
				return nil
			})
		}
	}
}
