package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/logic/logictest"
)

func TestPanicIsFiveHundredAndNothingElse(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
		d.Log = failingLog{func(context.Context) error { panic("broken") }}
	})
	url, _ := serve(t, env, core, nil)
	for _, path := range []string{"/goim/push/all?operation=1", "/v1/push"} {
		got := do(t, "POST", url+path, appJSON, onePush)
		if got.status != 500 || got.body != "" || got.contentType != "" {
			t.Errorf("%s: %d %q %q", path, got.status, got.contentType, got.body)
		}
	}
	if got := do(t, "GET", url+"/goim/online/total", "", ""); got.status != 200 {
		t.Errorf("afterwards: %d", got.status)
	}
	const want = `# HELP perseid_http_requests_total HTTP requests by class of the answer; goim's routes answer most errors with 2xx.
# TYPE perseid_http_requests_total counter
perseid_http_requests_total{class="1xx"} 0
perseid_http_requests_total{class="2xx"} 1
perseid_http_requests_total{class="3xx"} 0
perseid_http_requests_total{class="4xx"} 0
perseid_http_requests_total{class="5xx"} 2
`
	if err := testutil.GatherAndCompare(env.Metrics.Registry, strings.NewReader(want), "perseid_http_requests_total"); err != nil {
		t.Error(err)
	}
}

func TestRequestID(t *testing.T) {
	env := logictest.New(t)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	random := regexp.MustCompile(`^[0-9a-f]{16}$`)
	for _, c := range []struct {
		given string
		kept  bool
	}{
		{"req-1.A_b", true},
		{strings.Repeat("x", 64), true},
		{strings.Repeat("x", 65), false},
		{"", false},
		{"with space", false},
		{"ümlaut", false},
		{`quote"`, false},
	} {
		request, err := http.NewRequestWithContext(t.Context(), "GET", url+"/goim/online/total", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Request-Id", c.given)
		got := send(t, request).header.Get("X-Request-Id")
		if c.kept && got != c.given || !c.kept && !random.MatchString(got) {
			t.Errorf("given %q, answered %q", c.given, got)
		}
	}
}

// More pushes than max_pushes are turned away at once; the others go on.
func TestPushesUnderWay(t *testing.T) {
	env := logictest.New(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
		d.Log = failingLog{func(context.Context) error { entered <- struct{}{}; <-leave; return nil }}
	})
	url, _ := serve(t, env, core, func(c *httpapi.Config) { c.MaxPushes = 2 })
	first := make(chan answer, 2)
	for range 2 {
		go func() { first <- do(t, "POST", url+"/goim/push/all?operation=1", "", "x") }()
		<-entered
	}
	got := do(t, "POST", url+"/v1/push", appJSON, onePush)
	if reason, _ := problemOf(t, got); got.status != 429 || reason != httpapi.TooManyRequests || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.status, got.body)
	}
	got = do(t, "POST", url+"/goim/push/all?operation=1", "", "x")
	if got.status != 429 || !strings.HasPrefix(got.body, `{"code":-500,"message":"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := do(t, "POST", url+"/goim/push/keys?keys=k", "", "x"); got.status != 429 || got.body != `{"code":-400,"message":""}` {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := do(t, "GET", url+"/goim/online/total", "", ""); got.status != 200 {
		t.Errorf("reading: %d", got.status)
	}
	close(leave)
	for range 2 {
		if got := <-first; got.body != `{"code":0,"message":""}` {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
}

func TestRegionOfForwardedClients(t *testing.T) {
	env := logictest.New(t)
	world(t, env)
	// comet-1 is so full that only its region can put it first.
	full := nodeIn("comet-1", "bj")
	full.ConnCount = 3000
	env.Comet(t, full)
	env.Comet(t, nodeIn("comet-2", "sh"))
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) {
		c.Regions = map[string][]string{"bj": {"198.51.100.0/24"}, "sh": {"203.0.113.0/24", "2001:db8::/32"}}
		c.Node.RegionWeight = 1000
	})
	trusting, _ := serve(t, env, core, func(c *httpapi.Config) { c.TrustedProxies = []string{"127.0.0.0/8", "192.0.2.0/24"} })
	strict, _ := serve(t, env, core, nil)
	const bj, sh, none = `"nodes":["comet-1"`, `"nodes":["comet-2"`, `"nodes":["comet-2"`
	for _, c := range []struct {
		url, forwarded, realIP, want string
	}{
		{trusting, "198.51.100.7", "", bj},
		{trusting, "203.0.113.7", "", sh},
		{trusting, "2001:db8::7", "", sh},
		{trusting, "203.0.113.7, 198.51.100.7", "", bj},            // the client may say what it likes
		{trusting, "203.0.113.7, 198.51.100.7, 192.0.2.9", "", bj}, // through a second trusted proxy
		{trusting, "", "198.51.100.7", bj},
		{trusting, "203.0.113.7", "198.51.100.7", sh},
		{trusting, "garbage", "", none},
		{strict, "198.51.100.7", "198.51.100.7", none},
	} {
		request, err := http.NewRequestWithContext(t.Context(), "GET", c.url+"/goim/nodes/weighted?platform=web", nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.forwarded != "" {
			request.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if c.realIP != "" {
			request.Header.Set("X-Real-IP", c.realIP)
		}
		if got := send(t, request); !strings.Contains(got.body, c.want) {
			t.Errorf("forwarded %q, real %q: %s, want %s", c.forwarded, c.realIP, got.body, c.want)
		}
	}
}

// Symptom: a caller that asked for "Connection: close" and sent too large a body
// got "broken pipe" instead of the 413. Cause: net/http does not read the rest of
// such a request, and closing a connection with unread bytes resets it.
func TestAnswerBeforeTheEndOfTheRequest(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.MaxBodyBytes = 1000 })
	url, _ := serve(t, env, core, nil)
	requests := env.Metrics.Counter("perseid_http_requests_total", "HTTP requests by class of the answer; goim's routes answer most errors with 2xx.",
		"class", []string{"1xx", "2xx", "3xx", "4xx", "5xx"})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	part := strings.Repeat(" ", 50_000)
	send := func(text string) {
		t.Helper()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	send("POST /v1/push HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 150000\r\n\r\n" + part)
	logictest.Eventually(t, "the handler's answer", func() bool { return requests.Value(3) == 1 })
	send(part)
	send(part)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(response.Status)
	}
}

// Symptom: a caller that asked for "Connection: close" and waited for "100
// Continue" got its 413 only when read_timeout was over. Cause: the rest of its
// request was read before the answer left, and it sends none before an answer.
func TestAnswerToWhoWaitsToSend(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.MaxBodyBytes = 1000 })
	url, _ := serve(t, env, core, nil)
	for name, c := range map[string]struct {
		path, header string
		status       int
	}{
		"too large":       {"/v1/push", "Content-Type: application/json\r\nContent-Length: 150000", http.StatusRequestEntityTooLarge},
		"too large, goim": {"/goim/push/all?operation=1", "Content-Length: 150000", http.StatusOK},
		"unread":          {"/v1/push", "Content-Type: text/plain\r\nContent-Length: 10", http.StatusUnsupportedMediaType},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.SetDeadline(time.Now().Add(patientConfig().ReadTimeout / 2)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, "POST "+c.path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"+c.header+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode != c.status {
				t.Error(response.Status)
			}
		})
	}
}
