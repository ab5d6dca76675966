package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/registry/registrytest"
)

// Symptom: the official client hung at start, without a word, until a server
// came. Here everything returns, the log says why, and the work begins when the
// server is there.
func TestServerDownAtStart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	text := new(syncBuffer)
	d := openLogging(t, slog.New(slog.NewTextHandler(text, nil)), []string{s.address}, pollFor(time.Second))
	start := time.Now()
	if _, err := d.GetService(t.Context(), t.Name()); err == nil || !strings.Contains(err.Error(), s.address) {
		t.Errorf("GetService: %v, want an error with the server's address", err)
	}
	mustRegister(t, d, node(t.Name(), 1))
	if took := time.Since(start); took > within/2 { // the server comes after this
		t.Errorf("the calls took %v", took)
	}
	if err := d.Ready(); err == nil {
		t.Error("Ready without a registration")
	}
	w := registrytest.Watch(t, d, t.Name())
	next := w.Start()
	eventually(t, "several attempts", func() bool {
		d.client.mu.Lock()
		defer d.client.mu.Unlock()
		return d.client.outages[0].failures > 5
	})
	s.start(t)
	if got := next(within); len(got) > 0 { // it may be there before the registration
		t.Logf("first %v", got)
	} else {
		w.Await(within, registrytest.Addresses(1)...)
	}
	eventually(t, "ready", func() bool { return d.Ready() == nil })
	if n, reminders := text.count("does not answer"), int(time.Since(start)/reminderEvery); n < 1 || n > 1+reminders {
		t.Errorf("the outage was logged %d times:\n%s", n, text.text.String())
	}
	for _, want := range []string{"waits for a discovery server", "answers again", s.address} {
		if text.count(want) == 0 {
			t.Errorf("nothing about %q in the log:\n%s", want, text.text.String())
		}
	}
}

// A server that restarts knows nothing. The process notices through its watch
// that the server was away and registers again at once, not at the next
// renewal; and nobody is told meanwhile that all nodes are gone.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.start(t)
	nodes := []string{s.address}
	comet, job := open(t, nodes), open(t, nodes) // they renew every 30 s
	other := registrytest.Watch(t, comet, "logic")
	other.Await(within)
	go other.Ended(within * 4) // comet watches logic all the time

	mustRegister(t, comet, node(t.Name(), 1))
	w := registrytest.Watch(t, job, t.Name())
	w.Await(within, registrytest.Addresses(1)...)
	next := w.Start()
	polling(t, comet)
	polling(t, job)

	s.kill()
	s.start(t)
	eventually(t, "registered again", func() bool {
		instances, err := job.GetService(t.Context(), t.Name())
		return err == nil && len(instances) == 1
	})
	mustRegister(t, comet, node(t.Name(), 2))
	if got := next(within); !slices.Equal(got, registrytest.Addresses(1, 2)) {
		t.Errorf("the first news after the restart is %v", got)
	}
}

func TestLostRegistrationIsRenewed(t *testing.T) {
	t.Parallel()
	text := new(syncBuffer)
	d, other := openLogging(t, slog.New(slog.NewTextHandler(text, nil)), []string{shared.address}, renewEvery(time.Second)), open(t, []string{shared.address})
	mustRegister(t, d, node(t.Name(), 1))
	mustDeregister(t, other, node(t.Name(), 1)) // behind its back: the next renewal is answered -404
	eventually(t, "registered again", func() bool {
		instances, err := other.GetService(t.Context(), t.Name())
		return err == nil && len(instances) == 1
	})
	if text.count("forgot a registration") != 1 {
		t.Errorf("log: %s", text.text.String())
	}
}

// An instance that died together with the server is kept for the grace time
// only.
func TestMissingInstancesAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.start(t)
	nodes := []string{s.address}
	live, watching := open(t, nodes, renewEvery(time.Second)), open(t, nodes, renewEvery(8*time.Second), pollFor(time.Second)) // 12 s for live to come back
	mustRegister(t, live, node(t.Name(), 1))
	registerDead(t, live, t.Name(), 2)
	w := registrytest.Watch(t, watching, t.Name())
	w.Await(within, registrytest.Addresses(1, 2)...)
	next := w.Start()
	polling(t, watching)
	s.kill()
	s.start(t)
	started := time.Now()
	if got := next(within); !slices.Equal(got, registrytest.Addresses(1)) {
		t.Errorf("the first news after the restart is %v", got)
	}
	if took := time.Since(started); took < 2*time.Second {
		t.Errorf("the missing instance was given up after %v", took)
	}
}

// Symptom: behind a proxy that cuts long polls, an instance that had left stayed
// listed for ever, and the servers were asked without a pause to speak of,
// renewals too.
// Cause: every poll that failed was an outage that gave all that was missing
// the whole grace time again, and as the fetch behind it worked there was no
// back-off.
func TestPollsFailForEver(t *testing.T) {
	t.Parallel()
	p := newProxy(t, shared, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != pathPolls {
			return false
		}
		http.Error(w, "the upstream takes too long", http.StatusGatewayTimeout)
		return true
	})
	d, other := open(t, []string{p.address}, renewEvery(2*time.Second)), open(t, []string{shared.address})
	mustRegister(t, other, node(t.Name(), 1), node(t.Name(), 2))
	w := registrytest.Watch(t, d, t.Name())
	w.Await(within, registrytest.Addresses(1, 2)...)
	next := w.Start()
	mustDeregister(t, other, node(t.Name(), 2))
	began := time.Now()
	if got := next(within); !slices.Equal(got, registrytest.Addresses(1)) {
		t.Errorf("the first news is %v", got)
	}
	// 200 ms, doubled up to 5 s, less jitter; two requests each.
	if n := len(p.seen()); n > 20+2*int(time.Since(began)/time.Second) {
		t.Errorf("%d requests in %v", n, time.Since(began))
	}
}

// polling waits until the first poll of a directory is under way.
func polling(t *testing.T, d *Directory) {
	t.Helper()
	eventually(t, "a poll", func() bool { return d.polls.Load() > 0 })
}

// registerDead registers an instance that nobody renews.
func registerDead(t *testing.T, d *Directory, service string, port int) {
	t.Helper()
	form, err := encode(node(service, port))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range d.identify(node(service, port)) {
		form[k] = v
	}
	if a, err := d.client.post(t.Context(), pathRegister, form); err != nil || a.code != codeOK {
		t.Fatalf("register: %+v, %v", a, err)
	}
}

// Symptom: an instance was listed again after it had deregistered. Cause: a
// renewal under way was answered "not found" after the cancel, and registered.
func TestDeregisterWaitsForTheRenewal(t *testing.T) {
	t.Parallel()
	renewing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p := newProxy(t, shared, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == pathRenew {
			once.Do(func() { close(renewing); <-release })
		}
		return false
	})
	d, other := open(t, []string{p.address}, renewEvery(time.Second)), open(t, []string{shared.address})
	mustRegister(t, d, node(t.Name(), 1))
	<-renewing
	mustDeregister(t, other, node(t.Name(), 1)) // the renewal will be answered -404

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := d.Deregister(ctx, node(t.Name(), 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Deregister did not wait for the renewal under way: %v", err)
	}
	close(release)
	mustDeregister(t, d, node(t.Name(), 1))
	mustGet(t, other, t.Name(), 0)
	want := []string{pathRegister, pathRenew, pathRegister, pathCancel}
	if err := d.Close(t.Context()); err != nil { // nothing is left that could send
		t.Fatal(err)
	}
	if got := p.seen(); !slices.Equal(got, want) {
		t.Errorf("requests %v, want %v", got, want)
	}
	mustGet(t, other, t.Name(), 0)
}

func TestProtectMode(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.protect = true
	s.start(t)
	alone := open(t, []string{s.address})
	if _, err := alone.GetService(t.Context(), t.Name()); err == nil {
		t.Error("GetService: an answer from a server in protect mode")
	} else {
		t.Log(err)
	}
	mustRegister(t, alone, node(t.Name(), 1)) // which is what the mode is there for
	if err := alone.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}

	writer := open(t, []string{shared.address})
	mustRegister(t, writer, node(t.Name(), 2))
	both := open(t, []string{s.address, shared.address})
	both.client.current = 0
	mustGet(t, both, t.Name(), 1) // one call, two servers
	both.client.current = 0
	w := registrytest.Watch(t, both, t.Name())
	if got := w.Next(within); !slices.Equal(got, registrytest.Addresses(2)) {
		t.Errorf("Next = %v, want the answer of the other server", got)
	}
}

// In a cluster each server has timestamps of its own and tells the others what
// it was told, joining all endpoints to one string.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	a, b := newServer(t), newServer(t)
	a.peers = []string{a.address, b.address}
	b.peers = a.peers
	a.start(t)
	b.start(t)
	toA, toB := open(t, []string{a.address}), open(t, []string{b.address})
	both := open(t, a.peers, renewEvery(time.Second))
	both.client.current = 0
	two := node(t.Name(), 1)
	two.Endpoints = append(two.Endpoints, "http://127.0.0.1:2")
	mustRegister(t, toA, two)
	if got := mustGet(t, toB, t.Name(), 1)[0]; !slices.Equal(got.Endpoints, two.Endpoints) {
		t.Errorf("endpoints %q at the other server", got.Endpoints)
	}
	mustRegister(t, both, node(t.Name(), 3))
	w := registrytest.Watch(t, both, t.Name())
	w.Await(within, registrytest.Addresses(1, 3)...)
	a.kill()
	mustRegister(t, toB, node(t.Name(), 4))
	w.Await(within, registrytest.Addresses(1, 3, 4)...)
	mustDeregister(t, toB, two)
	w.Await(within, registrytest.Addresses(3, 4)...)
	mustDeregister(t, both, node(t.Name(), 3)) // at the server that is left
	w.Await(within, registrytest.Addresses(4)...)
	if err := both.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
}

// What a real server cannot be made to answer.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status  int
		body    string
		refused bool // an answer, so that Register fails and does not go on
	}{
		"unavailable":      {http.StatusServiceUnavailable, `{"code":0}`, false},
		"redirect":         {http.StatusFound, `{"code":0}`, false},
		"not discovery":    {http.StatusOK, `<html>`, false},
		"nothing":          {http.StatusOK, ``, false},
		"no code":          {http.StatusOK, `{}`, false},
		"server error":     {http.StatusOK, `{"code":-500,"message":"-500"}`, false},
		"overload":         {http.StatusOK, `{"code":-509}`, false},
		"refused":          {http.StatusOK, `{"code":-400,"message":"-400"}`, true},
		"strange data":     {http.StatusOK, `{"code":0,"data":[1]}`, false},
		"strange instance": {http.StatusOK, `{"code":0,"data":{"instances":{"z1":[{"hostname":5}]}}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://"+shared.address+pathFetch)
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer front.Close()
			d := open(t, []string{front.Listener.Addr().String()})
			if instances, err := d.GetService(t.Context(), t.Name()); err == nil {
				t.Errorf("GetService = %v", instances)
			}
			if err := d.Register(t.Context(), node(t.Name(), 1)); (err != nil) != c.refused {
				t.Errorf("Register: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = d.Close(ctx)
		})
	}
}

func TestNullsAreNoInstances(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`null`, `{}`, `{"instances":null}`, `{"instances":{"z1":null}}`, `{"instances":{"z1":[null,{}]}}`} {
		l, err := decode("s", 0, []byte(text))
		if err != nil || l.instances == nil || len(l.instances) != 0 {
			t.Errorf("decode(%s) = %v, %v", text, l.instances, err)
		}
	}
	l, err := decode("s", 0, []byte(`{"instances":{"z1":[{"hostname":"a","metadata":null,"addrs":null}]}}`))
	if err != nil || len(l.instances) != 1 || l.instances[0].Endpoints != nil {
		t.Errorf("decode = %v, %v", l.instances, err)
	}
}

// A server, or something before it, that answers polls without waiting does not
// make the watcher spin.
func TestPollsAreSpaced(t *testing.T) {
	t.Parallel()
	const n = 6
	var polls atomic.Int64
	enough := make(chan struct{})
	p := newProxy(t, shared, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != pathPolls {
			return false
		}
		if polls.Add(1) == n {
			close(enough)
		}
		_, _ = w.Write([]byte(`{"code":-304}`))
		return true
	})
	d := open(t, []string{p.address})
	w := registrytest.Watch(t, d, t.Name())
	w.Next(within)
	start := time.Now()
	go w.Ended(within)
	<-enough
	if took := time.Since(start); took < (n-1)*askGap {
		t.Errorf("%d polls in %v", n, took)
	}
}

// A server that accepts and says nothing is one that does not answer.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	d := open(t, []string{listener.Addr().String()})
	start := time.Now()
	d.client.limit = requestTimeout
	if _, err := d.GetService(t.Context(), t.Name()); err == nil || time.Since(start) > within/2 {
		t.Errorf("GetService: %v after %v", err, time.Since(start))
	}
	d.client.limit = 2 * within
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	if err := d.Register(ctx, node(t.Name(), 1)); err != nil || time.Since(start) > within {
		t.Errorf("Register: %v after %v, want the deadline of the caller", err, time.Since(start))
	}
	w := registrytest.Watch(t, d, t.Name())
	w.MustEnd(within, context.Canceled, func() {
		start = time.Now()
		if err := d.Close(ctx); err == nil {
			t.Error("Close: no word about the registration it left")
		}
	})
	if took := time.Since(start); took > within {
		t.Errorf("Close took %v after its context had ended", took)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	var b backoff
	var most time.Duration
	for i := range 20 {
		d := b.next()
		bound := min(leastBackoff<<i, mostBackoff)
		if i > 6 {
			bound = mostBackoff
		}
		if d < bound/2 || d > bound {
			t.Errorf("wait %d: %v, want %v to %v", i, d, bound/2, bound)
		}
		most = max(most, d)
	}
	b.reset()
	if d := b.next(); d > leastBackoff || most <= leastBackoff {
		t.Errorf("%v after a reset", d)
	}
}

func TestErrorsNameNoParameters(t *testing.T) {
	t.Parallel()
	s := newServer(t) // not started
	d := open(t, []string{s.address})
	_, err := d.client.get(t.Context(), pathFetch, url.Values{"appid": {"visible"}})
	if err == nil || strings.Contains(err.Error(), "visible") {
		t.Errorf("error: %v", err)
	}
}
