package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-kratos/kratos/v2/transport"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/logic/logictest"
	"github.com/perseid-im/perseid/internal/presence"
)

var _ transport.Server = (*httpapi.Server)(nil)

// patience is how long anything here may take before the test fails: a busy
// machine may stop a process for seconds, at any point.
const patience = time.Minute

// patientConfig cuts off nobody who is only slow.
func patientConfig() httpapi.Config {
	cfg := httpapi.DefaultConfig()
	cfg.Timeout, cfg.ReadHeaderTimeout = patience, patience
	cfg.ReadTimeout, cfg.WriteTimeout = 2*patience, 2*patience
	return cfg
}

// serve runs the API on a loopback port and returns its base URL.
func serve(t testing.TB, env *logictest.Env, core *logic.Core, change func(*httpapi.Config)) (url string, server *httpapi.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := patientConfig()
	if change != nil {
		change(&cfg)
	}
	server, err = httpapi.New(cfg, httpapi.Deps{Core: core, Listener: listener, Logger: slog.New(slog.DiscardHandler), Metrics: env.Metrics})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Start(context.Background()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String(), server
}

type answer struct {
	status      int
	contentType string
	body        string
	header      http.Header
}

func do(t testing.TB, method, url, contentType, body string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return send(t, request)
}

func send(t testing.TB, request *http.Request) answer {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header.Get("Content-Type"), string(body), response.Header}
}

const (
	jsonType  = "application/json; charset=utf-8"
	plainType = "text/plain; charset=utf-8"
)

// world is a cluster of two comets with people in rooms.
func world(t testing.TB, env *logictest.Env) {
	t.Helper()
	one := env.Comet(t, presence.NodeInfo{
		Node:     presence.Node{Name: "comet-1", Incarnation: 1},
		GRPCAddr: "10.0.0.1:3109", Region: "sh", Zone: "sh001", Env: "prod", Hostname: "comet-1",
		PublicAddrs: []string{"1.1.1.1"}, Weight: 10, ConnCount: 30, IPCount: 20,
	})
	two := env.Comet(t, presence.NodeInfo{
		Node:     presence.Node{Name: "comet-2", Incarnation: 1},
		GRPCAddr: "10.0.0.2:3109", Region: "sh", Zone: "sh001", Env: "prod", Hostname: "comet-2",
		PublicAddrs: []string{"2.2.2.2", "2.2.2.3"}, Weight: 10, ConnCount: 10, IPCount: 5,
	})
	env.Rooms(t, one, map[string]int32{"live://1000": 60, "live://2000": 7, "live2://9": 50})
	env.Rooms(t, two, map[string]int32{"live://1000": 40, "chat://a/b:c%": 3})
	if _, err := env.Presence.Connect(t.Context(), one, []presence.Session{{ID: 1, Mid: 42, Key: "k1"}}); err != nil {
		t.Fatal(err)
	}
}

func nodeIn(name, region string) presence.NodeInfo {
	return presence.NodeInfo{
		Node: presence.Node{Name: name, Incarnation: 1}, Hostname: name, Region: region,
		PublicAddrs: []string{"1.1.1.1"}, Weight: 10, ConnCount: 30,
	}
}

// The answers of goim-compat.md, section 2: status, content type and every
// byte of the body. Those marked [V] there were seen from goim itself.
func TestGoimRoutes(t *testing.T) {
	env := logictest.New(t)
	world(t, env)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) {
		c.Node.DefaultDomain, c.Node.HostDomain = "conn.goim.io", ".goim.io"
	})
	url, _ := serve(t, env, core, nil)
	const ok = `{"code":0,"message":""}`
	required := func(fields ...string) string {
		lines := make([]string, len(fields))
		for i, f := range fields {
			lines[i] = fmt.Sprintf("Key: '%s' Error:Field validation for '%s' failed on the 'required' tag", f, f)
		}
		return `{"code":-400,"message":"` + strings.Join(lines, `\n`) + `"}`
	}
	parse := func(value, problem string) string {
		return `{"code":-400,"message":"strconv.ParseInt: parsing \"` + value + `\": ` + problem + `"}`
	}
	const syntax, outOf = "invalid syntax", "value out of range"
	for _, c := range []struct {
		method, path string
		status       int
		contentType  string
		body         string
	}{
		{"POST", "/goim/push/keys?operation=1000&keys=k1", 200, jsonType, ok},
		{"POST", "/goim/push/keys?operation=1000&keys=k1&keys=nobody", 200, jsonType, ok},
		{"POST", "/goim/push/keys?operation=1000&keys=a,b", 200, jsonType, ok}, // one key named "a,b"
		{"POST", "/goim/push/keys?keys=k1", 200, jsonType, ok},                 // operation is optional here
		{"POST", "/goim/push/keys?operation=-7&keys=k1", 200, jsonType, ok},
		{"POST", "/goim/push/keys?operation=1000&keys=", 200, jsonType, ok},
		{"POST", "/goim/push/keys?operation=1000&keys=%FF", 200, jsonType, ok}, // nobody's key, and no panic
		{"POST", "/goim/push/keys?operation=1000&keys=" + strings.Repeat("k", 257), 200, jsonType, ok},
		{"POST", "/goim/push/keys?operation=1000", 200, jsonType, `{"code":-400,"message":""}`},
		{"POST", "/goim/push/keys?operation=1000" + strings.Repeat("&keys=k", 3000), 200, jsonType, `{"code":-400,"message":""}`},
		{"POST", "/goim/push/keys?operation=abc&keys=k1", 400, plainType, parse("abc", syntax)},
		{"POST", "/goim/push/keys?operation=%3Cb%3E&keys=k1", 400, plainType, parse(`\u003cb\u003e`, syntax)},
		{"POST", "/goim/push/keys?operation=2147483648&keys=k1", 400, plainType, parse("2147483648", outOf)},
		{"POST", "/goim/push/mids?operation=1000&mids=42&mids=43", 200, jsonType, ok},
		{"POST", "/goim/push/mids?operation=1000", 200, jsonType, ok}, // an empty list is fine here
		{"POST", "/goim/push/mids?operation=1000&mids=0&mids=-1&mids=", 200, jsonType, ok},
		{"POST", "/goim/push/mids?operation=1000&mids=1,2", 400, plainType, parse("1,2", syntax)},
		{"POST", "/goim/push/mids?operation=x&mids=y", 400, plainType, parse("x", syntax)},
		{"POST", "/goim/push/mids?operation=1000&mids=9223372036854775808", 400, plainType, parse("9223372036854775808", outOf)},
		{"POST", "/goim/push/room?operation=1000&type=live&room=1000", 200, jsonType, ok},
		{"POST", "/goim/push/room?operation=1000&type=live&room=nobody-here", 200, jsonType, ok},
		{"POST", "/goim/push/room?operation=0&type=live&room=1000", 400, plainType, required("Op")},
		{"POST", "/goim/push/room", 400, plainType, required("Op", "Type", "Room")},
		{"POST", "/goim/push/room?operation=x", 400, plainType, parse("x", syntax)},
		{"POST", "/goim/push/room?operation=1000&type=live&room=" + strings.Repeat("r", 250), 200, jsonType,
			`{"code":-400,"message":"target 0: room: a room is \"type://id\" of at most 256 bytes with non-empty type and id"}`},
		{"POST", "/goim/push/all?operation=1000", 200, jsonType, ok},
		{"POST", "/goim/push/all?operation=1000&speed=64", 200, jsonType, ok},
		{"POST", "/goim/push/all?operation=1000&speed=-1", 200, jsonType, ok},
		{"POST", "/goim/push/all?speed=64", 400, plainType, required("Op")},
		{"POST", "/goim/push/all?operation=1000&speed=fast", 400, plainType, parse("fast", syntax)},

		{"GET", "/goim/online/top?type=live&limit=10", 200, jsonType,
			`{"code":0,"message":"","data":[{"room_id":"1000","count":100},{"room_id":"9","count":50},{"room_id":"2000","count":7}]}`},
		{"GET", "/goim/online/top?type=live&limit=1", 200, jsonType, `{"code":0,"message":"","data":[{"room_id":"1000","count":100}]}`},
		{"GET", "/goim/online/top?type=chat&limit=1", 200, jsonType, `{"code":0,"message":"","data":[{"room_id":"a/b:c%","count":3}]}`},
		{"GET", "/goim/online/top?type=none&limit=10", 200, jsonType, `{"code":0,"message":"","data":[]}`},
		{"GET", "/goim/online/top?type=live&limit=0", 400, plainType, required("Limit")},
		{"GET", "/goim/online/top", 400, plainType, required("Type", "Limit")},
		{"GET", "/goim/online/top?type=live&limit=x", 400, plainType, parse("x", syntax)},
		// goim: panic, 500.
		{"GET", "/goim/online/top?type=live&limit=-1", 200, jsonType, `{"code":-400,"message":"limit = -1: 1 or more"}`},
		{"GET", "/goim/online/room?type=live&rooms=1000&rooms=3000", 200, jsonType, `{"code":0,"message":"","data":{"1000":100,"3000":0}}`},
		{"GET", "/goim/online/room?type=live&rooms=", 200, jsonType, `{"code":0,"message":"","data":{"":0}}`},
		{"GET", "/goim/online/room?type=live", 400, plainType, required("Rooms")},
		{"GET", "/goim/online/total", 200, jsonType, `{"code":0,"message":"","data":{"conn_count":40,"ip_count":25}}`},
		{"GET", "/goim/nodes/weighted?platform=web", 200, jsonType,
			`{"code":0,"message":"","data":{"domain":"conn.goim.io","tcp_port":3101,"ws_port":3102,"heartbeat":240,` +
				`"nodes":["comet-2.goim.io","comet-1.goim.io"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3},"heartbeat_max":2}}`},
		{"GET", "/goim/nodes/weighted", 200, jsonType,
			`{"code":0,"message":"","data":{"domain":"conn.goim.io","tcp_port":3101,"ws_port":3102,"heartbeat":240,` +
				`"nodes":["2.2.2.2","2.2.2.3","1.1.1.1"],"backoff":{"max_delay":300,"base_delay":3,"factor":1.8,"jitter":0.3},"heartbeat_max":2}}`},

		{"GET", "/goim/push/keys?operation=1000&keys=k1", 404, "text/plain", "404 page not found"},
		{"POST", "/goim/online/total", 404, "text/plain", "404 page not found"},
		{"HEAD", "/goim/online/total", 404, "text/plain", ""},
		{"OPTIONS", "/goim/online/total", 404, "text/plain", "404 page not found"},
		{"GET", "/", 404, "text/plain", "404 page not found"},
		{"GET", "/goim", 404, "text/plain", "404 page not found"},
		{"GET", "//goim/online/total", 404, "text/plain", "404 page not found"},
		{"GET", "/goim/../goim/online/total", 404, "text/plain", "404 page not found"},
		{"GET", "/debug/pprof/", 404, "text/plain", "404 page not found"},
		{"GET", "/debug/vars", 404, "text/plain", "404 page not found"},
	} {
		got := do(t, c.method, url+c.path, "", "hello")
		if got.status != c.status || got.contentType != c.contentType || got.body != c.body {
			t.Errorf("%s %.200s\n got %d %s %s\nwant %d %s %s", c.method, c.path, got.status, got.contentType, got.body, c.status, c.contentType, c.body)
		}
	}
}

// What code 0 means: the log has a record that job can read, with the targets
// of the request and nobody else's.
func TestGoimPushReachesTheLog(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	url, _ := serve(t, env, core, nil)
	for _, path := range []string{
		"/goim/push/keys?operation=1001&keys=a,b&keys=&keys=c&keys=c",
		"/goim/push/mids?operation=1002&mids=0&mids=7&mids=-3&mids=7&mids=8",
		"/goim/push/room?operation=1003&type=live&room=1000",
		"/goim/push/all?operation=1004&speed=64",
		"/goim/push/all?operation=1005&speed=-64",
		"/goim/push/mids?operation=1006", // for nobody
	} {
		if got := do(t, "POST", url+path, "application/octet-stream", "\x00body\xff"); got.body != `{"code":0,"message":""}` {
			t.Fatalf("%s: %d %s", path, got.status, got.body)
		}
	}
	records := env.Records(t)
	if len(records) != 5 {
		t.Fatalf("%d records, want 5", len(records))
	}
	for i, want := range []string{
		`type:PUSH op:1001 keys:[a,b c] mids:[] room: speed:0`,
		`type:PUSH op:1002 keys:[] mids:[7 8] room: speed:0`,
		`type:ROOM op:1003 keys:[] mids:[] room:live://1000 speed:0`,
		`type:BROADCAST op:1004 keys:[] mids:[] room: speed:64`,
		`type:BROADCAST op:1005 keys:[] mids:[] room: speed:0`,
	} {
		r := records[i]
		got := fmt.Sprintf("type:%v op:%d keys:%v mids:%v room:%s speed:%d", r.Type, r.Operation, r.Keys, r.Mids, r.Room, r.Speed)
		if got != want {
			t.Errorf("record %d\n got %s\nwant %s", i, got, want)
		}
		if string(r.Msg) != "\x00body\xff" || len(r.MsgId) != 16 || r.AcceptedMs == 0 || r.Flags != 0 {
			t.Errorf("record %d: body %q, id %x, accepted %d, flags %d", i, r.Msg, r.MsgId, r.AcceptedMs, r.Flags)
		}
	}
}

func TestGoimInstances(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, nil)
	url, _ := serve(t, env, core, nil)
	if got := do(t, "GET", url+"/goim/nodes/instances", "", ""); got.body != `{"code":0,"message":"","data":null}` {
		t.Errorf("without comets: %s", got.body)
	}
	if got := do(t, "GET", url+"/goim/nodes/weighted?platform=web", "", ""); !strings.Contains(got.body, `"nodes":["localhost"]`) {
		t.Errorf("without comets: %s", got.body)
	}
	env.Comet(t, presence.NodeInfo{
		Node: presence.Node{Name: "c1", Incarnation: 1}, GRPCAddr: "10.0.0.1:3109",
		Region: "sh", Zone: "sh001", Env: "dev", Hostname: "comet-1",
		PublicAddrs: []string{"1.1.1.1", "1.1.1.2"}, Weight: 10, ConnCount: 3, IPCount: 2,
	})
	env.Comet(t, presence.NodeInfo{Node: presence.Node{Name: "c2", Incarnation: 1}, Offline: true})
	logictest.Eventually(t, "the comet is known", func() bool { return len(core.NodesInstances()) == 1 })
	instance := core.NodesInstances()[0]
	if instance.UpdatedNS < time.Now().Add(-time.Minute).UnixNano() || instance.UpdatedNS > time.Now().Add(time.Minute).UnixNano() {
		t.Errorf("latest_timestamp %d is not now in nanoseconds", instance.UpdatedNS)
	}
	want := fmt.Sprintf(`{"code":0,"message":"","data":[{"region":"sh","zone":"sh001","env":"dev","appid":"goim.comet","hostname":"comet-1",`+
		`"addrs":["grpc://10.0.0.1:3109"],"version":"","latest_timestamp":%d,`+
		`"metadata":{"addrs":"1.1.1.1,1.1.1.2","conn_count":"3","ip_count":"2","offline":"false","weight":"10"}}]}`, instance.UpdatedNS)
	if got := do(t, "GET", url+"/goim/nodes/instances", "", ""); got.body != want {
		t.Errorf("\n got %s\nwant %s", got.body, want)
	}
}

// goim's router (gin) redirects a path with a slash too much, and only for the
// right method.
func TestGoimTrailingSlash(t *testing.T) {
	env := logictest.New(t)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	for _, c := range []struct {
		method, path, location string
		status                 int
	}{
		{"GET", "/goim/online/total/", "/goim/online/total", 301},
		{"POST", "/goim/push/all/?operation=1", "/goim/push/all?operation=1", 307},
		{"GET", "/goim/push/all/", "", 404},
	} {
		got := do(t, c.method, url+c.path, "", "")
		if got.status != c.status || got.header.Get("Location") != c.location {
			t.Errorf("%s %s: %d %q", c.method, c.path, got.status, got.header.Get("Location"))
		}
	}
}

func TestGoimBodyLimit(t *testing.T) {
	env := logictest.New(t)
	core := env.Core(t, func(c *logic.Config, _ *logic.Deps) { c.MaxBodyBytes = 1000 })
	url, _ := serve(t, env, core, nil)
	if got := do(t, "POST", url+"/goim/push/room?operation=1&type=a&room=b", "", strings.Repeat("x", 1000)); got.body != `{"code":0,"message":""}` {
		t.Errorf("1000 bytes: %d %s", got.status, got.body)
	}
	const tooLarge = `{"code":-400,"message":"http: request body too large"}`
	if got := do(t, "POST", url+"/goim/push/room?operation=1&type=a&room=b", "", strings.Repeat("x", 1001)); got.status != 200 || got.body != tooLarge {
		t.Errorf("1001 bytes: %d %s", got.status, got.body)
	}
	request, err := http.NewRequestWithContext(t.Context(), "POST", url+"/goim/push/keys?keys=k", io.LimitReader(endless{}, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = -1 // chunked, so that nothing tells the size before
	if got := send(t, request); got.status != 200 || got.body != tooLarge {
		t.Errorf("chunked: %d %s", got.status, got.body)
	}
	if n := len(env.Records(t)); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// A caller that never sends its header is cut off (kratos sets no such limit).
func TestSlowHeaderIsCutOff(t *testing.T) {
	env := logictest.New(t)
	url, _ := serve(t, env, env.Core(t, nil), func(c *httpapi.Config) { c.ReadHeaderTimeout = 100 * time.Millisecond })
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /goim/online/total HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("the connection is still open (%v)", err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}
