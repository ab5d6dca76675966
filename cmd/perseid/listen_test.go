package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
)

const patience = time.Minute

// terminal is an output that a test can wait on.
type terminal struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newTerminal() *terminal { return &terminal{changed: make(chan struct{}, 1)} }

func (o *terminal) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *terminal) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *terminal) await(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(o.String(), want) {
		select {
		case <-o.changed:
		case <-timeout:
			t.Fatalf("waited for %q, got %q", want, o.String())
		}
	}
}

// listening runs a command in the background.
type listening struct {
	stdout, stderr *terminal
	code           chan int
	stop           context.CancelFunc
}

func listen(t *testing.T, args ...string) *listening {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	l := &listening{stdout: newTerminal(), stderr: newTerminal(), code: make(chan int, 1), stop: cancel}
	go func() { l.code <- listenCommand(ctx, args, l.stdout, l.stderr) }()
	t.Cleanup(cancel)
	return l
}

func (l *listening) wantCode(t *testing.T, want int) {
	t.Helper()
	select {
	case got := <-l.code:
		if got != want {
			t.Errorf("exit code %d, want %d; standard error: %s", got, want, l.stderr)
		}
	case <-time.After(patience):
		t.Fatal("the command does not end")
	}
}

func testComet(t *testing.T) *clienttest.Comet {
	leakcheck.Check(t)
	comet := clienttest.NewComet(60)
	t.Cleanup(comet.Close)
	return comet
}

func tcpAddr(comet *clienttest.Comet) string { return strings.TrimPrefix(comet.TCP, "tcp://") }

// lines drops the time that each line starts with.
func lines(t *testing.T, output string) (rest []string) {
	t.Helper()
	for line := range strings.Lines(output) {
		clock, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse("15:04:05.000", clock); err != nil {
			t.Errorf("line %q does not start with a time", line)
		}
		rest = append(rest, text)
	}
	return rest
}

func TestListen(t *testing.T) {
	comet := testComet(t)
	ways := map[string][]string{
		"tcp v1": {"-tcp", tcpAddr(comet), "-ver", "1"}, "tcp v2": {"-tcp", tcpAddr(comet)},
		"ws v1": {"-ws", comet.WebSocket, "-ver", "1"}, "ws v2": {"-ws", comet.WebSocket},
	}
	for name, args := range ways {
		t.Run(name, func(t *testing.T) {
			l := listen(t, append(args, "-room", "live://1", "-mid", "7", "-key", "k", "-accepts", "1000,1001", "-count", "4")...)
			l.stderr.await(t, "connected ")
			if strings.Contains(name, "v2") {
				l.stderr.await(t, "joined room=live://1")
			}
			comet.PushRoom("live://1", 5000, `{"text":"grüß \o/"}`)
			comet.PushKey("k", 1001, "two\nlines \x1b[31m\u202e\x00")
			comet.PushMid(7, 1000, "\xff\x00binary")
			comet.PushAll(1002, "not accepted")
			comet.PushAll(1000, "")
			l.wantCode(t, exitOK)
			want := []string{`5000 {"text":"grüß \o/"}`, `1001 two\nlines \x1b[31m\u202e\x00`, "1000 ff0062696e617279", "1000 "}
			if got := lines(t, l.stdout.String()); strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestListenJSON(t *testing.T) {
	comet := testComet(t)
	l := listen(t, "-tcp", tcpAddr(comet), "-key", "k", "-count", "2", "-json")
	l.stderr.await(t, "connected session=1 key=k mid=0 node=comet-test")
	comet.PushKey("k", 1000, "a\n\"b\"", "\xff")
	l.wantCode(t, exitOK)
	want := []map[string]any{{"op": 1000.0, "text": "a\n\"b\""}, {"op": 1000.0, "hex": "ff"}}
	i := 0
	for line := range strings.Lines(l.stdout.String()) {
		got := map[string]any{}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if _, err := time.Parse(time.RFC3339Nano, got["time"].(string)); err != nil {
			t.Error(err)
		}
		for _, field := range []string{"op", "text", "hex"} {
			if got[field] != want[i][field] {
				t.Errorf("line %d: %s is %v, want %v", i, field, got[field], want[i][field])
			}
		}
		i++
	}
	if i != 2 {
		t.Errorf("%d lines", i)
	}
}

// The connection breaks; listen makes another one and is in its rooms again.
func TestListenComesBack(t *testing.T) {
	comet := testComet(t)
	l := listen(t, "-tcp", tcpAddr(comet), "-room", "a://1", "-room", "a://2", "-count", "2")
	l.stderr.await(t, "joined room=a://2")
	comet.PushRoom("a://2", 1000, "before")
	l.stdout.await(t, "before")
	comet.Bye(clienttest.Bye{Code: 3001, Reason: "draining", Reconnect: true, RetryMS: 1})
	l.stderr.await(t, `disconnected: client: closed by the server with code 3001: "draining"; next attempt in`)
	l.stderr.await(t, "connected session=2 key=key-2 mid=0 node=comet-test\njoined room=a://1\njoined room=a://2\n")
	comet.PushRoom("a://1", 1000, "after")
	l.wantCode(t, exitOK)
}

func TestListenEnds(t *testing.T) {
	comet := testComet(t)
	address := tcpAddr(comet)
	t.Run("by a signal", func(t *testing.T) {
		l := listen(t, "-tcp", address)
		l.stderr.await(t, "connected")
		l.stop()
		l.wantCode(t, exitOK)
	})
	t.Run("by the time", func(t *testing.T) {
		l := listen(t, "-tcp", address, "-timeout", "1ms")
		l.wantCode(t, exitOK)
	})
	t.Run("by the time, with less than asked for", func(t *testing.T) {
		l := listen(t, "-tcp", address, "-timeout", "1ms", "-count", "1")
		l.wantCode(t, exitFailed)
		l.stderr.await(t, "0 of 1 messages came")
	})
	t.Run("by the server", func(t *testing.T) {
		l := listen(t, "-tcp", address)
		l.stderr.await(t, "connected")
		comet.Bye(clienttest.Bye{Code: 3501, Reason: "kicked"})
		l.wantCode(t, exitFailed)
		l.stderr.await(t, `perseid listen: client: closed by the server with code 3501: "kicked"`)
	})
	t.Run("by a refused room", func(t *testing.T) {
		refusing := clienttest.Serve(func(p *clienttest.Peer) {
			auth, err := p.Next()
			if err = errors.Join(err, p.ReplyJSON(auth, map[string]any{"ver": 2, "heartbeat": 60})); err != nil {
				t.Error(err)
			}
			join, err := p.Next()
			room := map[string]any{"room": "a://b", "code": 429, "reason": "at most 128 rooms"}
			if err = errors.Join(err, p.ReplyJSON(join, map[string]any{"rooms": []any{room}})); err != nil {
				t.Error(err)
			}
			_, _ = p.Next()
		})
		defer refusing.Close()
		l := listen(t, "-ws", refusing.WebSocket, "-room", "a://b")
		l.wantCode(t, exitFailed)
		l.stderr.await(t, "room a://b: refused with code 429: at most 128 rooms")
	})
	t.Run("by its output", func(t *testing.T) {
		var stderr bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		code := make(chan int, 1)
		go func() {
			code <- listenCommand(ctx, []string{"-tcp", address, "-key", "broken-pipe"}, brokenPipe{}, &stderr)
		}()
		for comet.PushKey("broken-pipe", 1000, "x") == 0 && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
		if got := <-code; got != exitFailed || !strings.Contains(stderr.String(), "pipe is broken") {
			t.Errorf("exit code %d, %s", got, &stderr)
		}
	})
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("pipe is broken") }

func TestListenFlags(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"-nonsense", "flag provided but not defined: -nonsense"},
		{"-ver 3", "-ver 3: allowed is 1 or 2"},
		{"-ver x", `invalid value "x" for flag -ver`},
		{"-room lobby", "a room is type://id"},
		{"-ver 1 -room a://1 -room a://2", "version 1 has one room"},
		{"-accepts 1,x", "is not an operation"},
		{"-tcp h:1 -ws ws://h/sub", "-tcp and -ws: give one of them"},
		{"-ws h:1", "a URL such as"},
		{"-tcp nowhere", `-tcp "nowhere": an address such as`},
		{"-count -1", "-count -1: allowed is 0 or more"},
		{"-timeout -1s", "-timeout -1s: allowed is 0s or more"},
		{"live://1", `unexpected "live://1"`},
	} {
		var stdout, stderr bytes.Buffer
		code := listenCommand(t.Context(), strings.Fields(test.args), &stdout, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), test.want) || stdout.Len() > 0 {
			t.Errorf("%q: exit code %d, standard error %q, want 2 and %q", test.args, code, &stderr, test.want)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(stdout, stderr *bytes.Buffer) int
		want []string
	}{
		{"listen", func(stdout, stderr *bytes.Buffer) int {
			return listenCommand(t.Context(), []string{"-h"}, stdout, stderr)
		},
			[]string{"Usage: perseid listen [flags]", "perseid listen -room live://1000", "-accepts operations", "-tcp address"}},
		{"push", func(stdout, stderr *bytes.Buffer) int {
			return pushCommand(t.Context(), []string{"--help"}, stdout, stderr)
		},
			[]string{"Usage: perseid push [flags] BODY", "perseid push -room live://1000", "-http URL"}},
	} {
		var stdout, stderr bytes.Buffer
		if code := test.run(&stdout, &stderr); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, %s", test.name, code, &stderr)
		}
		for _, want := range test.want {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%s: no %q in the help:\n%s", test.name, want, &stdout)
			}
		}
	}
}

func TestFormatMessage(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	for body, want := range map[string]string{
		"plain":        "03:04:05.006 1000 plain\n",
		"":             "03:04:05.006 1000 \n",
		"a\tb\r\n":     `03:04:05.006 1000 a\tb\r\n` + "\n",
		"\u2028\u0085": `03:04:05.006 1000 \u2028\u0085` + "\n",
		"\xc3(":        "03:04:05.006 1000 c328\n",
	} {
		if got := string(formatMessage(now, client.Message{Op: 1000, Body: []byte(body)}, false)); got != want {
			t.Errorf("%q: got %q, want %q", body, got, want)
		}
	}
}
