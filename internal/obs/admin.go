package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminConfig is the section [admin].
type AdminConfig struct {
	Addr string `toml:"addr" doc:"host:port of the admin listener (metrics, health, profiles), without authentication: keep it on loopback or a private network; port 0 picks one"`
}

// Problems lists what is not allowed.
func (c *AdminConfig) Problems() []string {
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		return []string{fmt.Sprintf("addr = %q: host:port", c.Addr)}
	}
	return nil
}

// A Route is a page that a daemon adds to its admin listener.
type Route struct {
	Pattern string // of http.ServeMux, "GET /rooms"
	Doc     string // one line for the index
	Handler http.Handler
}

// Admin serves metrics, health and profiles. It is a transport.Server of
// kratos.
type Admin struct {
	listener net.Listener
	server   *http.Server
	stop     context.CancelFunc // ends running profiles
}

const (
	// Slow clients of the admin port must not collect; profiles take long, so
	// there is no write timeout.
	adminReadHeaderTimeout = 5 * time.Second
	adminIdleTimeout       = time.Minute
	adminMaxHeaderBytes    = 16 << 10
	// A scrape that takes longer has lost its scraper.
	scrapeTimeout = 10 * time.Second
)

// NewAdmin listens on addr, but serves only from Start on; until then callers
// wait in the backlog.
func NewAdmin(addr string, m *Metrics, h *Health, extra ...Route) (*Admin, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("admin.addr = %q: want host:port: %w", addr, err)
	}
	// The lifetime of the listener, which outlives every caller's context.
	ctx, stop := context.WithCancel(context.Background()) //nolint:forbidigo // see above
	a := &Admin{stop: stop}
	a.server = &http.Server{
		Handler:           a.routes(ctx, m, h, extra),
		ReadHeaderTimeout: adminReadHeaderTimeout,
		IdleTimeout:       adminIdleTimeout,
		MaxHeaderBytes:    adminMaxHeaderBytes,
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		stop()
		return nil, fmt.Errorf("admin.addr = %q: cannot listen there: %w", addr, err)
	}
	a.listener = listener
	return a, nil
}

// routes builds the mux. ctx ends the profiles.
func (a *Admin) routes(ctx context.Context, m *Metrics, h *Health, extra []Route) http.Handler {
	all := append([]Route{
		{"GET /metrics", "metrics in the format of Prometheus", promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{
			ErrorHandling:  promhttp.ContinueOnError, // one broken metric does not hide the others
			Timeout:        scrapeTimeout,
			CoalesceGather: true,
		})},
		{"GET /healthz", "200 as long as the process lives", http.HandlerFunc(h.serveLive)},
		{"GET /readyz", "200 when the process may get work, else 503; the checks as JSON", http.HandlerFunc(h.serveReady)},
		{"GET /debug/pprof/", "profiles of the Go runtime", profiles{ctx}},
	}, extra...)
	mux := http.NewServeMux()
	var index strings.Builder
	fmt.Fprintf(&index, "perseid %s\n\n", Version())
	for _, r := range all {
		mux.Handle(r.Pattern, r.Handler)
		fmt.Fprintf(&index, "%-24s %s\n", strings.TrimPrefix(r.Pattern, "GET "), r.Doc)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, index.String())
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusNotFound, "not found; / lists what there is\n")
	})
	return mux
}

// Addr is the address that was bound, with the port that was picked for 0.
func (a *Admin) Addr() string { return a.listener.Addr().String() }

// Start serves until Stop. The end of ctx does not stop it: kratos ends that
// context first, and probes should see the process drain.
func (a *Admin) Start(context.Context) error {
	if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: serve %s: %w", a.Addr(), err)
	}
	return nil
}

// Stop lets running requests finish until ctx ends, then cuts them. It may be
// called again, and without Start.
func (a *Admin) Stop(ctx context.Context) error {
	a.stop()
	err := a.server.Shutdown(ctx)
	if err != nil {
		_ = a.server.Close()
	}
	_ = a.listener.Close() // Shutdown does not know it before Start
	if err != nil {
		return fmt.Errorf("admin: requests cut at stop: %w", err)
	}
	return nil
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client hung up
}
