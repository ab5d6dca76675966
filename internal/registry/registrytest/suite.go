// Package registrytest is the behaviour that every node directory shows, as a
// test suite that each implementation runs on itself, and what their tests
// share.
//
// # Ownership
//
// It is used by tests only. The fixture belongs to the test that opened it.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	directory "github.com/perseid-im/perseid/internal/registry"
)

// Fixture is a directory under test, and the hand that changes what it sees.
type Fixture struct {
	Directory directory.Directory
	// Service is a name no other test uses; it starts without instances.
	Service string
	// Set makes the instances of Service those at 127.0.0.1:port, and no others.
	Set func(t *testing.T, ports ...int)
	// Within is how soon a change must be seen.
	Within time.Duration
}

// Suite runs every behaviour on a fresh fixture.
func Suite(t *testing.T, open func(t *testing.T) Fixture) {
	for name, behaviour := range map[string]func(*testing.T, Fixture){
		"a service nobody knows is empty":        nobody,
		"the first answer comes even if empty":   firstIsEmpty,
		"the first answer is the present state":  firstIsPresent,
		"changes are seen, also the last leave":  changes,
		"all watchers see a change":              twoWatchers,
		"what is returned belongs to the caller": private,
		"stop wakes next":                        stopWakes,
		"the end of the context wakes":           contextWakes,
		"close wakes next and ends it all":       closeWakes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			behaviour(t, open(t))
		})
	}
}

func nobody(t *testing.T, f Fixture) {
	instances, err := f.Directory.GetService(t.Context(), f.Service)
	if err != nil || instances == nil || len(instances) != 0 {
		t.Fatalf("GetService = %v, %v; want an empty list", instances, err)
	}
	if err := f.Directory.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
}

func firstIsEmpty(t *testing.T, f Fixture) {
	w := Watch(t, f.Directory, f.Service)
	if got := w.Next(f.Within); len(got) != 0 {
		t.Fatalf("first Next = %v, want an empty list", got)
	}
}

func firstIsPresent(t *testing.T, f Fixture) {
	f.Set(t, 1001, 1002)
	w := Watch(t, f.Directory, f.Service)
	if got := w.Next(f.Within); !slices.Equal(got, Addresses(1001, 1002)) {
		t.Fatalf("first Next = %v, want both", got)
	}
	instances, err := f.Directory.GetService(t.Context(), f.Service)
	if err != nil || len(instances) != 2 {
		t.Fatalf("GetService = %v, %v; want two", instances, err)
	}
	for _, i := range instances {
		if i.Name != f.Service || i.ID == "" {
			t.Errorf("instance %+v: wrong name or no ID", i)
		}
	}
}

func changes(t *testing.T, f Fixture) {
	w := Watch(t, f.Directory, f.Service)
	w.Await(f.Within)
	for _, ports := range [][]int{{1001}, {1001, 1002}, {1002}, {1003}, {}, {1001}, {}} {
		f.Set(t, ports...)
		w.Await(f.Within, Addresses(ports...)...)
	}
}

func twoWatchers(t *testing.T, f Fixture) {
	a, b := Watch(t, f.Directory, f.Service), Watch(t, f.Directory, f.Service)
	a.Await(f.Within)
	b.Await(f.Within)
	f.Set(t, 1001)
	a.Await(f.Within, Addresses(1001)...)
	b.Await(f.Within, Addresses(1001)...)
	if err := a.watcher.Stop(); err != nil {
		t.Errorf("Stop: %v", err)
	}
	f.Set(t, 1002)
	b.Await(f.Within, Addresses(1002)...)
}

func private(t *testing.T, f Fixture) {
	f.Set(t, 1001)
	watcher, err := f.Directory.Watch(t.Context(), f.Service)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	first, err := watcher.Next()
	if err != nil || len(first) != 1 {
		t.Fatalf("Next = %v, %v", first, err)
	}
	spoil := func(instances []*registry.ServiceInstance) {
		instances[0].ID, instances[0].Endpoints[0] = "spoilt", "grpc://spoilt:1"
		for k := range instances[0].Metadata {
			instances[0].Metadata[k] = "spoilt"
		}
	}
	spoil(first)
	instances, err := f.Directory.GetService(t.Context(), f.Service)
	if err != nil || !slices.Equal(addressesOf(instances), Addresses(1001)) {
		t.Fatalf("GetService = %v, %v after the caller changed what it got", instances, err)
	}
	spoil(instances)
	f.Set(t, 1001, 1002)
	second, err := watcher.Next()
	if err != nil || !slices.Equal(addressesOf(second), Addresses(1001, 1002)) {
		t.Fatalf("Next = %v, %v after the caller changed what it got", second, err)
	}
}

func stopWakes(t *testing.T, f Fixture) {
	w := Watch(t, f.Directory, f.Service)
	w.Await(f.Within)
	w.MustEnd(f.Within, context.Canceled, func() {
		if err := w.watcher.Stop(); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	if _, err := w.watcher.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("Next after Stop: %v", err)
	}
	if err := w.watcher.Stop(); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func contextWakes(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watcher, err := f.Directory.Watch(ctx, f.Service)
	if err != nil {
		t.Fatal(err)
	}
	w := &Watcher{t: t, watcher: watcher}
	w.Await(f.Within)
	w.MustEnd(f.Within, context.Canceled, cancel)
	_ = watcher.Stop()
}

func closeWakes(t *testing.T, f Fixture) {
	w := Watch(t, f.Directory, f.Service)
	w.Await(f.Within)
	w.MustEnd(f.Within, context.Canceled, func() {
		if err := f.Directory.Close(t.Context()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if _, err := f.Directory.GetService(t.Context(), f.Service); err == nil {
		t.Error("GetService after Close: no error")
	}
	if _, err := f.Directory.Watch(t.Context(), f.Service); err == nil {
		t.Error("Watch after Close: no error")
	}
	if err := f.Directory.Ready(); err == nil {
		t.Error("Ready after Close: no error")
	}
	if err := f.Directory.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// Addresses returns the sorted addresses of instances at 127.0.0.1:port.
func Addresses(ports ...int) []string {
	addresses := make([]string, 0, len(ports))
	for _, port := range ports {
		addresses = append(addresses, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	slices.Sort(addresses)
	return addresses
}

func addressesOf(instances []*registry.ServiceInstance) []string {
	addresses := make([]string, 0, len(instances))
	for _, i := range instances {
		addresses = append(addresses, directory.GRPCAddress(i))
	}
	slices.Sort(addresses)
	return addresses
}

// Watcher makes a test of a watcher end in time.
type Watcher struct {
	t       *testing.T
	watcher registry.Watcher
	last    []string
	given   bool
}

// Watch opens a watcher that the end of the test stops.
func Watch(t *testing.T, d registry.Discovery, service string) *Watcher {
	t.Helper()
	watcher, err := d.Watch(context.WithoutCancel(t.Context()), service)
	if err != nil {
		t.Fatalf("Watch: %v", err)
	}
	t.Cleanup(func() { _ = watcher.Stop() })
	return &Watcher{t: t, watcher: watcher}
}

type answer struct {
	instances []*registry.ServiceInstance
	err       error
}

func (w *Watcher) next() <-chan answer {
	got := make(chan answer, 1)
	go func() {
		instances, err := w.watcher.Next()
		got <- answer{instances, err}
	}()
	return got
}

// Next returns the sorted addresses of the next answer, which must come in time
// and differ from the one before.
func (w *Watcher) Next(within time.Duration) []string {
	w.t.Helper()
	return w.Start()(within)
}

// Start begins to wait for the next answer, and returns what Next would do from
// there.
func (w *Watcher) Start() (next func(within time.Duration) []string) {
	pending := w.next()
	return func(within time.Duration) []string {
		w.t.Helper()
		addresses, err := w.take(pending, within)
		if err != nil {
			w.t.Fatal(err)
		}
		return addresses
	}
}

func (w *Watcher) take(pending <-chan answer, within time.Duration) ([]string, error) {
	w.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	select {
	case a := <-pending:
		if a.err != nil {
			return nil, fmt.Errorf("next: %w", a.err)
		}
		addresses := addressesOf(a.instances)
		if w.given && slices.Equal(addresses, w.last) {
			w.t.Errorf("Next returned %v again", addresses)
		}
		w.last, w.given = addresses, true
		return addresses, nil
	case <-deadline.C:
		_ = w.watcher.Stop()
		<-pending
		return nil, fmt.Errorf("next: no answer within %v", within)
	}
}

// Await reads answers until one has exactly these addresses, in all within the
// given time, and returns how long that took.
func (w *Watcher) Await(within time.Duration, addresses ...string) time.Duration {
	w.t.Helper()
	start := time.Now()
	for {
		got, err := w.take(w.next(), within-time.Since(start))
		if err != nil {
			w.t.Fatalf("waiting for %v: %v (last answer %v)", addresses, err, w.last)
		}
		if slices.Equal(got, addresses) {
			return time.Since(start)
		}
	}
}

// MustEnd calls end while Next waits, which must then return the error.
func (w *Watcher) MustEnd(within time.Duration, want error, end func()) {
	w.t.Helper()
	pending := w.next()
	select {
	case a := <-pending:
		w.t.Fatalf("Next = %v, %v without a change", a.instances, a.err)
	default:
	}
	end()
	select {
	case a := <-pending:
		if !errors.Is(a.err, want) {
			w.t.Errorf("Next = %v, %v; want %v", a.instances, a.err, want)
		}
	case <-time.After(within):
		w.t.Fatalf("Next still waits after %v", within)
	}
}

// Ended keeps asking until the watcher is stopped, and ignores what it says.
func (w *Watcher) Ended(within time.Duration) {
	deadline := time.AfterFunc(within, func() { _ = w.watcher.Stop() })
	defer deadline.Stop()
	for {
		if _, err := w.watcher.Next(); err != nil {
			return
		}
	}
}
