package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/wire"
)

const listenUsage = `Usage: perseid listen [flags]

Connects to a comet as a client and prints each message that arrives: time,
operation, body. What happens to the connection goes to standard error; it is
made again when it breaks.

Examples:
  perseid listen -room live://1000
  perseid listen -mid 42 -accepts 1000,1001
  perseid listen -ws ws://127.0.0.1:3102/sub -ver 1 -key phone-1
  perseid listen -room live://1000 -count 1 -timeout 10s -json

Flags:
`

// Exit codes of the commands.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// listenOptions is what the flags of listen say.
type listenOptions struct {
	client  client.Config
	rooms   []string // joined in version 2
	count   int      // 0 = no end
	timeout time.Duration
	asJSON  bool
}

// listenCommand is perseid listen. It returns the exit code: 1 if the server
// sent it away, or fewer messages came than asked for.
func listenCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	options, code, done := parseListen(args, stdout, stderr)
	if done {
		return code
	}
	if options.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, options.timeout)
		defer cancel()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p := &printer{options: options, stdout: stdout, stderr: stderr, stop: stop}
	err := client.Run(ctx, options.client, client.Handler{
		Connected: p.connected,
		Message:   p.message,
		Disconnected: func(err error, retryIn time.Duration) {
			p.state("disconnected: %v; next attempt in %s", err, retryIn.Round(time.Millisecond))
		},
	})
	switch {
	case p.failed != nil:
		p.state("perseid listen: %v", p.failed)
		return exitFailed
	case options.count > 0 && p.printed == options.count:
		return exitOK
	case !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		p.state("perseid listen: %v", err)
		return exitFailed
	case options.count > 0:
		p.state("perseid listen: %d of %d messages came", p.printed, options.count)
		return exitFailed
	}
	return exitOK
}

func parseListen(args []string, stdout, stderr io.Writer) (o listenOptions, code int, done bool) {
	var tcp, ws string
	var ver int
	fs := flag.NewFlagSet("listen", flag.ContinueOnError)
	fs.StringVar(&tcp, "tcp", "127.0.0.1:3101", "`address` of a comet's TCP port")
	fs.StringVar(&ws, "ws", "", "`URL` of a comet's WebSocket port, instead of -tcp; such as ws://127.0.0.1:3102/sub")
	fs.IntVar(&ver, "ver", int(wire.V2), "`version` of the protocol: 1 (goim) or 2")
	fs.Int64Var(&o.client.Auth.Mid, "mid", 0, "user `id`; 0 = none")
	fs.StringVar(&o.client.Auth.Key, "key", "", "`key` of the connection; empty = the server makes one")
	fs.Func("room", "`room` to be in, type://id; may be repeated in version 2", func(s string) error {
		if typ, id, ok := strings.Cut(s, "://"); !ok || typ == "" || id == "" {
			return errors.New("a room is type://id, such as live://1000")
		}
		o.rooms = append(o.rooms, s)
		return nil
	})
	o.client.Auth.Accepts = []wire.Op{wire.MinAppOp}
	fs.Func("accepts", "`operations` to get by key, mid and broadcast, with commas between (default 1000); rooms send every operation", func(s string) (err error) {
		o.client.Auth.Accepts, err = wire.ParseOps([]byte(s))
		return err
	})
	fs.IntVar(&o.count, "count", 0, "end after this `number` of messages; 0 = go on")
	fs.DurationVar(&o.timeout, "timeout", 0, "end after this `time`, such as 10s; 0 = go on")
	fs.BoolVar(&o.asJSON, "json", false, "print one JSON object per message")

	if code, done := parseFlags(fs, listenUsage, args, stdout, stderr); done {
		return o, code, true
	}
	o.client.Address, o.client.Version = "tcp://"+tcp, int16(ver)
	if ws != "" {
		o.client.Address = ws
	}
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch {
	case fs.NArg() > 0:
		return o, misused(stderr, "listen", "unexpected %q: listen has flags only", fs.Arg(0)), true
	case set["tcp"] && set["ws"]:
		return o, misused(stderr, "listen", "-tcp and -ws: give one of them"), true
	case ws == "" && !isHostPort(tcp):
		return o, misused(stderr, "listen", "-tcp %q: an address such as 127.0.0.1:3101", tcp), true
	case set["ws"] && !strings.HasPrefix(ws, "ws://") && !strings.HasPrefix(ws, "wss://"):
		return o, misused(stderr, "listen", "-ws %q: a URL such as ws://127.0.0.1:3102/sub", ws), true
	case ver != int(wire.V1) && ver != int(wire.V2):
		return o, misused(stderr, "listen", "-ver %d: allowed is 1 or 2", ver), true
	case ver == int(wire.V1) && len(o.rooms) > 1:
		return o, misused(stderr, "listen", "-room: version 1 has one room per connection"), true
	case o.count < 0:
		return o, misused(stderr, "listen", "-count %d: allowed is 0 or more", o.count), true
	case o.timeout < 0:
		return o, misused(stderr, "listen", "-timeout %s: allowed is 0s or more", o.timeout), true
	}
	if ver == int(wire.V1) && len(o.rooms) == 1 {
		o.client.Auth.Room, o.rooms = o.rooms[0], nil
	}
	return o, exitOK, false
}

func isHostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	return err == nil && host != "" && port != ""
}

// parseFlags parses args. done says that the command is over: help was asked
// for, or a flag is wrong.
func parseFlags(fs *flag.FlagSet, usage string, args []string, stdout, stderr io.Writer) (code int, done bool) {
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, usage) // a help text that nobody reads
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return exitOK, true
	case err != nil:
		return misused(stderr, fs.Name(), "%v", err), true
	}
	return exitOK, false
}

func misused(stderr io.Writer, command, format string, args ...any) int {
	_, _ = fmt.Fprintf(stderr, "perseid %s: %s\nperseid %s -h tells the flags.\n", command, fmt.Sprintf(format, args...), command) // nowhere else to say it
	return exitUsage
}

// printer prints what happens. It belongs to the goroutine of client.Run.
type printer struct {
	options        listenOptions
	stdout, stderr io.Writer
	stop           context.CancelFunc
	printed        int
	failed         error
}

func (p *printer) state(format string, args ...any) {
	_, _ = fmt.Fprintf(p.stderr, format+"\n", args...) // nowhere else to say it
}

func (p *printer) connected(ctx context.Context, c *client.Conn) error {
	s := c.Session()
	if s.Ver == wire.V1 {
		p.state("connected version=1 key=%s", text([]byte(s.Key))) // goim tells nothing about it
	} else {
		p.state("connected session=%s key=%s mid=%d node=%s", text([]byte(s.ID)), text([]byte(s.Key)), s.Mid, text([]byte(s.Node)))
	}
	if len(p.options.rooms) == 0 {
		return nil
	}
	results, err := c.Join(ctx, p.options.rooms...)
	for _, r := range results {
		if !r.OK {
			err = errors.Join(err, fmt.Errorf("room %s: refused with code %d: %s", r.Room, r.Code, text([]byte(r.Reason))))
			continue
		}
		p.state("joined room=%s", r.Room)
	}
	return err
}

func (p *printer) message(m client.Message) {
	line := formatMessage(time.Now(), m, p.options.asJSON)
	if _, err := p.stdout.Write(line); err != nil {
		p.failed = fmt.Errorf("print: %w", err)
		p.stop()
		return
	}
	if p.printed++; p.printed == p.options.count {
		p.stop()
	}
}

// formatMessage makes the line of a message: its body is text if it is UTF-8,
// else hexadecimal.
func formatMessage(now time.Time, m client.Message, asJSON bool) []byte {
	isText := utf8.Valid(m.Body)
	if !asJSON {
		body := hex.EncodeToString(m.Body)
		if isText {
			body = text(m.Body)
		}
		return fmt.Appendf(nil, "%s %d %s\n", now.Format("15:04:05.000"), m.Op, body)
	}
	line := struct {
		Time time.Time `json:"time"`
		Op   wire.Op   `json:"op"`
		Text *string   `json:"text,omitempty"`
		Hex  *string   `json:"hex,omitempty"`
	}{Time: now, Op: m.Op}
	body := string(m.Body)
	if line.Text = &body; !isText {
		body = hex.EncodeToString(m.Body)
		line.Text, line.Hex = nil, &body
	}
	b, err := json.Marshal(line)
	if err != nil { // plain values always marshal
		return nil
	}
	return append(b, '\n')
}

// text escapes what would move the cursor, colour the terminal or turn the
// direction of writing.
func text(b []byte) string {
	var out strings.Builder
	for _, r := range string(b) {
		if unicode.IsPrint(r) {
			out.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRune(r)
		out.WriteString(quoted[1 : len(quoted)-1])
	}
	return out.String()
}
