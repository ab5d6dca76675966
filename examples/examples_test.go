// Package examples_test runs the examples against the all-in-one: the web page
// in a real browser, the Go client and the curl script as processes.
package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/perseid-im/perseid/internal/app"
	"github.com/perseid-im/perseid/internal/testdeps"
)

const patience = 60 * time.Second

// perseid runs the all-in-one until the test ends.
func perseid(t *testing.T) map[string]string {
	cfg := app.DefaultAllInOneConfig()
	cfg.DataDir = t.TempDir()
	cfg.TCP, cfg.WebSocket, cfg.HTTP, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	a, err := app.NewAllInOne(cfg, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("perseid ended with %v", err)
		}
	})
	select {
	case <-a.Ready():
		return a.Addrs()
	case err := <-ended:
		ended <- nil
		t.Fatalf("perseid ended with %v", err)
	case <-time.After(patience):
		t.Fatal("perseid is not ready")
	}
	return nil
}

// curl runs the script and returns its output.
func curl(t *testing.T, httpAddr, message string) string {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		testdeps.Skip(t, "curl: "+err.Error())
	}
	cmd := exec.CommandContext(t.Context(), "sh", "curl/push.sh", message)
	cmd.Env = append(os.Environ(), "PERSEID_HTTP=http://"+httpAddr)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("push.sh: %v\n%s", err, out)
	}
	return string(out)
}

func TestGoAndCurl(t *testing.T) {
	addrs := perseid(t)
	program := filepath.Join(t.TempDir(), "example")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	shown := newOutput()
	cmd := exec.Command(program, "tcp://"+addrs["tcp"], "42", "live://1000")
	cmd.Stdout, cmd.Stderr = shown, shown
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
	})
	shown.await(t, "room live://1000: joined true")

	answers := curl(t, addrs["http"], `Grüße, "Welt"`)
	for _, want := range []string{`{"code":0,"message":""}` + "\n" + `{"code":0,"message":""}` + "\n", `"msg_id":"`, `{"target":{"mid":42},"state":"online"}`} {
		if !strings.Contains(answers, want) {
			t.Errorf("push.sh printed %q, want %q", answers, want)
		}
	}
	// To the room and to the user, by two ways each.
	shown.await(t, strings.Repeat("op 1000: Grüße, \"Welt\"\n", 4))
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after ^C: %v", err)
		}
	case <-time.After(patience):
		t.Error("^C does not end it")
	}
}

// The page is opened as a file, as a newcomer does.
func TestWebPage(t *testing.T) {
	addrs := perseid(t)
	b := openBrowser(t)
	page, err := filepath.Abs("web/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, ver := range []string{"1", "2"} {
		t.Run("version "+ver, func(t *testing.T) {
			query := url.Values{"url": {"ws://" + addrs["ws"] + "/sub"}, "ver": {ver}, "mid": {"42"}, "key": {"page-" + ver}, "room": {"live://1"}, "connect": {"1"}}
			b.call(t, "Page.navigate", map[string]any{"url": "file://" + page + "?" + query.Encode()})
			b.await(t, `location.search.includes("ver=`+ver+`") && document.readyState === "complete" && document.getElementById("state").className`, "connected")
			if state := b.eval(t, `document.getElementById("state").textContent`); ver == "2" && !strings.HasSuffix(state, ", key page-2") {
				t.Errorf("state %q", state)
			}

			// By the form, into the room that the script pushes to.
			b.eval(t, `document.getElementById("next").value = "live://1000"; document.getElementById("join").click()`)
			joined := map[string]string{"1": "changed to live://1000", "2": "joined live://1000"}
			b.await(t, `document.getElementById("state").textContent`, joined[ver])
			curl(t, addrs["http"], "<i>markup</i> is text")
			b.await(t, `[...document.querySelectorAll("#messages li")].slice(0, 4).map((li) => li.textContent.replace(/^.*? 1000 /, "")).join("|")`,
				strings.Repeat("<i>markup</i> is text|", 3)+"<i>markup</i> is text")

			b.eval(t, `document.getElementById("close").click()`)
			b.await(t, `document.getElementById("state").textContent`, "closed")
		})
	}
	t.Run("refused", func(t *testing.T) {
		b.eval(t, `document.getElementById("room").value = "no room"; document.getElementById("ver").value = "2"; connect()`)
		b.await(t, `document.getElementById("state").textContent.slice(0, 16)`, "sent away: 3500 ")
	})
	t.Run("no server", func(t *testing.T) {
		b.eval(t, `document.getElementById("url").value = "ws://127.0.0.1:1/sub"; connect()`)
		b.await(t, `document.getElementById("state").textContent.slice(0, 19)`, "disconnected (1006 ")
	})
}

// browser is a page in Chromium, spoken to over its debugging port.
type browser struct {
	conn net.Conn
	last int // id of a call
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	bin := testdeps.Chromium(t)
	dir := t.TempDir()
	cmd := exec.Command(bin, testdeps.BrowserArgs(dir, "about:blank")...)
	log := newOutput()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it ends no other way
		_ = cmd.Wait()
	})
	log.await(t, "/devtools/browser/") // the end of the line that says where
	_, address, _ := strings.Cut(log.String(), "DevTools listening on ws://")
	address, _, _ = strings.Cut(strings.Fields(address)[0], "/")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	target := pageOf(ctx, t, address)
	conn, early, _, err := gobwas.Dial(ctx, target)
	if err != nil || early != nil {
		t.Fatalf("debugging port: %v, early frames: %t", err, early != nil)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &browser{conn: conn}
}

// pageOf finds the address of the browser's only page.
func pageOf(ctx context.Context, t *testing.T, address string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/json/list", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var targets []struct {
		Type string `json:"type"`
		URL  string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(response.Body).Decode(&targets); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if target.Type == "page" {
			return target.URL
		}
	}
	t.Fatalf("no page among %+v", targets)
	return ""
}

// call is one command of the DevTools protocol.
func (b *browser) call(t *testing.T, method string, params map[string]any) json.RawMessage {
	t.Helper()
	b.last++
	request, err := json.Marshal(map[string]any{"id": b.last, "method": method, "params": params})
	if err := errors.Join(err, b.conn.SetDeadline(time.Now().Add(patience)), wsutil.WriteClientText(b.conn, request)); err != nil {
		t.Fatal(err)
	}
	for {
		message, err := wsutil.ReadServerText(b.conn)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		var reply struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(message, &reply); err != nil {
			t.Fatal(err)
		}
		if reply.Error != nil {
			t.Fatalf("%s: %s", method, reply.Error)
		}
		if reply.ID == b.last {
			return reply.Result
		}
	}
}

// eval runs JavaScript in the page; what is no string comes as "".
func (b *browser) eval(t *testing.T, expression string) string {
	t.Helper()
	value, failed := b.try(t, expression)
	if failed != "" {
		t.Fatalf("%s: %s", expression, failed)
	}
	return value
}

func (b *browser) try(t *testing.T, expression string) (value, failed string) {
	t.Helper()
	var answer struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Exception json.RawMessage `json:"exceptionDetails"`
	}
	result := b.call(t, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true})
	if err := json.Unmarshal(result, &answer); err != nil {
		t.Fatal(err)
	}
	value, _ = answer.Result.Value.(string)
	return value, string(answer.Exception)
}

// await waits until an expression has a value. While a page loads, it may fail.
func (b *browser) await(t *testing.T, expression, want string) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		value, failed := b.try(t, expression)
		if value == want && failed == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s is %q %s, want %q", expression, value, failed, want)
		}
	}
}

// output is what a process prints.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(o.String(), want) {
		select {
		case <-o.changed:
		case <-deadline:
			t.Fatalf("waited for %q, got %q", want, o)
		}
	}
}
