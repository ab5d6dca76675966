package load

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pushes is a push API that notes what it got.
type pushes struct {
	t  *testing.T
	mu sync.Mutex
	// got are the stamps by addressee, in the order of arrival
	got    map[string][]Stamp
	fail   func(n int) bool
	served int
	// noResults: it is said that nobody asks for them
	noResults bool
}

func (p *pushes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost {
		p.t.Errorf("%s: %v", r.Method, err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served++
	if p.fail != nil && p.fail(p.served) {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	q := r.URL.Query()
	var to []string
	status, answer := http.StatusOK, `{"code":0,"message":""}`
	switch r.URL.Path {
	case "/goim/push/room":
		to = []string{q.Get("type") + "://" + q.Get("room")}
	case "/goim/push/all":
		to = []string{"all at " + q.Get("speed")}
	case "/goim/push/mids":
		to = q["mids"]
	case "/goim/push/keys":
		to = q["keys"]
	case "/v1/push":
		var push struct {
			Op      int32
			Body    string `json:"body_base64"`
			Results *bool
			Targets []struct{ Mid int64 }
		}
		if err := json.Unmarshal(body, &push); err != nil || push.Op != OpUser || (push.Results != nil) != p.noResults || push.Results != nil && *push.Results {
			p.t.Errorf("%s: %v", body, err)
		}
		for _, t := range push.Targets {
			to = append(to, fmt.Sprint(t.Mid))
		}
		body, _ = base64.StdEncoding.DecodeString(push.Body)
		status, answer = http.StatusAccepted, strings.Repeat("long ", 2000) // in chunks
	default:
		p.t.Errorf("%s", r.URL.Path)
	}
	for _, one := range to {
		p.got[one] = append(p.got[one], ReadStamp(body))
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

func newPushes(t *testing.T) (*pushes, string) {
	p := &pushes{t: t, got: map[string][]Stamp{}}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return p, strings.TrimPrefix(s.URL, "http://")
}

// Each addressee gets the numbers 0, 1, 2 ... of each of its streams in order,
// by every route, and Published says where they ended.
func TestPublisherNumbersMessages(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  PublishConfig
		to   map[string]int // addressee by name, its index
		path string
	}{
		"room":  {cfg: PublishConfig{Route: GoimRoom, To: []Addressee{{Room: "a"}}, Publishers: 4}, to: map[string]int{"bench://a": 0}},
		"rooms": {cfg: PublishConfig{Route: GoimRoom, To: []Addressee{{Room: "a"}, {Room: "b"}, {Room: "c"}}, Publishers: 2}, to: map[string]int{"bench://a": 0, "bench://b": 1, "bench://c": 2}},
		"all":   {cfg: PublishConfig{Route: GoimAll, To: []Addressee{{Speed: 9}}, Publishers: 2}, to: map[string]int{"all at 9": 0}},
		"mids":  {cfg: PublishConfig{Route: GoimMids, To: []Addressee{{Mids: []int64{1, 2}}, {Mids: []int64{3}}}, Publishers: 2}, to: map[string]int{"1": 0, "2": 0, "3": 1}},
		"keys":  {cfg: PublishConfig{Route: GoimKeys, To: []Addressee{{Mids: []int64{1, 2}}, {Mids: []int64{3}}}, Publishers: 2}, to: map[string]int{"bench-1": 0, "bench-2": 0, "bench-3": 1}},
		"plain": {cfg: PublishConfig{Route: V1Batch, NoResults: true, To: []Addressee{{Mids: []int64{1, 2}}}, Publishers: 1}, to: map[string]int{"1": 0, "2": 0}},
		"v1":    {cfg: PublishConfig{Route: V1Batch, To: []Addressee{{Mids: []int64{1, 2}}, {Mids: []int64{3}}}, Publishers: 1}, to: map[string]int{"1": 0, "2": 0, "3": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			api, addr := newPushes(t)
			api.noResults = c.cfg.NoResults
			c.cfg.HTTP, c.cfg.BodyBytes, c.cfg.Timeout, c.cfg.Patience = []string{addr}, 20, time.Minute, time.Minute
			p, err := NewPublisher(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			ctx := bounded(t)
			accepted := uint64(0)
			var sent atomic.Uint64
			for _, perSecond := range []float64{400, 0} {
				st := p.Run(ctx, perSecond, 150*time.Millisecond, &sent)
				if len(st.Failed) > 0 || st.Accepted == 0 || st.API.Count != st.Accepted {
					t.Fatalf("%+v", st)
				}
				if perSecond > 0 && st.Accepted != 60 {
					t.Errorf("%d accepted of 60", st.Accepted)
				}
				accepted += st.Accepted
			}
			if sent.Load() != accepted {
				t.Errorf("%d sent, %d accepted", sent.Load(), accepted)
			}
			counts := p.Published()
			sum := uint64(0)
			for _, stream := range counts {
				for _, n := range stream {
					sum += uint64(n)
				}
			}
			if sum != accepted {
				t.Errorf("published %d, accepted %d", sum, accepted)
			}
			api.mu.Lock()
			defer api.mu.Unlock()
			if len(api.got) != len(c.to) {
				t.Fatalf("addressees %v", api.got)
			}
			for who, to := range c.to {
				next := make([]uint32, p.Streams())
				for _, s := range api.got[who] {
					if s.Seq != next[s.Stream] {
						t.Fatalf("%s: stream %d: %d, want %d", who, s.Stream, s.Seq, next[s.Stream])
					}
					next[s.Stream]++
				}
				for s := range next {
					if next[s] != counts[s][to] {
						t.Errorf("%s: stream %d: got %d, published %d", who, s, next[s], counts[s][to])
					}
				}
			}
		})
	}
}

// The dues of an open loop are the schedule's, however late the answers are:
// that is what latency counts from.
func TestDueTimesFollowTheSchedule(t *testing.T) {
	api, addr := newPushes(t)
	api.fail = func(n int) bool { return n == 3 } // its number is used again
	p, err := NewPublisher(PublishConfig{HTTP: []string{addr}, Route: GoimRoom, To: []Addressee{{Room: "a"}}, Publishers: 3, BodyBytes: StampLen, Timeout: time.Minute, Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	begin := p.Now() - int64(time.Second) // everything is late
	st := p.RunAt(bounded(t), begin, 10, time.Second, nil)
	if st.Accepted != 9 || len(st.Failed) != 1 || st.Lag.Quantile(0) < int64(90*time.Millisecond) {
		t.Fatalf("%+v", st)
	}
	p.cfg.Patience = 0
	// Patience ends: what is an hour late is not sent any more, and counted.
	if st := p.RunAt(bounded(t), p.Now()-int64(time.Hour), 10, time.Second, nil); st.Accepted != 0 || st.Unsent != 10 {
		t.Errorf("an hour late: %+v", st)
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	var dues []int64
	for _, s := range api.got["bench://a"] {
		dues = append(dues, (s.DueNS-begin)/int64(time.Millisecond))
	}
	slices.Sort(dues)
	missing := 0
	for i, due := range []int64{0, 100, 200, 300, 400, 500, 600, 700, 800, 900} {
		if j := i - missing; j >= len(dues) || dues[j] != due {
			missing++
		}
	}
	if len(dues) != 9 || missing != 1 {
		t.Errorf("dues %v", dues)
	}
}

func TestPublisherStops(t *testing.T) {
	_, addr := newPushes(t)
	p, err := NewPublisher(PublishConfig{HTTP: []string{addr}, Route: GoimRoom, To: []Addressee{{Room: "a"}}, Publishers: 2, BodyBytes: StampLen, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var sent atomic.Uint64
	done := make(chan PublishStats)
	go func() { done <- p.Run(ctx, 100, time.Hour, &sent) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); sent.Load() < 5 && time.Now().Before(deadline); <-tick.C {
	}
	cancel()
	select {
	case st := <-done:
		if st.Accepted < 5 {
			t.Errorf("%+v", st)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}

func TestAnswers(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{\"code\":0,\"message\":\"\"}":      "",
		"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"code\":-400":                     "status 200",
		"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n": "",
		"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n":               "answer:",
		"HTTP/1.1 202 Accepted\r\n\r\n":                                                   "answer:",
		"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n":                     "status 429",
		"nonsense that is long enough\r\n":                                                "answer:",
	} {
		h := httpConn{r: bufio.NewReader(strings.NewReader(answer))}
		status, keep, err := h.read()
		got := ""
		switch {
		case err != nil:
			got = "answer:"
		case !acceptedStatus(status, h.answer):
			got = fmt.Sprintf("status %d", status)
		}
		if got != want || err == nil && !keep {
			t.Errorf("%q: %q (%v), want %q", answer, got, err, want)
		}
	}
}

// Symptom: where a publisher sends little, some of its pushes failed with
// "answer: EOF". Cause: the server had closed the connection, which had been
// idle for too long, and one that was never used is given less time.
func TestAnIdleConnectionIsMadeAnew(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
			}
			_ = c.Close() // as idle
		}
	}()
	defer func() { _ = l.Close(); <-served }()
	h := httpConn{addr: l.Addr().String(), timeout: time.Minute}
	defer h.close()
	for range 2 {
		first := h.nc
		if err := h.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		second := h.nc
		h.used = h.used.Add(-maxUnused - time.Second)
		if accepted, why := h.post(t.Context(), []byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")); !accepted {
			t.Fatal(why)
		}
		if first == second || second == h.nc {
			t.Fatal("a connection that was idle for too long was used")
		}
		h.used = h.used.Add(-maxUnused - time.Second)
		third := h.nc
		if err := h.connect(t.Context()); err != nil || h.nc != third {
			t.Fatalf("%v, or a connection that was used was given up too early", err)
		}
		h.used = h.used.Add(-maxIdle)
	}
}
