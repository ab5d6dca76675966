package gnetio

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/testdeps"
)

// follow does what a script asks for until it is done.
func follow(f *fixture, reports <-chan string, within time.Duration, log func() string) {
	f.t.Helper()
	deadline := time.After(within)
	for {
		select {
		case text, ok := <-reports:
			verb, arg, _ := strings.Cut(text, " ")
			switch {
			case ok && verb == "push":
				if r := f.push(toRoom(arg, 1000, "hi"), toRoom(arg, 1001, "yo!")); r[0].Delivered != 1 || r[1].Delivered != 1 {
					f.t.Errorf("%s: %+v", text, r)
				}
			case ok && verb == "push-long":
				if r := f.push(toRoom(arg, 1000, longText())); r[0].Delivered != 1 {
					f.t.Errorf("%s: %+v", text, r)
				}
			case ok && verb == "kick":
				f.gateway.Kick([]uint64{f.logic.Session(arg)}, comet.Kicked)
			case ok && text == "done":
				return
			default:
				f.t.Fatalf("the script says %q\n%s", text, log())
			}
		case <-deadline:
			f.t.Fatalf("the script is not done\n%s", log())
		}
	}
}

// longText is what the script asks for with push-long.
func longText() string {
	lines := make([]string, 100)
	for i := range lines {
		lines[i] = "line " + strconv.Itoa(i)
	}
	return strings.Join(lines, "\n")
}

// withAndWithout runs a test against a server that compresses and one that
// does not.
func withAndWithout(t *testing.T, test func(t *testing.T, f *fixture, mode string)) {
	for _, mode := range []string{"plain", "deflate"} {
		t.Run(mode, func(t *testing.T) {
			f := serve(t, func(f *fixture) { f.cfg.Deflate = mode == "deflate" })
			test(t, f, mode)
			if mode == "deflate" {
				f.checkCompression()
			}
		})
	}
}

// checkCompression: every connection of a script agreed on it, and each long
// push was sent short.
func (f *fixture) checkCompression() {
	f.t.Helper()
	if n := f.count("perseid_session_deflate_total", ""); n < 5 || n != f.count("perseid_session_opened_total", "websocket") {
		f.t.Errorf("%v of %v connections compress", n, f.count("perseid_session_opened_total", "websocket"))
	}
	before, after := f.count("perseid_deflate_bytes_total", "before"), f.count("perseid_deflate_bytes_total", "after")
	if n := f.count("perseid_deflate_total", "deflated"); n != 3 || after*2 > before {
		f.t.Errorf("%v messages of %v bytes became %v bytes", n, before, after)
	}
}

// npm's ws is a client that knows nothing of this server's code.
func TestNodeClient(t *testing.T) { withAndWithout(t, nodeClient) }

func nodeClient(t *testing.T, f *fixture, mode string) {
	node := testdeps.NodeWS(t)
	cmd := node.Command(filepath.Join("testdata", "client.js"), "ws://"+f.server.WebSocketAddr()+"/sub", mode)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	script := testdeps.Start(t, cmd)
	reports := make(chan string, 16)
	go func() {
		defer close(reports)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			reports <- s.Text()
		}
	}()
	follow(f, reports, 2*patience, func() string { script.Kill(); return stderr.String() })
	for range reports { // to its end
	}
	if err := script.Wait(); err != nil {
		t.Error(err)
	}
}

// A browser is stricter with the handshake and with close frames.
func TestBrowserClient(t *testing.T) { withAndWithout(t, browserClient) }

func browserClient(t *testing.T, f *fixture, mode string) {
	bin := testdeps.Chromium(t)
	script, err := os.ReadFile(filepath.Join("testdata", "client.js"))
	if err != nil {
		t.Fatal(err)
	}
	reports := make(chan string, 16)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<script>" + string(script) + `
				let last = Promise.resolve(); // the reports keep their order
				runAll(WebSocket, "ws://` + f.server.WebSocketAddr() + `/sub",
					(text) => (last = last.then(() => fetch("/report?text=" + encodeURIComponent(text)))), ` + strconv.FormatBool(mode == "deflate") + `);
			</script>`))
		case "/report":
			reports <- r.URL.Query().Get("text")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(page.Close)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(bin, testdeps.BrowserArgs(t.TempDir(), page.URL+"/")...)
	cmd.Stdout, cmd.Stderr = log, log
	browser := testdeps.Start(t, cmd)
	follow(f, reports, 3*patience, func() string {
		text, _ := os.ReadFile(log.Name())
		return string(text)
	})
	browser.Kill()
}
