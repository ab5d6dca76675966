package redisreg

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

// Config is the section of the Redis that keeps presence.
type Config struct {
	Addr         string        `toml:"addr" doc:"address of Redis; host:port"`
	Username     string        `toml:"username" doc:"ACL user; empty = the default user"`
	Password     string        `toml:"password" secret:"true" doc:"password; empty = no AUTH is sent"`
	DB           int           `toml:"db" doc:"number of the database; 0 to 1023"`
	PoolSize     int           `toml:"pool_size" doc:"most connections at a time, callers wait for one beyond it; 1 to 4096"`
	PoolIdle     int           `toml:"pool_idle" doc:"most connections kept open without work; 0 to pool_size"`
	DialTimeout  time.Duration `toml:"dial_timeout" doc:"time to connect; duration; 10ms to 1m"`
	ReadTimeout  time.Duration `toml:"read_timeout" doc:"time for the answers to one batch; duration; 10ms to 1m"`
	WriteTimeout time.Duration `toml:"write_timeout" doc:"time to write a batch; duration; 10ms to 1m"`
	SessionTTL   time.Duration `toml:"session_ttl" doc:"how long a location stays without being renewed; duration; 10s to 24h"`

	BroadcastTTL  time.Duration `toml:"broadcast_ttl" doc:"how long the progress of a push to all at a speed, and that it was canceled, is kept after it was last heard of; duration; 1h to 168h"`
	MaxBroadcasts int           `toml:"max_broadcasts" doc:"most pushes to all at a speed whose progress is kept, and most that are canceled; count; 1 to 10000"`
}

// DefaultConfig is a Redis on this machine.
func DefaultConfig() Config {
	return Config{
		Addr:         "127.0.0.1:6379",
		PoolSize:     64,
		PoolIdle:     16,
		DialTimeout:  time.Second,
		ReadTimeout:  2 * time.Second,
		WriteTimeout: 2 * time.Second,
		SessionTTL:   30 * time.Minute,

		BroadcastTTL:  24 * time.Hour,
		MaxBroadcasts: 256,
	}
}

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	bad := func(key string, value any, allowed string) {
		problems = append(problems, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	if _, port, err := net.SplitHostPort(c.Addr); err != nil || !goodPort(port) {
		bad("addr", strconv.Quote(c.Addr), "host:port with a port from 1 to 65535")
	}
	if c.Username != "" && c.Password == "" {
		bad("username", strconv.Quote(c.Username), "only together with a password")
	}
	if c.DB < 0 || c.DB > 1023 {
		bad("db", c.DB, "0 to 1023")
	}
	if c.PoolSize < 1 || c.PoolSize > 4096 {
		bad("pool_size", c.PoolSize, "1 to 4096")
	}
	if c.PoolIdle < 0 || c.PoolIdle > c.PoolSize {
		bad("pool_idle", c.PoolIdle, fmt.Sprintf("0 to pool_size (%d)", c.PoolSize))
	}
	for _, t := range []struct {
		key string
		val time.Duration
	}{{"dial_timeout", c.DialTimeout}, {"read_timeout", c.ReadTimeout}, {"write_timeout", c.WriteTimeout}} {
		if t.val < 10*time.Millisecond || t.val > time.Minute {
			bad(t.key, t.val, "10ms to 1m")
		}
	}
	if c.SessionTTL < 10*time.Second || c.SessionTTL > 24*time.Hour {
		bad("session_ttl", c.SessionTTL, "10s to 24h")
	}
	if c.BroadcastTTL < time.Hour || c.BroadcastTTL > 7*24*time.Hour {
		bad("broadcast_ttl", c.BroadcastTTL, "1h to 168h")
	}
	if c.MaxBroadcasts < 1 || c.MaxBroadcasts > 10_000 {
		bad("max_broadcasts", c.MaxBroadcasts, "1 to 10000")
	}
	return problems
}

func goodPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
