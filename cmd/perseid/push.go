package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/perseid-im/perseid/pkg/wire"
)

const pushUsage = `Usage: perseid push [flags] BODY

Pushes BODY (- reads it from standard input) to connections over the HTTP API
and prints the id of the message and one line per target. "online" means that a
target had a session then, not that the message arrived.

Examples:
  perseid push -room live://1000 'hello, room'
  perseid push -mid 42 -mid 43 -key phone-1 -op 1001 '{"text":"hi"}'
  date | perseid push -all -

Flags:
`

// maxReplyBytes bounds what is read of an answer.
const maxReplyBytes = 16 << 20

// pushTarget is one target, as /v1/push has it.
type pushTarget struct {
	Key  *string `json:"key,omitempty"`
	Mid  *int64  `json:"mid,omitempty"`
	Room *string `json:"room,omitempty"`
	All  bool    `json:"all,omitempty"`
}

func (t pushTarget) String() string {
	switch {
	case t.Key != nil:
		return "key=" + text([]byte(*t.Key))
	case t.Mid != nil:
		return "mid=" + strconv.FormatInt(*t.Mid, 10)
	case t.Room != nil:
		return "room=" + text([]byte(*t.Room))
	}
	return "all"
}

// pushOptions is what the flags of push say.
type pushOptions struct {
	url     string
	op      int64
	timeout time.Duration
	targets []pushTarget
	body    string
}

// pushCommand is perseid push. It returns the exit code: 1 if the push was not
// accepted.
func pushCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return pushFrom(ctx, args, os.Stdin, stdout, stderr)
}

func pushFrom(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, code, done := parsePush(args, stdout, stderr)
	if done {
		return code
	}
	err := o.run(ctx, stdin, stdout)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "perseid push: %v\n", err) // nowhere else to say it
		return exitFailed
	}
	return exitOK
}

func parsePush(args []string, stdout, stderr io.Writer) (o pushOptions, code int, done bool) {
	fs := flag.NewFlagSet("push", flag.ContinueOnError)
	fs.StringVar(&o.url, "http", "http://127.0.0.1:3111", "`URL` of the HTTP API of logic")
	fs.Int64Var(&o.op, "op", int64(wire.MinAppOp), "`operation` of the message; clients get what they accept, rooms everything")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for the answer")
	fs.Func("key", "to the connection with this `key`; may be repeated", func(s string) error {
		o.targets = append(o.targets, pushTarget{Key: &s})
		return nil
	})
	fs.Func("mid", "to every connection of this user `id`; may be repeated", func(s string) error {
		mid, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errors.New("a user id is an integer of 64 bits")
		}
		o.targets = append(o.targets, pushTarget{Mid: &mid})
		return nil
	})
	fs.Func("room", "to the members of this `room`, type://id; may be repeated", func(s string) error {
		o.targets = append(o.targets, pushTarget{Room: &s})
		return nil
	})
	fs.BoolFunc("all", "to every connection", func(s string) error {
		if s == "true" {
			o.targets = append(o.targets, pushTarget{All: true})
		}
		return nil
	})
	if code, done := parseFlags(fs, pushUsage, args, stdout, stderr); done {
		return o, code, true
	}
	if !strings.Contains(o.url, "://") {
		o.url = "http://" + o.url
	}
	u, err := url.Parse(o.url)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return o, misused(stderr, "push", "-http %q: a URL such as http://127.0.0.1:3111", o.url), true
	case o.op < math.MinInt32 || o.op > math.MaxInt32:
		return o, misused(stderr, "push", "-op %d: an integer of 32 bits", o.op), true
	case o.timeout <= 0:
		return o, misused(stderr, "push", "-timeout %s: allowed is more than 0s", o.timeout), true
	case len(o.targets) == 0:
		return o, misused(stderr, "push", "to whom? Give one of -key, -mid, -room and -all, or several"), true
	case fs.NArg() == 0:
		return o, misused(stderr, "push", "the message is missing (- reads it from standard input)"), true
	case fs.NArg() > 1:
		return o, misused(stderr, "push", "unexpected %q: flags come first, then one message; quote it if it has blanks", fs.Arg(1)), true
	}
	o.url, o.body = u.JoinPath("v1", "push").String(), fs.Arg(0)
	return o, exitOK, false
}

func (o pushOptions) run(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	if o.body == "-" {
		b, err := io.ReadAll(stdin)
		if err != nil {
			return fmt.Errorf("read the message: %w", err)
		}
		o.body = string(b)
	}
	status, answer, err := o.post(ctx)
	if err != nil {
		return err
	}
	if status/100 != 2 {
		return refusedPush(status, answer)
	}
	var reply struct {
		MsgID   string `json:"msg_id"`
		Results []struct {
			Target pushTarget `json:"target"`
			State  string     `json:"state"`
		} `json:"results"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return fmt.Errorf("%s answers something else than a push API: %w", o.url, err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "msg_id=%s\n", text([]byte(reply.MsgID)))
	for _, r := range reply.Results {
		fmt.Fprintf(&out, "%s %s\n", r.Target, text([]byte(r.State)))
	}
	if _, err := io.WriteString(stdout, out.String()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func (o pushOptions) post(ctx context.Context) (status int, answer []byte, err error) {
	request := struct {
		Op         int64        `json:"op"`
		Body       *string      `json:"body,omitempty"`
		BodyBase64 string       `json:"body_base64,omitempty"`
		Targets    []pushTarget `json:"targets"`
	}{Op: o.op, Targets: o.targets}
	if utf8.ValidString(o.body) {
		request.Body = &o.body
	} else {
		request.BodyBase64 = base64.StdEncoding.EncodeToString([]byte(o.body))
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(payload))
	if err != nil {
		return 0, nil, err
	}
	post.Header.Set("Content-Type", "application/json")
	// One request: no connection to keep, and no redirect to follow with it.
	hc := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := hc.Do(post)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }() // it was read
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxReplyBytes))
	return response.StatusCode, answer, err
}

// refusedPush says why, in the server's words if it has some.
func refusedPush(status int, answer []byte) error {
	var problem struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(answer, &problem); err != nil || problem.Reason == "" {
		return fmt.Errorf("not accepted: HTTP status %d (%s)", status, http.StatusText(status))
	}
	return fmt.Errorf("not accepted: HTTP status %d, %s: %s", status, text([]byte(problem.Reason)), text([]byte(problem.Message)))
}
