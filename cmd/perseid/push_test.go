package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
)

// api is a push API that answers what the test says and keeps what it got.
type api struct {
	*httptest.Server
	status   int
	answer   string
	requests []string
}

func newAPI(t *testing.T, status int, answer string) *api {
	leakcheck.Check(t)
	a := &api{status: status, answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		a.requests = append(a.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(body))
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.answer)
	}))
	t.Cleanup(a.Close)
	return a
}

// push runs the command to its end.
func push(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = pushFrom(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestPush(t *testing.T) {
	a := newAPI(t, http.StatusAccepted, `{"msg_id":"0197","results":[{"target":{"room":"live://1"},"state":"online"},`+
		`{"target":{"mid":-7},"state":"offline"},{"target":{"key":"k\u001b"},"state":"offline"},{"target":{"all":true,"speed":0},"state":"unknown"}]}`)
	code, stdout, stderr := push(t, "", "-http", a.URL, "-op", "1001", "-room", "live://1", "-mid", "-7", "-key", "k\x1b", "-all", "hello\n")
	want := "msg_id=0197\nroom=live://1 online\nmid=-7 offline\nkey=k\\x1b offline\nall unknown\n"
	if code != exitOK || stdout != want || stderr != "" {
		t.Errorf("exit code %d, %q, %q, want %q", code, stdout, stderr, want)
	}
	sent := `POST /v1/push application/json {"op":1001,"body":"hello\n","targets":[{"room":"live://1"},{"mid":-7},{"key":"k\u001b"},{"all":true}]}`
	if len(a.requests) != 1 || a.requests[0] != sent {
		t.Errorf("sent %q, want %q", a.requests, sent)
	}
}

func TestPushBodies(t *testing.T) {
	a := newAPI(t, http.StatusAccepted, `{"msg_id":"1","results":[]}`)
	for _, test := range []struct{ arg, stdin, sent string }{
		{"", "", `"body":""`},
		{"-", "from\nstdin\n", `"body":"from\nstdin\n"`},
		{"-", "\xff\x00", `"body_base64":"/wA="`},
	} {
		a.requests = nil
		code, _, stderr := push(t, test.stdin, "-http", strings.TrimPrefix(a.URL, "http://")+"/", "-all", test.arg)
		want := `POST /v1/push application/json {"op":1000,` + test.sent + `,"targets":[{"all":true}]}`
		if code != exitOK || len(a.requests) != 1 || a.requests[0] != want {
			t.Errorf("exit code %d, %s, sent %q, want %q", code, stderr, a.requests, want)
		}
	}
}

func TestPushRefused(t *testing.T) {
	for _, test := range []struct {
		status       int
		answer, want string
	}{
		{413, `{"code":413,"reason":"too_large","message":"the body has\u001b 2 bytes too many"}`,
			`perseid push: not accepted: HTTP status 413, too_large: the body has\x1b 2 bytes too many` + "\n"},
		{503, "upstream away", "perseid push: not accepted: HTTP status 503 (Service Unavailable)\n"},
		{307, "", "perseid push: not accepted: HTTP status 307 (Temporary Redirect)\n"},
		{200, "<html>", "answers something else than a push API"},
	} {
		a := newAPI(t, test.status, test.answer)
		code, stdout, stderr := push(t, "", "-http", a.URL, "-all", "x")
		if code != exitFailed || stdout != "" || !strings.Contains(stderr, test.want) {
			t.Errorf("exit code %d, %q, %q, want %q", code, stdout, stderr, test.want)
		}
		a.Close()
	}
}

func TestPushWithoutServer(t *testing.T) {
	leakcheck.Check(t)
	// No system gives this port to a listener that asks for any.
	if code, _, stderr := push(t, "", "-http", "127.0.0.1:1", "-all", "x"); code != exitFailed || !strings.Contains(stderr, "connection refused") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestPushTimeout(t *testing.T) {
	leakcheck.Check(t)
	stuck := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	defer s.Close()
	defer close(stuck)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	args := []string{"-http", s.URL, "-timeout", "20ms", "-all", "x"}
	if o, _, _ := parsePush(args, &stdout, &stderr); o.timeout != 20*time.Millisecond {
		t.Errorf("the timeout is %s", o.timeout)
	}
	if code := pushFrom(ctx, args, nil, &stdout, &stderr); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(stderr.String(), "deadline exceeded") || ctx.Err() != nil {
		t.Errorf("%s, %v", &stderr, ctx.Err())
	}
}

func TestPushFlags(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"x", "to whom?"},
		{"-all=false x", "to whom?"},
		{"-all", "the message is missing"},
		{"-all two words", `unexpected "words": flags come first`},
		{"hello -all", "to whom?"},
		{"-mid alice x", `invalid value "alice" for flag -mid: a user id is an integer`},
		{"-op 3000000000 -all x", "-op 3000000000: an integer of 32 bits"},
		{"-op x -all x", `invalid value "x" for flag -op`},
		{"-timeout 0s -all x", "-timeout 0s"},
		{"-http ftp://h -all x", `-http "ftp://h"`},
		{"-http % -all x", `-http "http://%"`},
		{"-nonsense", "flag provided but not defined"},
	} {
		code, stdout, stderr := push(t, "", strings.Fields(test.args)...)
		if code != exitUsage || !strings.Contains(stderr, test.want) || stdout != "" {
			t.Errorf("%q: exit code %d, standard error %q, want 2 and %q", test.args, code, stderr, test.want)
		}
	}
}
