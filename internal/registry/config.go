package registry

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The values of Config.Kind.
const (
	KindStatic    = "static"
	KindDiscovery = "discovery"
)

// Config is the section [registry].
type Config struct {
	Kind      string          `toml:"kind" doc:"where the addresses of the other nodes come from; static (this file, DNS) or discovery (bilibili/discovery)"`
	Static    StaticConfig    `toml:"static" doc:"kind static: addresses that stand here"`
	Discovery DiscoveryConfig `toml:"discovery" doc:"kind discovery: the bilibili/discovery cluster"`
}

// StaticConfig is the section [registry.static].
type StaticConfig struct {
	Comet           []string      `toml:"comet" doc:"gRPC addresses of the comets, host:port; may stay empty: jobs and logics find comets by their leases"`
	Logic           []string      `toml:"logic" doc:"gRPC addresses of the logics, host:port; each IP address of a host name is a node"`
	ResolveInterval time.Duration `toml:"resolve_interval" doc:"how often host names are resolved again; duration; 100ms to 1h"`
}

// Services returns the configured addresses by service name.
func (c StaticConfig) Services() map[string][]string {
	return map[string][]string{Comet: c.Comet, Logic: c.Logic}
}

// DiscoveryConfig is the section [registry.discovery].
type DiscoveryConfig struct {
	Nodes         []string      `toml:"nodes" doc:"addresses of the bilibili/discovery servers, host:port; at least one"`
	Region        string        `toml:"region" doc:"region this node registers in; may be empty"`
	Zone          string        `toml:"zone" doc:"zone this node registers in; not empty; nodes of all zones are seen"`
	Env           string        `toml:"env" doc:"deployment environment; not empty; only nodes of the same one are seen"`
	RenewInterval time.Duration `toml:"renew_interval" doc:"how often a registration is renewed (the server forgets it after 90s); duration; 1s to 60s"`
	PollTimeout   time.Duration `toml:"poll_timeout" doc:"how long the server holds a long poll, which bounds how late a missed change is seen; duration; 1s to 30s"`
}

// DefaultConfig serves all processes on one machine.
func DefaultConfig() Config {
	return Config{
		Kind: KindStatic,
		Static: StaticConfig{
			Comet:           []string{"127.0.0.1:3109"},
			Logic:           []string{"127.0.0.1:3119"},
			ResolveInterval: 5 * time.Second,
		},
		Discovery: DiscoveryConfig{
			Nodes:         []string{"127.0.0.1:7171"},
			Region:        "default",
			Zone:          "default",
			Env:           "prod",
			RenewInterval: 30 * time.Second,
			PollTimeout:   5 * time.Second,
		},
	}
}

// Problems lists everything that is wrong with the chosen kind; the section of
// the other kind is not looked at.
func (c *Config) Problems() []string {
	switch c.Kind {
	case KindStatic:
		return prefixed("static.", c.Static.Check())
	case KindDiscovery:
		return prefixed("discovery.", c.Discovery.Check())
	}
	return []string{fmt.Sprintf("kind = %q: %q or %q", c.Kind, KindStatic, KindDiscovery)}
}

// Check lists everything that is wrong. No addresses at all is allowed. It is
// not called Problems, because the loader asks every section that has that
// method, also the one of the kind that was not chosen.
func (c *StaticConfig) Check() []string {
	problems := addressProblems("comet", c.Comet)
	problems = append(problems, addressProblems("logic", c.Logic)...)
	return append(problems, durationProblems("resolve_interval", c.ResolveInterval, 100*time.Millisecond, time.Hour)...)
}

// Check lists everything that is wrong.
func (c *DiscoveryConfig) Check() []string {
	var problems []string
	if len(c.Nodes) == 0 {
		problems = append(problems, `nodes = []: at least one address of a bilibili/discovery server, host:port`)
	}
	problems = append(problems, addressProblems("nodes", c.Nodes)...)
	if c.Zone == "" {
		problems = append(problems, `zone = "": not empty`)
	}
	if c.Env == "" {
		problems = append(problems, `env = "": not empty`)
	}
	problems = append(problems, durationProblems("renew_interval", c.RenewInterval, time.Second, time.Minute)...)
	return append(problems, durationProblems("poll_timeout", c.PollTimeout, time.Second, 30*time.Second)...)
}

func prefixed(prefix string, problems []string) []string {
	for i := range problems {
		problems[i] = prefix + problems[i]
	}
	return problems
}

func durationProblems(key string, value, least, most time.Duration) []string {
	if value < least || value > most {
		return []string{fmt.Sprintf("%s = %v: %v to %v", key, value, least, most)}
	}
	return nil
}

func addressProblems(key string, addresses []string) []string {
	var wrong []string
	for _, address := range addresses {
		if _, _, err := SplitAddress(address); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if wrong == nil {
		return nil
	}
	return []string{fmt.Sprintf("%s = %q: each host:port with a port of 1 to 65535; %s", key, addresses, strings.Join(wrong, "; "))}
}

// SplitAddress checks and splits host:port. The port is a number of 1 to 65535.
func SplitAddress(address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Errorf("%q is not host:port", address)
	}
	if u, err := url.Parse("grpc://" + address); host == "" || err != nil || u.Host != address || strings.Contains(address, ",") {
		return "", "", fmt.Errorf("%q has no usable host", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", fmt.Errorf("%q has no usable port", address)
	}
	return host, port, nil
}
