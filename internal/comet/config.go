package comet

import (
	"fmt"
	"strings"
	"time"
)

// Config bounds everything a client or a job can make this comet hold.
type Config struct {
	HandshakeTimeout time.Duration `toml:"handshake_timeout" doc:"from accept to the end of auth, as goim's handshakeTimeout; 100ms to 5m"`
	MaxBodyBytes     int           `toml:"max_body_bytes" doc:"body of a packet from a v2 client after auth, in bytes (v1 and before auth: 4096, as goim); 4096 to 1048576"`
	MaxRooms         int           `toml:"max_rooms" doc:"rooms of one v2 session; 1 to 10000"`
	MaxSessions      int           `toml:"max_sessions" doc:"connections of this comet; 0 = what the open-file limit allows"`
	OutboxBytes      int           `toml:"outbox_bytes" doc:"bytes that may wait for one client before the overflow rule applies; 4096 to 67108864"`
	Overflow         string        `toml:"overflow" doc:"what happens to a client whose outbox is full: close (as slow consumer) or drop (the message, counted)"`
	RoundBytes       int           `toml:"round_bytes" doc:"largest merged write of one room, in bytes; 1024 to outbox_bytes"`
	MergeWindows     []string      `toml:"merge_windows" doc:"room types whose messages wait a moment for others, to leave in one write: type=duration, for example live=50ms; 1ms to 10s"`
	TurnWrites       int           `toml:"turn_writes" doc:"writes of broadcasts in one turn of a loop before it looks at its sockets again; 16 to 100000"`
	BacklogBytes     int           `toml:"backlog_bytes" doc:"bytes of pushes that may wait in one loop, and again in its mailbox; 65536 to 1073741824"`
	ConnectWorkers   int           `toml:"connect_workers" doc:"concurrent calls to logic for auth and for disconnects; 1 to 256"`
	ConnectBatch     int           `toml:"connect_batch" doc:"sessions in one call to logic; 1 to 1024"`
	ConnectQueue     int           `toml:"connect_queue" doc:"sessions that may wait for auth; more are told to come back; 1 to 1000000"`
	UpstreamWorkers  int           `toml:"upstream_workers" doc:"concurrent calls to logic for sync, history and the like, each of one session; 1 to 1024"`
	UpstreamQueue    int           `toml:"upstream_queue" doc:"requests of each kind that may wait for such a call; more are answered 503; 1 to 1000000"`
	TopsPeriod       time.Duration `toml:"tops_period" doc:"logic is asked once in this time for the newest positions of what a v2 session reads; heartbeats tell them; 1s to 1h"`
	LogicTimeout     time.Duration `toml:"logic_timeout" doc:"deadline of one call to logic; 100ms to 1m"`
	LeaseInterval    time.Duration `toml:"lease_interval" doc:"how often the lease of this comet is renewed; a third of logic's lease_ttl or less; 100ms to 1m"`
	OnlineInterval   time.Duration `toml:"online_interval" doc:"how often room counts are exchanged (goim: 10s); lease_interval to 10m"`
	RenewPeriod      time.Duration `toml:"renew_period" doc:"every session's location is renewed once in this time; a third of logic's session_ttl or less; 1s to 1h"`
	JoinTimeout      time.Duration `toml:"join_timeout" doc:"how long the first join of a room waits until every job knows of it; 10ms to 10s"`
	DrainWindow      time.Duration `toml:"drain_window" doc:"time over which clients are told to leave when this comet stops; 0s to 1h"`
	Deflate          bool          `toml:"deflate" doc:"agree on permessage-deflate with WebSocket clients that offer it: pushes are compressed, once for all receivers on a loop; saves network, costs CPU here and at the clients"`
	DeflateMinBytes  int           `toml:"deflate_min_bytes" doc:"pushes that leave together are compressed from this size on, in bytes; 0 to 1048576"`
}

// DefaultConfig is the configuration of a comet that is told nothing.
func DefaultConfig() Config {
	return Config{
		HandshakeTimeout: 5 * time.Second,
		MaxBodyBytes:     64 << 10,
		MaxRooms:         128,
		OutboxBytes:      256 << 10,
		Overflow:         "close",
		RoundBytes:       32 << 10,
		TurnWrites:       64,
		BacklogBytes:     8 << 20,
		ConnectWorkers:   4,
		ConnectBatch:     128,
		ConnectQueue:     65_536,
		UpstreamWorkers:  32,
		UpstreamQueue:    65_536,
		TopsPeriod:       time.Minute,
		LogicTimeout:     3 * time.Second,
		LeaseInterval:    3 * time.Second,
		OnlineInterval:   10 * time.Second,
		RenewPeriod:      8 * time.Minute,
		JoinTimeout:      time.Second,
		DrainWindow:      5 * time.Second,
		DeflateMinBytes:  128,
	}
}

// Problems lists every setting that is out of range.
func (c *Config) Problems() []string {
	var p []string
	ints := func(key string, v, low, high int) {
		if v < low || v > high {
			p = append(p, fmt.Sprintf("%s = %d: allowed is %d to %d", key, v, low, high))
		}
	}
	durations := func(key string, v, low, high time.Duration) {
		if v < low || v > high {
			p = append(p, fmt.Sprintf("%s = %s: allowed is %s to %s", key, v, low, high))
		}
	}
	durations("handshake_timeout", c.HandshakeTimeout, 100*time.Millisecond, 5*time.Minute)
	ints("max_body_bytes", c.MaxBodyBytes, 4096, 1<<20)
	ints("max_rooms", c.MaxRooms, 1, 10_000)
	ints("max_sessions", c.MaxSessions, 0, maxSlots)
	ints("outbox_bytes", c.OutboxBytes, 4096, 64<<20)
	if _, err := mergeWindows(c.MergeWindows); err != nil {
		p = append(p, err.Error())
	}
	if c.Overflow != "close" && c.Overflow != "drop" {
		p = append(p, fmt.Sprintf(`overflow = %q: allowed is "close" or "drop"`, c.Overflow))
	}
	ints("round_bytes", c.RoundBytes, 1024, max(c.OutboxBytes, 1024))
	ints("turn_writes", c.TurnWrites, 16, 100_000)
	ints("backlog_bytes", c.BacklogBytes, 64<<10, 1<<30)
	ints("connect_workers", c.ConnectWorkers, 1, 256)
	ints("connect_batch", c.ConnectBatch, 1, 1024)
	ints("connect_queue", c.ConnectQueue, 1, 1_000_000)
	ints("upstream_workers", c.UpstreamWorkers, 1, 1024)
	ints("upstream_queue", c.UpstreamQueue, 1, 1_000_000)
	durations("tops_period", c.TopsPeriod, time.Second, time.Hour)
	durations("logic_timeout", c.LogicTimeout, 100*time.Millisecond, time.Minute)
	durations("lease_interval", c.LeaseInterval, 100*time.Millisecond, time.Minute)
	durations("online_interval", c.OnlineInterval, c.LeaseInterval, 10*time.Minute)
	durations("renew_period", c.RenewPeriod, time.Second, time.Hour)
	durations("join_timeout", c.JoinTimeout, 10*time.Millisecond, 10*time.Second)
	durations("drain_window", c.DrainWindow, 0, time.Hour)
	ints("deflate_min_bytes", c.DeflateMinBytes, 0, 1<<20)
	return p
}

// mergeWindows reads Config.MergeWindows.
func mergeWindows(entries []string) (map[string]time.Duration, error) {
	windows := map[string]time.Duration{}
	for _, e := range entries {
		typ, value, ok := strings.Cut(e, "=")
		d, err := time.ParseDuration(value)
		_, again := windows[typ]
		if !ok || typ == "" || again || err != nil || d < time.Millisecond || d > 10*time.Second {
			return nil, fmt.Errorf("merge_windows = %q: allowed is type=duration with 1ms to 10s, each type once", e)
		}
		windows[typ] = d
	}
	return windows, nil
}
