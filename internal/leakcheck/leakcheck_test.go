package leakcheck

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

const hardlyAny = 50 * time.Millisecond

// recorder is a test whose outcome the test looks at.
type recorder struct {
	testing.TB
	failed   bool
	messages []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Errorf(f string, a ...any) {
	r.failed = true
	r.messages = append(r.messages, fmt.Sprintf(f, a...))
}

func (r *recorder) end() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

// blocked starts a goroutine that the returned function ends.
func blocked() (release func()) {
	stop := make(chan struct{})
	go waitForTheEnd(stop)
	return func() { close(stop) }
}

func waitForTheEnd(stop chan struct{}) { <-stop }

func TestCheckNamesTheGoroutineThatIsLeft(t *testing.T) {
	r := &recorder{}
	check(r, hardlyAny)
	release := blocked()
	defer release()
	r.end()
	if len(r.messages) != 1 || !strings.Contains(r.messages[0], "waitForTheEnd") || !strings.Contains(r.messages[0], "1 goroutines") {
		t.Errorf("messages: %q", r.messages)
	}
}

func TestCheckIgnoresWhatWasThereBefore(t *testing.T) {
	release := blocked()
	defer release()
	r := &recorder{}
	check(r, Patience)
	r.end()
	if r.failed {
		t.Errorf("messages: %q", r.messages)
	}
}

func TestCheckComesAfterLaterCleanups(t *testing.T) {
	r := &recorder{}
	check(r, Patience)
	r.Cleanup(blocked())
	r.end()
	if r.failed {
		t.Errorf("messages: %q", r.messages)
	}
}

func TestCheckWaits(t *testing.T) {
	r := &recorder{}
	check(r, Patience)
	release := blocked()
	time.AfterFunc(20*time.Millisecond, release)
	r.end()
	if r.failed {
		t.Errorf("messages: %q", r.messages)
	}
}

func TestCheckAddsNothingToAFailedTest(t *testing.T) {
	r := &recorder{failed: true}
	check(r, hardlyAny)
	release := blocked()
	defer release()
	r.end()
	if len(r.messages) > 0 {
		t.Errorf("messages: %q", r.messages)
	}
}

// An idle connection of the default client holds two goroutines on each side;
// signal.Notify one for the life of the process.
func TestCachesAndSignalsAreNoLeak(t *testing.T) {
	r := &recorder{}
	check(r, Patience)
	server := httptest.NewServer(http.NotFoundHandler())
	r.Cleanup(server.Close)
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	signal.Stop(signals)
	r.end()
	if r.failed {
		t.Errorf("messages: %q", r.messages)
	}
}

type tests func() int

func (run tests) Run() int { return run() }

func TestMainFailsForALeak(t *testing.T) {
	var release func()
	var out bytes.Buffer
	code := run(tests(func() int { release = blocked(); return 0 }), &out, hardlyAny)
	release()
	if code != 1 || !strings.Contains(out.String(), "waitForTheEnd") {
		t.Errorf("exit code %d, output %q", code, &out)
	}
}

func TestMainKeepsTheCodeOfTheTests(t *testing.T) {
	for _, want := range []int{0, 1, 2} {
		var out bytes.Buffer
		if code := run(tests(func() int { return want }), &out, Patience); code != want || out.Len() > 0 {
			t.Errorf("exit code %d instead of %d, output %q", code, want, &out)
		}
	}
}
