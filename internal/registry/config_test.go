package registry

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	kregistry "github.com/go-kratos/kratos/v2/registry"

	"github.com/perseid-im/perseid/internal/config"
)

func TestConfigProblems(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Config)
		want   []string // the key of each problem, in order
	}{
		{"default", func(*Config) {}, nil},
		{"default of discovery", func(c *Config) { c.Kind = KindDiscovery }, nil},
		{"kind", func(c *Config) { c.Kind = "etcd" }, []string{"kind"}},
		{"no kind", func(c *Config) { c.Kind = "" }, []string{"kind"}},
		{"nobody is a state", func(c *Config) { c.Static.Comet, c.Static.Logic = nil, nil }, nil},
		{"names and both families", func(c *Config) { c.Static.Comet = []string{"comet.perseid.svc:3109", "[::1]:3109"} }, nil},
		{"all of static at once", func(c *Config) {
			c.Static = StaticConfig{
				Comet: []string{"127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:grpc"},
				Logic: []string{":3119", "grpc://127.0.0.1:3119", "a,b:3119", "a/b:3119"},
			}
		}, []string{"static.comet", "static.logic", "static.resolve_interval"}},
		{"the other kind is not looked at", func(c *Config) { c.Discovery = DiscoveryConfig{} }, nil},
		{"all of discovery at once", func(c *Config) { c.Kind = KindDiscovery; c.Discovery = DiscoveryConfig{} },
			[]string{"discovery.nodes", "discovery.zone", "discovery.env", "discovery.renew_interval", "discovery.poll_timeout"}},
		{"beyond what the server keeps", func(c *Config) {
			c.Kind = KindDiscovery
			c.Discovery.RenewInterval, c.Discovery.PollTimeout = 61*time.Second, 31*time.Second
			c.Discovery.Nodes = []string{"127.0.0.1:7171", "http://127.0.0.1:7171"}
		}, []string{"discovery.nodes", "discovery.renew_interval", "discovery.poll_timeout"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			c.change(&cfg)
			var keys []string
			for _, problem := range cfg.Problems() {
				key, allowed, found := strings.Cut(problem, " = ")
				if !found || !strings.Contains(allowed, ": ") {
					t.Errorf("problem %q is not of the form key = value: what is allowed", problem)
				}
				keys = append(keys, key)
			}
			if !slices.Equal(keys, c.want) {
				t.Errorf("problems of %v, want %v", keys, c.want)
			}
		})
	}
}

func TestLoadedConfig(t *testing.T) {
	load := func(sets ...string) string {
		c := struct {
			Registry Config `toml:"registry" doc:"node directory"`
		}{DefaultConfig()}
		if err := config.Load(&c, config.Options{Sets: sets}); err != nil {
			return err.Error()
		}
		return ""
	}
	if got := load("registry.discovery.zone="); got != "" {
		t.Errorf("the kind that was not chosen was checked: %s", got)
	}
	got := load("registry.kind=discovery", "registry.discovery.zone=", "registry.discovery.nodes=a:1,b:0,c", "registry.discovery.poll_timeout=31s")
	for _, want := range []string{"registry.discovery.zone", "registry.discovery.nodes", `"b:0" has no usable port`, `"c" is not host:port`,
		"registry.discovery.poll_timeout", "1s to 30s"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not there once in:\n%s", want, got)
		}
	}
}

// Each wrong address is named by the problem of its key.
func TestWrongAddresses(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:grpc", ":3119", "grpc://127.0.0.1:3119", "a,b:3119", "a/b:3119", ""} {
		c := StaticConfig{Comet: []string{"127.0.0.1:1", address}, ResolveInterval: time.Second}
		if problems := c.Check(); len(problems) != 1 || strings.Count(problems[0], strconv.Quote(address)) != 2 {
			t.Errorf("%q: problems %q", address, problems)
		}
	}
}

func TestSame(t *testing.T) {
	base := func() *kregistry.ServiceInstance {
		return &kregistry.ServiceInstance{ID: "a", Name: Comet, Version: "1",
			Metadata: map[string]string{"weight": "10", MetaUpdated: "5"}, Endpoints: []string{"grpc://b:1", "grpc://a:1"}}
	}
	cases := []struct {
		name   string
		change func(*kregistry.ServiceInstance)
		want   bool
	}{
		{"nothing", func(*kregistry.ServiceInstance) {}, true},
		{"only the time of the change", func(i *kregistry.ServiceInstance) { i.Metadata[MetaUpdated] = "6" }, true},
		{"the time of the change is missing", func(i *kregistry.ServiceInstance) { delete(i.Metadata, MetaUpdated) }, true},
		{"id", func(i *kregistry.ServiceInstance) { i.ID = "b" }, false},
		{"version", func(i *kregistry.ServiceInstance) { i.Version = "2" }, false},
		{"endpoint", func(i *kregistry.ServiceInstance) { i.Endpoints[0] = "grpc://c:1" }, false},
		{"metadata value", func(i *kregistry.ServiceInstance) { i.Metadata["weight"] = "11" }, false},
		{"metadata more", func(i *kregistry.ServiceInstance) { i.Metadata["offline"] = "" }, false},
		{"metadata less", func(i *kregistry.ServiceInstance) { delete(i.Metadata, "weight") }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, b := base(), Clone(base())
			c.change(b)
			if got := Same([]*kregistry.ServiceInstance{a}, []*kregistry.ServiceInstance{b}); got != c.want {
				t.Errorf("Same = %v, want %v", got, c.want)
			}
			if a.Endpoints[0] != "grpc://b:1" {
				t.Error("the endpoints were reordered in place")
			}
		})
	}
}

func TestGRPCAddress(t *testing.T) {
	for want, endpoints := range map[string][]string{
		"10.0.0.1:9000": {"http://10.0.0.1:8000", "grpc://10.0.0.1:9000?isSecure=false", "grpc://10.0.0.1:9001"},
		"[::1]:9000":    {"grpc://[::1]:9000"},
		"":              {"http://10.0.0.1:8000", "10.0.0.1:9000"},
	} {
		if got := GRPCAddress(&kregistry.ServiceInstance{Endpoints: endpoints}); got != want {
			t.Errorf("GRPCAddress(%v) = %q, want %q", endpoints, got, want)
		}
	}
}
