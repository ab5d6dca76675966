package discovery

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/registry/registrytest"
)

func TestSuite(t *testing.T) {
	registrytest.Suite(t, func(t *testing.T) registrytest.Fixture {
		service := strings.ReplaceAll(t.Name(), "/", ".")
		here, there := open(t, []string{shared.address}, pollFor(time.Second)), open(t, []string{shared.address})
		present := make(map[int]bool)
		return registrytest.Fixture{
			Directory: here,
			Service:   service,
			Within:    within,
			Set: func(t *testing.T, ports ...int) {
				for _, port := range ports {
					if !present[port] {
						mustRegister(t, there, node(service, port))
						present[port] = true
					}
				}
				for port := range present {
					if !slices.Contains(ports, port) {
						mustDeregister(t, there, node(service, port))
						delete(present, port)
					}
				}
			},
		}
	})
}

func TestInstanceRoundTrip(t *testing.T) {
	t.Parallel()
	d, other := open(t, []string{shared.address}), open(t, []string{shared.address}, inZone("z2"))
	service := t.Name()
	instance := &registry.ServiceInstance{
		ID:        "comet-1 #1/ü",
		Name:      service,
		Version:   "v1.2+3",
		Metadata:  map[string]string{"weight": "10", "addrs": "1.2.3.4,5.6.7.8", "a&b=c": "ü\"\\"},
		Endpoints: []string{"grpc://127.0.0.1:3109", "http://127.0.0.1:80?isSecure=false"},
	}
	mustRegister(t, d, instance)
	mustRegister(t, other, node(service, 1)) // zones do not hide each other
	got := mustGet(t, d, service, 2)[0]
	if got.ID != instance.ID || got.Name != service || got.Version != instance.Version || !slices.Equal(got.Endpoints, instance.Endpoints) {
		t.Errorf("got %+v, registered %+v", got, instance)
	}
	want := maps.Clone(instance.Metadata)
	maps.Copy(want, map[string]string{directory.MetaRegion: "r1", directory.MetaZone: "z1", directory.MetaEnv: "test",
		directory.MetaUpdated: got.Metadata[directory.MetaUpdated]})
	if !maps.Equal(got.Metadata, want) || len(got.Metadata[directory.MetaUpdated]) != len("1700000000000000000") {
		t.Errorf("metadata %v, want %v", got.Metadata, want)
	}

	w := registrytest.Watch(t, d, service)
	w.Next(within)
	got.Metadata = map[string]string{"offline": "true"}
	got.Endpoints = []string{"grpc://127.0.0.1:3110"}
	mustRegister(t, d, got) // again: replaced, not merged
	w.Await(within, registrytest.Addresses(1, 3110)...)
	got = mustGet(t, d, service, 2)[0]
	if got.Metadata["offline"] != "true" || got.Metadata["weight"] != "" {
		t.Errorf("metadata %v after registering again", got.Metadata)
	}
	mustDeregister(t, d, instance)
	w.Await(within, registrytest.Addresses(1)...)
}

func TestEnvironmentsAreApart(t *testing.T) {
	t.Parallel()
	d := open(t, []string{shared.address})
	other := open(t, []string{shared.address}, func(c *directory.DiscoveryConfig) { c.Env = "other" })
	mustRegister(t, d, node(t.Name(), 1))
	mustGet(t, other, t.Name(), 0)
}

func TestManyInstancesOfOneHostAndProcess(t *testing.T) {
	t.Parallel()
	d := open(t, []string{shared.address})
	mustRegister(t, d, node(t.Name(), 1), node(t.Name(), 2), node(t.Name()+".other", 3))
	mustGet(t, d, t.Name(), 2)
	mustDeregister(t, d, node(t.Name(), 1))
	if left := mustGet(t, d, t.Name(), 1); left[0].ID != node("", 2).ID {
		t.Errorf("left %v", left)
	}
	mustGet(t, d, t.Name()+".other", 1)
	mustDeregister(t, d, node(t.Name(), 1)) // unknown to the server: nothing to do
}

func TestConcurrentRegisterAndDeregister(t *testing.T) {
	t.Parallel()
	d := open(t, []string{shared.address})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				var err error
				if i%2 == 0 {
					err = d.Register(t.Context(), node(t.Name(), 1))
				} else {
					err = d.Deregister(t.Context(), node(t.Name(), 1))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustDeregister(t, d, node(t.Name(), 1))
	mustGet(t, d, t.Name(), 0)
}

func TestRefusedInstances(t *testing.T) {
	t.Parallel()
	d := open(t, []string{shared.address})
	for name, instance := range map[string]*registry.ServiceInstance{
		"nil":            nil,
		"no ID":          {Name: "a", Endpoints: []string{"grpc://a:1"}},
		"no name":        {ID: "a", Endpoints: []string{"grpc://a:1"}},
		"no endpoints":   {ID: "a", Name: "a"},
		"empty endpoint": {ID: "a", Name: "a", Endpoints: []string{""}},
		"comma":          {ID: "a", Name: "a", Endpoints: []string{"grpc://a:1,grpc://b:1"}},
	} {
		if err := d.Register(t.Context(), instance); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := d.Deregister(t.Context(), nil); err == nil {
		t.Error("deregistered nil")
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Register(t.Context(), node("a", 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("Register after Close: %v", err)
	}
	if _, err := New(directory.DiscoveryConfig{}, nil); err == nil {
		t.Error("New accepted an empty configuration")
	}
}

func TestCloseDeregisters(t *testing.T) {
	t.Parallel()
	d, other := open(t, []string{shared.address}), open(t, []string{shared.address})
	mustRegister(t, d, node(t.Name(), 1), node(t.Name(), 2))
	if err := d.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustGet(t, other, t.Name(), 0)
}

// Symptom: after a restart of a crashed comet under a new ID, broadcasts came
// twice. Cause: the server lists the dead registration for up to an hour, with
// the address that the new process has now.
func TestNewestOwnsTheAddress(t *testing.T) {
	t.Parallel()
	d, reader := open(t, []string{shared.address}), open(t, []string{shared.address}, pollFor(time.Second))
	dead, live := node(t.Name(), 1), node(t.Name(), 1)
	dead.ID, live.ID = "a-dead", "z-live"
	mustRegister(t, d, dead)
	mustRegister(t, d, live)
	if got := mustGet(t, reader, t.Name(), 1)[0]; got.ID != "z-live" {
		t.Errorf("the address belongs to %s", got.ID)
	}
	mustDeregister(t, d, live)
	if got := mustGet(t, reader, t.Name(), 1)[0]; got.ID != "a-dead" {
		t.Errorf("the address belongs to %s", got.ID)
	}
}

// Symptom: changes in the first 30 s after a watcher started were seen 30 s
// late. Cause: the server keeps the poll of a client that went away, polls of
// one host name share a channel, and the dead poll takes the event from it.
func TestAbandonedPollsEatNothing(t *testing.T) {
	t.Parallel()
	d, writer := open(t, []string{shared.address}, pollFor(30*time.Second)), open(t, []string{shared.address})
	a, b := t.Name()+".a", t.Name()+".b"
	mustRegister(t, writer, node(a, 1), node(b, 1))

	// The trap: a dead poll of a, a live one of a and b, one host name; b changes.
	host := t.Name()
	l, err := d.fetch(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"env": {"test"}, "hostname": {host}, "appid": {a}, "latest_timestamp": {strconv.FormatInt(l.timestamp, 10)}}
	ctx, cancel := context.WithCancel(t.Context())
	dead := make(chan error, 1)
	go func() {
		_, err := d.client.once(ctx, 0, pathPolls, http.MethodGet, form, 20*time.Second)
		dead <- err
	}()
	eventually(t, "the poll of a", func() bool { return shared.output.count("Polls from("+host+")") == 1 })
	cancel()
	if err := <-dead; !errors.Is(err, context.Canceled) {
		t.Fatalf("poll: %v", err)
	}
	if l, err = d.fetch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	form["appid"] = append(form["appid"], b)
	form.Add("latest_timestamp", strconv.FormatInt(l.timestamp, 10))
	codes := make(chan int, 1)
	go func() {
		answer, err := d.client.once(t.Context(), 0, pathPolls, http.MethodGet, form, 2*time.Second)
		if err != nil {
			t.Error(err)
		}
		codes <- answer.code
	}()
	eventually(t, "the poll of a and b", func() bool { return shared.output.count("Polls from("+host+")") == 3 })
	mustRegister(t, writer, node(b, 2))
	if code := <-codes; code != codeNotModified {
		t.Errorf("the live poll was answered %d: the trap is not what it was", code)
	}

	for port := 3; port < 6; port++ {
		for range 3 {
			abandonPoll(t, d, a)
			abandonPoll(t, d, b)
		}
		polls := "Polls from(" + d.poller + "#"
		before := shared.output.count(polls)
		w := registrytest.Watch(t, d, b)
		w.Next(within)
		next := w.Start()
		// Symptom: now and then the change was seen when the poll ended, after 30 s.
		// Cause: a change between the server's look at the list and its note of
		// who waits is lost, so the poll must be there first.
		eventually(t, "the poll of the watch", func() bool { return shared.output.count(polls) > before })
		mustRegister(t, writer, node(b, port))
		start := time.Now()
		if got := next(within); len(got) != port || time.Since(start) > 20*time.Second { // of a poll of 30 s
			t.Errorf("%v seen after %v", got, time.Since(start))
		}
	}
}

// abandonPoll leaves a poll behind at the server.
func abandonPoll(t *testing.T, d *Directory, service string) {
	t.Helper()
	l, err := d.fetch(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, ok, err := d.poll(ctx, service, l); ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("poll = %v, %v; want it to wait", ok, err)
	}
}

// Two polls never share a host name, in a process or between two.
func TestHostNamesOfPollsAreUnique(t *testing.T) {
	t.Parallel()
	const n = 20
	enough := make(chan struct{})
	var mu sync.Mutex
	times := make(map[string]int)
	p := newProxy(t, shared, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != pathPolls {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		times[r.URL.Query().Get("hostname")]++
		if len(times) == n {
			close(enough)
		}
		_, _ = w.Write([]byte(`{"code":-304}`))
		return true
	})
	for range 2 {
		d := open(t, []string{p.address})
		for range 2 {
			go registrytest.Watch(t, d, t.Name()).Ended(within)
		}
	}
	select {
	case <-enough:
	case <-time.After(within):
	}
	mu.Lock()
	defer mu.Unlock()
	for name, polls := range times {
		if polls != 1 || name == "" {
			t.Errorf("%d polls of %q", polls, name)
		}
	}
	if len(times) < n {
		t.Errorf("only %d host names", len(times))
	}
}

// Symptom: the last comet left and jobs went on sending to it for ever. Cause:
// the server wakes no poll when an app has no instance left, and the official
// client drops empty answers.
func TestLastInstanceLeavesWithDefaultTimes(t *testing.T) {
	t.Parallel()
	d, writer := open(t, []string{shared.address}), open(t, []string{shared.address})
	mustRegister(t, writer, node(t.Name(), 1))
	w := registrytest.Watch(t, d, t.Name())
	w.Await(within, registrytest.Addresses(1)...)
	mustDeregister(t, writer, node(t.Name(), 1))
	if took := w.Await(within); took > 20*time.Second { // 5 s, and a pause of the machine
		t.Errorf("seen after %v, want 5s", took)
	} else {
		t.Logf("seen after %v", took)
	}
}

// The first instance is seen at once, while a poll waits.
func TestFirstInstanceWakesThePoll(t *testing.T) {
	t.Parallel()
	d, writer := open(t, []string{shared.address}, pollFor(30*time.Second)), open(t, []string{shared.address})
	mustRegister(t, writer, node(t.Name(), 1))
	mustDeregister(t, writer, node(t.Name(), 1))
	w := registrytest.Watch(t, d, t.Name())
	w.Await(within)
	next := w.Start()
	eventually(t, "the poll of the watch", func() bool { return shared.output.count("Polls from("+d.poller+"#") > 0 })
	mustRegister(t, writer, node(t.Name(), 2))
	start := time.Now()
	if got := next(within); !slices.Equal(got, registrytest.Addresses(2)) || time.Since(start) > 20*time.Second {
		t.Errorf("%v seen after %v", got, time.Since(start))
	}
}

// Symptom: a change of the metadata was never seen. Cause: a poll that is not
// at the server at that moment is told by the timestamp that nothing changed.
// The fetch after an empty poll sees it.
func TestChangeWithoutTimestampIsSeen(t *testing.T) {
	t.Parallel()
	d, writer := open(t, []string{shared.address}, pollFor(time.Second)), open(t, []string{shared.address})
	mustRegister(t, writer, node(t.Name(), 1))
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	watcher, err := d.Watch(ctx, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	if _, err := watcher.Next(); err != nil {
		t.Fatal(err)
	}
	// Nobody polls now. /discovery/set changes the instance, not the timestamp.
	form := writer.identify(node(t.Name(), 1))
	form.Set("metadata", `{"offline":"true"}`)
	if a, err := writer.client.post(t.Context(), "/discovery/set", form); err != nil || a.code != codeOK {
		t.Fatalf("set: %+v, %v", a, err)
	}
	instances, err := watcher.Next()
	if err != nil || len(instances) != 1 || instances[0].Metadata["offline"] != "true" {
		t.Fatalf("Next = %v, %v", instances, err)
	}
}
