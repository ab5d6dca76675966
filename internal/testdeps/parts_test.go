package testdeps

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// verdict is a test that notes how it was ended.
type verdict struct {
	testing.TB
	word string
}

func (v *verdict) Helper()      {}
func (v *verdict) Name() string { return "TestOfSomebody" }
func (v *verdict) Skip(args ...any) {
	v.word = "skip: " + fmt.Sprint(args...)
	runtime.Goexit()
}
func (v *verdict) Fatalf(format string, args ...any) {
	v.word = "fatal: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func verdictOf(t *testing.T, f func(testing.TB)) string {
	v := &verdict{TB: t, word: "ran on"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(v)
	}()
	<-done
	return v.word
}

func TestAMissingPartSkipsWithItsReason(t *testing.T) {
	skips := filepath.Join(t.TempDir(), "skips")
	t.Setenv("PERSEID_CACHE", t.TempDir())
	t.Setenv("PERSEID_TEST_SKIPS", skips)
	t.Setenv("PERSEID_TEST_REQUIRE", "")
	t.Setenv("PERSEID_TEST_KAFKA", "")
	const reason = "not installed; run scripts/deps.sh install"
	if got, want := verdictOf(t, func(t testing.TB) { NodeWS(t) }), "skip: npm-ws: "+reason+" npm-ws"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := verdictOf(t, func(t testing.TB) { Kafka(t) }), "skip: kafka: "+reason+" kafka"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	noted, err := os.ReadFile(skips)
	want := "skipped TestOfSomebody: npm-ws: " + reason + " npm-ws\nskipped TestOfSomebody: kafka: " + reason + " kafka\n"
	if err != nil || string(noted) != want {
		t.Errorf("noted %q, %v; want %q", noted, err, want)
	}
	t.Setenv("PERSEID_TEST_REQUIRE", "1")
	if got := verdictOf(t, func(t testing.TB) { Discovery(t) }); !strings.HasPrefix(got, "fatal: required, but missing: discovery: ") {
		t.Errorf("when required: %q", got)
	}
}

// The reason of a failed installation is the reason of the skip.
func TestAFailedInstallationIsTheReason(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("PERSEID_CACHE", cache)
	t.Setenv("PERSEID_TEST_REQUIRE", "")
	t.Setenv("PERSEID_TEST_SKIPS", "")
	if err := os.WriteFile(filepath.Join(cache, "kafka.failed"), []byte("java is older than 17\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := verdictOf(t, func(t testing.TB) { KafkaServer(t) }), "skip: kafka: java is older than 17"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAWrongBrokerAddressFails(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PERSEID_TEST_KAFKA", "127.0.0.1:"+port)
	if got := verdictOf(t, func(t testing.TB) { Kafka(t) }); !strings.HasPrefix(got, "fatal: PERSEID_TEST_KAFKA = ") {
		t.Errorf("got %q", got)
	}
}

func TestPartsAreFoundFromAnyFolder(t *testing.T) {
	before, err := depsScript()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	after, err := depsScript()
	if err != nil || after != before {
		t.Fatalf("found %q, %v; before %q", after, err, before)
	}
}

// echoServer upgrades /sub and answers one message; what it got goes to the
// channel. Other paths serve page.
func echoServer(t *testing.T, page string) (addr string, got <-chan string) {
	t.Helper()
	messages := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, page)
		case "/answer":
			messages <- r.URL.Query().Get("text")
		case "/sub":
			conn, _, _, err := ws.UpgradeHTTP(r, w)
			if err != nil {
				t.Errorf("upgrade: %v", err)
				return
			}
			defer conn.Close()
			echo(t, conn)
		}
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), messages
}

func echo(t *testing.T, conn net.Conn) {
	data, op, err := wsutil.ReadClientData(conn)
	if err != nil {
		t.Errorf("read: %v", err)
		return
	}
	if err := wsutil.WriteServerMessage(conn, op, append([]byte("echo "), data...)); err != nil {
		t.Errorf("write: %v", err)
	}
}

func TestNodeWSTalksToAServer(t *testing.T) {
	t.Parallel()
	node := NodeWS(t)
	addr, _ := echoServer(t, "")
	out, err := node.Command("-e", `
		const c = new (require("ws"))("ws://`+addr+`/sub");
		c.on("open", () => c.send("hi"));
		c.on("message", m => { console.log(String(m)); c.close(); });`).CombinedOutput()
	if err != nil || string(out) != "echo hi\n" {
		t.Fatalf("%q, %v", out, err)
	}
}

func TestChromiumTalksToAServer(t *testing.T) {
	t.Parallel()
	bin := Chromium(t)
	addr, got := echoServer(t, `<script>
		const c = new WebSocket("ws://" + location.host + "/sub");
		c.onopen = () => c.send("hi");
		c.onmessage = m => fetch("/answer?text=" + encodeURIComponent(m.data));
	</script>`)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(bin, BrowserArgs(t.TempDir(), "http://"+addr+"/")...)
	cmd.Stdout, cmd.Stderr = log, log
	browser := Start(t, cmd)
	select {
	case text := <-got:
		if text != "echo hi" {
			t.Fatalf("the page got %q", text)
		}
	case <-time.After(3 * readyWithin):
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("no answer; the browser's log:\n%s", text)
	}
	browser.Kill()
}
