package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Codes of the server's answers.
const (
	codeOK          = 0
	codeNotModified = -304
	codeNotFound    = -404
	// A code at or below this is a failure of that server, not an answer.
	codeServerError = -500
)

const (
	dialTimeout    = 2 * time.Second
	requestTimeout = 3 * time.Second // one request to one server, a long poll's waiting aside
	maxAnswerBytes = 32 << 20
	reminderEvery  = 30 * time.Second // how often an unreachable server is logged
)

// answer is what a server said.
type answer struct {
	node    int // index of the server
	code    int
	message string
	data    json.RawMessage
}

// codeError is an answer that is not what was asked for.
type codeError struct {
	path    string
	code    int
	message string
}

func (e *codeError) Error() string {
	return fmt.Sprintf("%s: code %d %q", e.path, e.code, e.message)
}

func (a answer) err(path string) error {
	if a.code == codeOK {
		return nil
	}
	return &codeError{path: path, code: a.code, message: a.message}
}

// client asks one of several servers and stays with it until it fails.
type client struct {
	nodes []string
	http  *http.Client
	limit time.Duration // requestTimeout; longer in tests whose server may be slow
	log   *slog.Logger
	// recovered is called when a server answers after one did not: servers may
	// have lost what they knew.
	recovered func()

	mu      sync.Mutex
	current int
	suspect bool     // a server failed since recovered was called
	outages []outage // by node
}

// outage is the state of one server; guarded by client.mu.
type outage struct {
	since    time.Time // zero: it answers
	loggedAt time.Time
	failures int
}

func newClient(nodes []string, first int, log *slog.Logger, recovered func()) *client {
	return &client{
		nodes:     nodes,
		limit:     requestTimeout,
		log:       log,
		recovered: recovered,
		current:   first % len(nodes),
		outages:   make([]outage, len(nodes)),
		http: &http.Client{
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 8,
				IdleConnTimeout:     time.Minute,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// post tries the servers one after the other until one answers; the calls of
// the API are idempotent. The error is about the servers only: a code that is
// an answer is left to the caller.
func (c *client) post(ctx context.Context, path string, form url.Values) (answer, error) {
	return c.anyNode(ctx, func(node int) (answer, error) {
		return c.once(ctx, node, path, http.MethodPost, form, 0)
	})
}

// get is post for a query.
func (c *client) get(ctx context.Context, path string, form url.Values) (answer, error) {
	return c.anyNode(ctx, func(node int) (answer, error) {
		return c.once(ctx, node, path, http.MethodGet, form, 0)
	})
}

func (c *client) anyNode(ctx context.Context, ask func(node int) (answer, error)) (answer, error) {
	first := c.node()
	var errs []error
	for i := range c.nodes {
		a, err := ask((first + i) % len(c.nodes))
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return answer{}, errors.Join(errs...)
}

// node returns the server to ask now.
func (c *client) node() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// once asks one server. The server ends the request by itself after hold, when
// that is not 0.
func (c *client) once(ctx context.Context, node int, path, method string, form url.Values, hold time.Duration) (answer, error) {
	a, err := c.exchange(ctx, node, path, method, form, hold)
	switch {
	case err == nil:
		c.answered(node)
	case ctx.Err() != nil: // the caller gave up, which says nothing about the server
		err = fmt.Errorf("%s: %w", path, ctx.Err())
	default:
		err = fmt.Errorf("server %s: %s: %w", c.nodes[node], path, err)
		c.failed(node, err)
	}
	return a, err
}

func (c *client) exchange(ctx context.Context, node int, path, method string, form url.Values, hold time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limit+hold)
	defer cancel()
	address, body := "http://"+c.nodes[node]+path, io.Reader(nil)
	if method == http.MethodGet {
		address += "?" + form.Encode()
	} else {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if hold > 0 {
		// The server's handlers do not notice that a client went away; without
		// this a poll given up would stay for 30 s and could eat an event.
		req.Header.Set("x1-bmspy-timeout", strconv.FormatInt(hold.Milliseconds(), 10))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var urlError *url.Error // it would repeat the address with all parameters
		if errors.As(err, &urlError) {
			err = urlError.Err
		}
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	var reply struct {
		Code    *int            `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	}
	err = json.Unmarshal(text, &reply)
	switch {
	case resp.StatusCode != http.StatusOK:
		return answer{}, fmt.Errorf("HTTP status %d %s", resp.StatusCode, reply.Message)
	case err != nil:
		return answer{}, fmt.Errorf("answer of %d bytes: %w", len(text), err)
	case reply.Code == nil:
		return answer{}, fmt.Errorf("answer of %d bytes without a code", len(text))
	case *reply.Code <= codeServerError:
		return answer{}, fmt.Errorf("code %d %q", *reply.Code, reply.Message)
	}
	return answer{node: node, code: *reply.Code, message: reply.Message, data: reply.Data}, nil
}

// answered makes the server the current one.
func (c *client) answered(node int) {
	c.mu.Lock()
	o := c.outages[node]
	c.outages[node] = outage{}
	suspect := c.suspect
	c.current, c.suspect = node, false
	c.mu.Unlock()
	if !o.since.IsZero() {
		c.log.Info("discovery server answers again", "server", c.nodes[node], "after", time.Since(o.since), "failures", o.failures)
	}
	if suspect {
		c.recovered()
	}
}

// failed notes that a server did not answer. It is the one place that logs it:
// at the first failure, and again every reminderEvery.
func (c *client) failed(node int, err error) {
	now := time.Now()
	c.mu.Lock()
	o := &c.outages[node]
	if o.since.IsZero() {
		o.since = now
	}
	o.failures++
	c.suspect = true
	failures, since := o.failures, o.since
	mustLog := failures == 1 || now.Sub(o.loggedAt) >= reminderEvery
	if mustLog {
		o.loggedAt = now
	}
	if c.current == node {
		c.current = (node + 1) % len(c.nodes)
	}
	c.mu.Unlock()
	if mustLog {
		c.log.Warn("discovery server does not answer, trying again", "server", c.nodes[node], "for", now.Sub(since), "failures", failures, "error", err)
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }
