package obs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-kratos/kratos/v2/transport"
)

var _ transport.Server = (*Admin)(nil)

// patience is how long anything here may take before the test fails: a busy
// machine may stop a process for seconds, at any point.
const patience = time.Minute

// noLeak fails the test if goroutines of this package are left at its end.
//
//archtest:leaks noLeak
func noLeak(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		deadline := time.After(patience)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var left []string
			buf := make([]byte, 1<<20)
			for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				ours := strings.Contains(stack, "internal/obs.") || strings.Contains(stack, "net/http.(*conn).serve")
				if ours && !strings.Contains(stack, "testing.") {
					left = append(left, stack)
				}
			}
			if len(left) == 0 {
				return
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Errorf("%d goroutines left:\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
		}
	})
}

// serve starts an admin listener that the end of the test stops.
func serve(t *testing.T, h *Health, extra ...Route) *Admin {
	t.Helper()
	noLeak(t)
	a, err := NewAdmin("127.0.0.1:0", NewMetrics(), h, extra...)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Start(t.Context()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("start: %v", err)
		}
	})
	return a
}

func do(t *testing.T, method, url string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

func TestAdminPages(t *testing.T) {
	h := NewHealth()
	h.Ready("redis", func(context.Context) error { return fmt.Errorf("down") })
	a := serve(t, h, Route{"GET /rooms", "the rooms", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "live://7")
	})})
	for _, c := range []struct {
		method, path string
		status       int
		kind, body   string
	}{
		{"GET", "/", 200, "text/plain", "/rooms                   the rooms"},
		{"GET", "/", 200, "text/plain", "/debug/pprof/"},
		{"GET", "/metrics", 200, "text/plain", "perseid_build_info{"},
		{"GET", "/healthz", 200, "text/plain", "ok\n"},
		{"HEAD", "/healthz", 200, "text/plain", ""},
		{"GET", "/readyz", 503, "application/json", `"error": "down"`},
		{"GET", "/rooms", 200, "text/plain", "live://7"},
		{"GET", "/nothing", 404, "text/plain", "not found"},
		{"GET", "/healthz/x", 404, "text/plain", "not found"},
		{"POST", "/metrics", 404, "text/plain", "not found"},
		{"GET", "/debug/pprof/", 200, "text/plain", "goroutine?debug=1"},
		{"GET", "/debug/pprof/goroutine?debug=2", 200, "text/plain", "goroutine "},
		{"GET", "/debug/pprof/heap?gc=1", 200, "application/octet-stream", "\x1f\x8b"},
		{"GET", "/debug/pprof/heap?seconds=1", 400, "text/plain", "seconds is for"},
		{"GET", "/debug/pprof/heap?debug=x", 400, "text/plain", "debug: want"},
		{"GET", "/debug/pprof/cmdline", 404, "text/plain", "no such profile"},
		{"GET", "/debug/pprof/profile?seconds=0.05", 200, "application/octet-stream", "\x1f\x8b"},
		{"GET", "/debug/pprof/profile?seconds=0", 400, "text/plain", "seconds: want"},
		{"GET", "/debug/pprof/profile?seconds=NaN", 400, "text/plain", "seconds: want"},
		{"GET", "/debug/pprof/profile?seconds=1e9", 400, "text/plain", "seconds: want"},
		{"GET", "/debug/pprof/trace?seconds=0.05", 200, "application/octet-stream", "go 1."},
	} {
		status, header, body := do(t, c.method, "http://"+a.Addr()+c.path)
		if status != c.status || !strings.HasPrefix(header.Get("Content-Type"), c.kind) || !strings.Contains(body, c.body) {
			t.Errorf("%s %s: %d %s %.200q", c.method, c.path, status, header.Get("Content-Type"), body)
		}
	}
}

// What is on the default mux is on the public port of kratos for every unknown
// route.
func TestDefaultMuxHasNoProfiles(t *testing.T) {
	serve(t, NewHealth())
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/metrics", "/healthz"} {
		req, _ := http.NewRequest("GET", path, nil)
		if _, pattern := http.DefaultServeMux.Handler(req); pattern != "" {
			t.Errorf("%s is served by the default mux as %s", path, pattern)
		}
	}
}

func TestTakenPortNamesAddressAndKey(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = NewAdmin(l.Addr().String(), NewMetrics(), NewHealth())
	if err == nil || !strings.Contains(err.Error(), `admin.addr = "`+l.Addr().String()+`"`) || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("got %v", err)
	}
	for _, addr := range []string{"", "localhost", ":x"} { // "" would listen on all interfaces
		if a, err := NewAdmin(addr, NewMetrics(), NewHealth()); err == nil {
			t.Errorf("%q: listens on %s", addr, a.Addr())
		}
	}
}

func TestStopWithoutStartFreesThePort(t *testing.T) {
	noLeak(t)
	// Below the ports that the kernel gives out: nobody takes it in between.
	var a *Admin
	err := errors.New("no port was tried")
	for tries := 0; err != nil && tries < 100; tries++ {
		a, err = NewAdmin(fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000)), NewMetrics(), NewHealth())
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := a.Start(t.Context()); err != nil {
		t.Fatalf("start after stop: %v", err)
	}
}

// kratos ends the context of Start before it calls Stop; probes have to see the
// process drain.
func TestEndOfContextDoesNotStop(t *testing.T) {
	noLeak(t)
	a, err := NewAdmin("127.0.0.1:0", NewMetrics(), NewHealth())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan error, 1)
	go func() { done <- a.Start(ctx) }()
	if status, _, _ := do(t, "GET", "http://"+a.Addr()+"/healthz"); status != 200 {
		t.Fatalf("got %d", status)
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestStopEndsARunningProfile(t *testing.T) {
	noLeak(t)
	a, err := NewAdmin("127.0.0.1:0", NewMetrics(), NewHealth())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Start(t.Context()) }()
	profile := make(chan string, 1)
	go func() {
		for { // until none of the short ones below is in the way
			status, _, body := do(t, "GET", "http://"+a.Addr()+"/debug/pprof/profile?seconds=300")
			if status != http.StatusConflict {
				profile <- body
				return
			}
		}
	}()
	// It runs as soon as a second one is refused.
	for status := 0; status != http.StatusConflict; {
		status, _, _ = do(t, "GET", "http://"+a.Addr()+"/debug/pprof/profile?seconds=0.001")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Fatalf("stop waited for the profile: %v", err)
	}
	if body := <-profile; !strings.HasPrefix(body, "\x1f\x8b") {
		t.Fatalf("the profile is not complete: %.40q", body)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestStopCutsWhatDoesNotEnd(t *testing.T) {
	noLeak(t)
	entered := make(chan struct{})
	a, err := NewAdmin("127.0.0.1:0", NewMetrics(), NewHealth(), Route{"GET /hang", "hangs", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = a.Start(t.Context()) }()
	hung := make(chan struct{})
	go func() {
		defer close(hung)
		if resp, err := http.Get("http://" + a.Addr() + "/hang"); err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := a.Stop(ctx); err == nil {
		t.Fatal("stop says that nothing was cut")
	}
	<-hung
}

func TestAdminConfig(t *testing.T) {
	if p := (&AdminConfig{Addr: "127.0.0.1:0"}).Problems(); len(p) != 0 {
		t.Errorf("got %q", p)
	}
	if p := (&AdminConfig{Addr: "x"}).Problems(); len(p) != 1 || p[0] != `addr = "x": host:port` {
		t.Errorf("got %q", p)
	}
}

func TestDumpGoroutines(t *testing.T) {
	var b bytes.Buffer
	if err := DumpGoroutines(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "TestDumpGoroutines") {
		t.Fatalf("got %.300s", b.String())
	}
}
