package static

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kratos/kratos/v2/registry"

	"github.com/perseid-im/perseid/internal/leakcheck"
	directory "github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/registry/registrytest"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// zone is DNS: what a name resolves to, which a test changes.
type zone struct {
	mu    sync.Mutex
	addrs map[string][]string
	errs  map[string]error
	asked int
}

func (z *zone) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	if err := z.errs[host]; err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range z.addrs[host] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	if addrs == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, ctx.Err()
}

func (z *zone) set(host string, err error, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addrs[host], z.errs[host] = addrs, err
}

func newZone() *zone { return &zone{addrs: make(map[string][]string), errs: make(map[string]error)} }

func open(t *testing.T, z Resolver, comets ...string) *Directory {
	t.Helper()
	d, err := New(directory.StaticConfig{Comet: comets, ResolveInterval: 5 * time.Second}, z, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

func ids(instances []*registry.ServiceInstance) []string {
	var ids []string
	for _, i := range instances {
		ids = append(ids, i.ID)
	}
	return ids
}

func mustNext(t *testing.T, w registry.Watcher, want ...string) {
	t.Helper()
	instances, err := w.Next()
	if err != nil || !slices.Equal(ids(instances), want) {
		t.Fatalf("Next = %v, %v; want %v", ids(instances), err, want)
	}
}

func TestSuite(t *testing.T) {
	registrytest.Suite(t, func(t *testing.T) registrytest.Fixture {
		d := open(t, newZone())
		return registrytest.Fixture{
			Directory: d,
			Service:   directory.Comet,
			Within:    time.Minute,
			Set: func(t *testing.T, ports ...int) {
				if err := d.Set(directory.Comet, registrytest.Addresses(ports...)); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func TestConfiguredAddressesAreThereAtOnce(t *testing.T) {
	d := open(t, newZone(), "127.0.0.1:3109", "[::1]:3109", "127.0.0.1:3109")
	instances, err := d.GetService(t.Context(), directory.Comet)
	if err != nil || !slices.Equal(ids(instances), []string{"127.0.0.1:3109", "[::1]:3109"}) {
		t.Fatalf("GetService = %v, %v", ids(instances), err)
	}
	if got := instances[1].Endpoints; !slices.Equal(got, []string{"grpc://[::1]:3109"}) {
		t.Errorf("endpoints %v", got)
	}
	if err := d.Set(directory.Comet, []string{"127.0.0.1:0"}); err == nil {
		t.Error("Set accepted port 0")
	}
	if instances, _ := d.GetService(t.Context(), directory.Comet); len(instances) != 2 {
		t.Errorf("a refused Set changed the list: %v", ids(instances))
	}
}

func TestSystemResolver(t *testing.T) {
	d := open(t, net.DefaultResolver, "localhost:3109")
	instances, err := d.GetService(t.Context(), directory.Comet)
	if err != nil || !slices.Equal(ids(instances), []string{"127.0.0.1:3109"}) {
		t.Fatalf("GetService = %v, %v; want IPv4 of localhost only", ids(instances), err)
	}
}

func TestHeadlessServiceIsResolvedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.set("comet.svc", nil, "10.0.0.2", "10.0.0.1", "::ffff:10.0.0.1")
		d := open(t, z, "comet.svc:3109")
		start := time.Now()
		w, err := d.Watch(t.Context(), directory.Comet)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		mustNext(t, w, "10.0.0.1:3109", "10.0.0.2:3109")

		z.set("comet.svc", nil, "10.0.0.2", "10.0.0.3")
		mustNext(t, w, "10.0.0.2:3109", "10.0.0.3:3109")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("seen after %v, want the resolve interval", took)
		}

		z.set("comet.svc", nil) // no pod is ready: the name is gone
		mustNext(t, w)

		z.set("comet.svc", nil, "10.0.0.4", "fd00::4") // dual stack: one pod, two addresses
		mustNext(t, w, "10.0.0.4:3109")

		z.set("comet.svc", nil, "fd00::5")
		mustNext(t, w, "[fd00::5]:3109")
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("four changes after %v, want one per interval", took)
		}
	})
}

func TestFailingDNSKeepsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.set("comet.svc", nil, "10.0.0.1")
		d := open(t, z, "comet.svc:3109")
		w, err := d.Watch(t.Context(), directory.Comet)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		mustNext(t, w, "10.0.0.1:3109")

		z.set("comet.svc", &net.DNSError{Err: "server misbehaving", IsTemporary: true})
		time.Sleep(time.Minute) // fake time
		instances, err := d.GetService(t.Context(), directory.Comet)
		if err != nil || len(instances) != 1 {
			t.Fatalf("GetService = %v, %v while DNS fails", ids(instances), err)
		}
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
		z.set("comet.svc", nil, "10.0.0.1", "10.0.0.2")
		mustNext(t, w, "10.0.0.1:3109", "10.0.0.2:3109") // and no empty list before it
	})
}

func TestDNSDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.set("comet.svc", errors.New("no server"))
		d := open(t, z, "comet.svc:3109")
		if _, err := d.GetService(t.Context(), directory.Comet); err == nil || !strings.Contains(err.Error(), "comet.svc") {
			t.Errorf("GetService: %v, want an error with the name", err)
		}
		if d.Ready() == nil {
			t.Error("Ready while nothing was resolved")
		}
		w, err := d.Watch(t.Context(), directory.Comet)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		time.AfterFunc(12*time.Second, func() { z.set("comet.svc", nil, "10.0.0.1") })
		start := time.Now()
		mustNext(t, w, "10.0.0.1:3109") // not an empty list before
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("seen after %v", took)
		}
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
	})
}

// blocked is a DNS that does not answer.
type blocked struct{}

func (blocked) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestSilentDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, blocked{}, "comet.svc:3109")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.GetService(ctx, directory.Comet); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("GetService: %v, want the deadline of the caller", err)
		}
		start := time.Now()
		if _, err := d.GetService(t.Context(), directory.Comet); err == nil || time.Since(start) != lookupTimeout-time.Second {
			t.Errorf("GetService: %v after %v, want an error when the question timed out", err, time.Since(start))
		}
	})
}

func TestCloseDoesNotWaitForDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, blocked{}, "comet.svc:3109")
		synctest.Wait()
		start := time.Now()
		if err := d.Close(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
	})
}

func TestSetOfANameIsResolvedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		z.set("comet.svc", nil, "10.0.0.1")
		d := open(t, z)
		synctest.Wait() // the first round is over, the next is an interval away
		start := time.Now()
		w, err := d.Watch(t.Context(), directory.Comet)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		mustNext(t, w)
		if err := d.Set(directory.Comet, []string{"comet.svc:3109", "comet.svc:3110"}); err != nil {
			t.Fatal(err)
		}
		mustNext(t, w, "10.0.0.1:3109", "10.0.0.1:3110")
		if took := time.Since(start); took != 0 {
			t.Errorf("seen after %v", took)
		}
		if z.asked != 1 {
			t.Errorf("DNS was asked %d times for one name", z.asked)
		}
	})
}

func TestChangeAndBackIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, newZone(), "127.0.0.1:1")
		w, err := d.Watch(t.Context(), directory.Comet)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		mustNext(t, w, "127.0.0.1:1")
		for _, addresses := range [][]string{{"127.0.0.1:2"}, {"127.0.0.1:1"}} {
			if err := d.Set(directory.Comet, addresses); err != nil {
				t.Fatal(err)
			}
		}
		got := make(chan []string, 1)
		go func() {
			instances, _ := w.Next()
			got <- ids(instances)
		}()
		synctest.Wait() // Next has seen that nothing differs, and waits
		if err := d.Set(directory.Comet, []string{"127.0.0.1:3"}); err != nil {
			t.Fatal(err)
		}
		if got := <-got; !slices.Equal(got, []string{"127.0.0.1:3"}) {
			t.Errorf("Next = %v", got)
		}
	})
}
