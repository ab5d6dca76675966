package logic

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Config is what logic decides by.
type Config struct {
	LeaseTTL        time.Duration `toml:"lease_ttl" doc:"how long a comet that stops refreshing counts as alive; duration; 3s to 10m"`
	RoomsTTL        time.Duration `toml:"rooms_ttl" doc:"how long the room counts of a comet that stops reporting are kept; duration; 10s to 1h"`
	OnlineInterval  time.Duration `toml:"online_interval" doc:"how often the cluster's room counts are read again; duration; 50ms to 10m"`
	NodesInterval   time.Duration `toml:"nodes_interval" doc:"how often the list of comets is read again; duration; 50ms to 1m"`
	PresenceTimeout time.Duration `toml:"presence_timeout" doc:"deadline of one presence call; duration; 50ms to 30s"`
	StateTimeout    time.Duration `toml:"state_timeout" doc:"how long a push may wait to learn who is online before it says unknown; duration; 10ms to 5s"`
	AppendTimeout   time.Duration `toml:"append_timeout" doc:"deadline for making a push durable in the log; duration; 100ms to 1m"`
	TimelineTimeout time.Duration `toml:"timeline_timeout" doc:"deadline of one call about stored messages, Redis and SQL together; below job.route_timeout; duration; 100ms to 1m"`
	MaxBodyBytes    int           `toml:"max_body_bytes" doc:"largest body of a push; bytes; 1 to 16776704, at most the log's max_record_bytes less 512"`
	MaxTargets      int           `toml:"max_targets" doc:"most targets of one push; count; 1 to 100000; a stored one has 1000 at most"`
	MaxTTL          time.Duration `toml:"max_ttl" doc:"longest time after which a push may expire; duration; 1s to 87600h"`
	MaxWait         time.Duration `toml:"max_wait" doc:"longest time that a push may wait until it is stored; duration; 10ms to 1m, append_timeout and max_wait together below the API's timeout"`
	RequestTTL      time.Duration `toml:"request_ttl" doc:"how long an Idempotency-Key that comes with another request is refused; duration; 1m to 720h"`

	Node    NodeConfig    `toml:"node"`
	Backoff BackoffConfig `toml:"backoff"`
	// Regions has goim's name; goim mapped provinces to regions and never
	// learned the province of a client.
	Regions map[string][]string `toml:"regions" doc:"client networks (CIDR) of each region, for nodes/weighted; the longest match wins"`
}

// NodeConfig is what nodes/weighted tells clients, and the heartbeat.
type NodeConfig struct {
	DefaultDomain string        `toml:"default_domain" doc:"offered to clients when no comet is known; not empty"`
	HostDomain    string        `toml:"host_domain" doc:"appended to a comet's host name for web clients; may be empty"`
	Heartbeat     time.Duration `toml:"heartbeat" doc:"how often clients shall send a heartbeat; duration; 1s to 24h"`
	HeartbeatMax  int           `toml:"heartbeat_max" doc:"heartbeats that may be missing before a session is closed; count; 1 to 100"`
	TCPPort       int           `toml:"tcp_port" doc:"TCP port told to clients; 0 (not told) to 65535"`
	WSPort        int           `toml:"ws_port" doc:"WebSocket port told to clients; 0 (not told) to 65535"`
	WSSPort       int           `toml:"wss_port" doc:"WebSocket-TLS port told to clients; 0 (not told) to 65535"`
	RegionWeight  float64       `toml:"region_weight" doc:"gain of a comet in the client's own region; 1 (none) to 1000"`
}

// BackoffConfig is the reconnect back-off told to clients.
type BackoffConfig struct {
	MaxDelay  int     `toml:"max_delay" doc:"longest delay before a client reconnects; seconds; 1 to 86400"`
	BaseDelay int     `toml:"base_delay" doc:"first delay before a client reconnects; seconds; 0 to 86400"`
	Factor    float64 `toml:"factor" doc:"growth of the delay per attempt; 1 to 100"`
	Jitter    float64 `toml:"jitter" doc:"random part of the delay; 0 to 10"`
}

// DefaultConfig has the values of goim's example file where goim has them.
func DefaultConfig() Config {
	return Config{
		LeaseTTL:        15 * time.Second,
		RoomsTTL:        time.Minute,
		OnlineInterval:  10 * time.Second,
		NodesInterval:   2 * time.Second,
		PresenceTimeout: 2 * time.Second,
		StateTimeout:    200 * time.Millisecond,
		AppendTimeout:   5 * time.Second,
		TimelineTimeout: 4 * time.Second,
		MaxBodyBytes:    999_488, // goim's 1,000,000 bytes of a Kafka record
		MaxTargets:      1000,
		MaxTTL:          30 * 24 * time.Hour,
		MaxWait:         3 * time.Second,
		RequestTTL:      24 * time.Hour,
		Node: NodeConfig{
			DefaultDomain: "localhost",
			Heartbeat:     4 * time.Minute,
			HeartbeatMax:  2,
			TCPPort:       3101,
			WSPort:        3102,
			RegionWeight:  1.6,
		},
		Backoff: BackoffConfig{MaxDelay: 300, BaseDelay: 3, Factor: 1.8, Jitter: 0.3},
	}
}

// Problems lists everything that is wrong, "key = value: what is allowed".
func (c *Config) Problems() []string {
	var p []string
	p = durationIn(p, "lease_ttl", c.LeaseTTL, 3*time.Second, 10*time.Minute)
	p = durationIn(p, "rooms_ttl", c.RoomsTTL, 10*time.Second, time.Hour)
	p = durationIn(p, "online_interval", c.OnlineInterval, 50*time.Millisecond, 10*time.Minute)
	p = durationIn(p, "nodes_interval", c.NodesInterval, 50*time.Millisecond, time.Minute)
	p = durationIn(p, "presence_timeout", c.PresenceTimeout, 50*time.Millisecond, 30*time.Second)
	p = durationIn(p, "state_timeout", c.StateTimeout, 10*time.Millisecond, 5*time.Second)
	p = durationIn(p, "append_timeout", c.AppendTimeout, 100*time.Millisecond, time.Minute)
	p = durationIn(p, "timeline_timeout", c.TimelineTimeout, 100*time.Millisecond, time.Minute)
	p = numberIn(p, "max_body_bytes", c.MaxBodyBytes, 1, 16<<20-512)
	p = numberIn(p, "max_targets", c.MaxTargets, 1, 100_000)
	p = durationIn(p, "max_ttl", c.MaxTTL, time.Second, 87600*time.Hour)
	p = durationIn(p, "max_wait", c.MaxWait, 10*time.Millisecond, time.Minute)
	p = durationIn(p, "request_ttl", c.RequestTTL, time.Minute, 720*time.Hour)
	for _, s := range c.Node.Problems() {
		p = append(p, "node."+s)
	}
	for _, s := range c.Backoff.Problems() {
		p = append(p, "backoff."+s)
	}
	return append(p, regionProblems(c.Regions)...)
}

// Problems lists everything that is wrong.
func (c *NodeConfig) Problems() []string {
	var p []string
	if c.DefaultDomain == "" {
		p = append(p, `default_domain = "": not empty`)
	}
	p = durationIn(p, "heartbeat", c.Heartbeat, time.Second, 24*time.Hour)
	p = numberIn(p, "heartbeat_max", c.HeartbeatMax, 1, 100)
	p = numberIn(p, "tcp_port", c.TCPPort, 0, 65535)
	p = numberIn(p, "ws_port", c.WSPort, 0, 65535)
	p = numberIn(p, "wss_port", c.WSSPort, 0, 65535)
	return numberIn(p, "region_weight", c.RegionWeight, 1, 1000)
}

// Problems lists everything that is wrong.
func (c *BackoffConfig) Problems() []string {
	p := numberIn(nil, "max_delay", c.MaxDelay, 1, 86400)
	p = numberIn(p, "base_delay", c.BaseDelay, 0, 86400)
	p = numberIn(p, "factor", c.Factor, 1, 100)
	return numberIn(p, "jitter", c.Jitter, 0, 10)
}

func regionProblems(regions map[string][]string) []string {
	names := make([]string, 0, len(regions))
	for name := range regions {
		names = append(names, name)
	}
	slices.Sort(names)
	var p []string
	owner := make(map[netip.Prefix]string)
	for _, name := range names {
		for _, cidr := range regions[name] {
			prefix, err := netip.ParsePrefix(cidr)
			if err != nil || prefix.Addr().Is4In6() {
				p = append(p, fmt.Sprintf("regions.%s has %q: networks like 10.1.0.0/16 or 2001:db8::/32 (goim's provinces were never looked up)", name, cidr))
				continue
			}
			prefix = prefix.Masked()
			if other, taken := owner[prefix]; taken && other != name {
				p = append(p, fmt.Sprintf("regions.%s has %q: a network of one region only, it is in %s too", name, cidr, other))
			}
			owner[prefix] = name
		}
	}
	return p
}

func durationIn(p []string, key string, v, least, most time.Duration) []string {
	if v < least || v > most {
		p = append(p, fmt.Sprintf("%s = %v: %v to %v", key, v, least, most))
	}
	return p
}

// numberIn is written so that NaN is a problem.
func numberIn[T int | float64](p []string, key string, v, least, most T) []string {
	if !(v >= least && v <= most) {
		p = append(p, fmt.Sprintf("%s = %v: %v to %v", key, v, least, most))
	}
	return p
}
