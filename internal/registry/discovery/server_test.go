package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	"github.com/perseid-im/perseid/internal/leakcheck"
	directory "github.com/perseid-im/perseid/internal/registry"
)

// within is how long a test waits for what must happen soon.
const within = time.Minute

var (
	binary string // bilibili/discovery's server
	shared *server
)

func TestMain(m *testing.M) {
	if err := startShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	leakcheck.Main(m) // ends the process, and so the guard of the shared server
}

func startShared() error {
	dir, err := os.MkdirTemp("", "perseid-discovery")
	if err != nil {
		return err
	}
	binary = filepath.Join(dir, "discovery")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/bilibili/discovery/cmd/discovery").CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build the discovery server: %w\n%s", err, out), os.RemoveAll(dir))
	}
	shared = &server{address: freeAddress(), dir: dir}
	return shared.run()
}

// server is a discovery server in a process of its own.
type server struct {
	address string
	peers   []string // all nodes of the cluster; empty: this one
	protect bool
	dir     string
	output  syncBuffer
	command *exec.Cmd
	guard   io.Writer // ends the server; the end of this process closes it too
}

// guardScript runs a server until its standard input ends, and removes the
// folder of the server when the test process is gone without having done so.
const guardScript = `"$0" -conf "$1/discovery.toml" & read -r line; kill -9 $!; [ "$line" = keep ] || rm -rf "$1"; wait $!`

func newServer(t *testing.T) *server {
	s := &server{address: freeAddress(), dir: t.TempDir()}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() && testing.Verbose() {
			t.Logf("server %s: %s", s.address, s.output.tail())
		}
	})
	return s
}

// start starts the server, again if need be: it has then forgotten everything.
func (s *server) start(t *testing.T) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

func (s *server) run() error {
	nodes := s.peers
	if len(nodes) == 0 {
		nodes = []string{s.address}
	}
	config := fmt.Sprintf("nodes = [\"%s\"]\nenableprotect = %v\n"+
		"[env]\nregion = \"r1\"\nzone = \"z1\"\nhost = \"server-%s\"\nDeployEnv = \"test\"\n"+
		"[httpServer]\naddr = %q\ntimeout = \"40s\"\n"+
		"[httpClient]\ndial = \"1s\"\nkeepAlive = \"120s\"\ntimeout = \"40s\"\n[log]\nstdout = true\n",
		strings.Join(nodes, `", "`), s.protect, s.address, s.address)
	file := filepath.Join(s.dir, "discovery.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	s.command = exec.Command("sh", "-c", guardScript, binary, s.dir)
	s.command.Stdout, s.command.Stderr = &s.output, &s.output
	guard, err := s.command.StdinPipe()
	if err != nil {
		return err
	}
	s.guard = guard
	if err := s.command.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(within); ; {
		conn, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			s.kill()
			return fmt.Errorf("discovery server does not listen: %w\n%s", err, s.output.tail())
		}
	}
}

// kill ends the server without a goodbye.
func (s *server) kill() {
	if s.command != nil {
		_, _ = io.WriteString(s.guard, "keep\n")
		_ = s.command.Wait()
		s.command = nil
	}
}

// freeAddress has a port below those that the kernel gives to connections and to
// listeners on port 0: nobody takes it while no server has it.
func freeAddress() string {
	for {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		if listener, err := net.Listen("tcp", address); err == nil {
			_ = listener.Close()
			return address
		}
	}
}

// proxy stands before a server, notes the requests and can get in their way.
type proxy struct {
	address string
	// intercept is called before a request is passed on, which it is when it
	// returns false.
	intercept func(w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex
	paths []string
}

func newProxy(t *testing.T, s *server, intercept func(w http.ResponseWriter, r *http.Request) bool) *proxy {
	p := &proxy{intercept: intercept}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.address})
	transport := new(http.Transport)
	pass.Transport = transport
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.paths = append(p.paths, r.URL.Path)
		p.mu.Unlock()
		if p.intercept == nil || !p.intercept(w, r) {
			pass.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		front.Close()
		transport.CloseIdleConnections()
	})
	p.address = front.Listener.Addr().String()
	return p
}

func (p *proxy) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.paths...)
}

// option changes the configuration of a test's directory.
type option func(*directory.DiscoveryConfig)

func renewEvery(d time.Duration) option {
	return func(c *directory.DiscoveryConfig) { c.RenewInterval = d }
}

func pollFor(d time.Duration) option {
	return func(c *directory.DiscoveryConfig) { c.PollTimeout = d }
}

func inZone(zone string) option {
	return func(c *directory.DiscoveryConfig) { c.Zone = zone }
}

// open returns a directory with the default times, which the end of the test
// closes.
func open(t *testing.T, nodes []string, options ...option) *Directory {
	t.Helper()
	return openLogging(t, slog.New(slog.DiscardHandler), nodes, options...)
}

func openLogging(t *testing.T, log *slog.Logger, nodes []string, options ...option) *Directory {
	t.Helper()
	cfg := directory.DefaultConfig().Discovery
	cfg.Nodes, cfg.Region, cfg.Zone, cfg.Env = nodes, "r1", "z1", "test"
	for _, o := range options {
		o(&cfg)
	}
	d, err := New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	d.client.limit = within // a pause of the server is no outage
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		_ = d.Close(ctx) // the server may be gone
	})
	return d
}

// node is an instance at 127.0.0.1:port with an ID of its own.
func node(service string, port int) *registry.ServiceInstance {
	return &registry.ServiceInstance{
		ID:        fmt.Sprintf("host#%d", port),
		Name:      service,
		Endpoints: []string{fmt.Sprintf("grpc://127.0.0.1:%d", port)},
	}
}

func mustRegister(t *testing.T, d *Directory, instances ...*registry.ServiceInstance) {
	t.Helper()
	for _, i := range instances {
		if err := d.Register(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
}

func mustDeregister(t *testing.T, d *Directory, instances ...*registry.ServiceInstance) {
	t.Helper()
	for _, i := range instances {
		if err := d.Deregister(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
}

func mustGet(t *testing.T, d *Directory, service string, want int) []*registry.ServiceInstance {
	t.Helper()
	instances, err := d.GetService(t.Context(), service)
	if err != nil || len(instances) != want {
		t.Fatalf("GetService = %v, %v; want %d", instances, err, want)
	}
	return instances
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// syncBuffer collects a log.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) count(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), s)
}

// tail returns what was written last.
func (b *syncBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()[max(0, b.text.Len()-4000):]
}
