package redistore

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Config is the section of the Redis that keeps timelines.
type Config struct {
	Addr         string        `toml:"addr" doc:"address of Redis; host:port; empty = the Redis of presence, with its user, password and database"`
	Cluster      bool          `toml:"cluster" doc:"whether addr is a node of a Redis Cluster; the others are found through it; true or false"`
	Username     string        `toml:"username" doc:"ACL user; empty = the default user"`
	Password     string        `toml:"password" secret:"true" doc:"password; empty = no AUTH is sent"`
	DB           int           `toml:"db" doc:"number of the database; 0 to 1023"`
	PoolSize     int           `toml:"pool_size" doc:"most connections at a time (to each master of a cluster), callers wait for one beyond it; 1 to 4096"`
	PoolIdle     int           `toml:"pool_idle" doc:"most connections kept open without work; 0 to pool_size"`
	DialTimeout  time.Duration `toml:"dial_timeout" doc:"time to connect; duration; 10ms to 1m"`
	ReadTimeout  time.Duration `toml:"read_timeout" doc:"time for the answers to one batch; duration; 10ms to 1m"`
	WriteTimeout time.Duration `toml:"write_timeout" doc:"time to write a batch; duration; 10ms to 1m"`
	IdleTTL      time.Duration `toml:"idle_ttl" doc:"how long the window of a timeline stays after its last message, when everything in it is archived or need not be; duration; 10m to 720h"`
	CursorTTL    time.Duration `toml:"cursor_ttl" doc:"how long the cursors of a user stay after its last ack; duration; 10m to 8760h"`
}

// pool is a pool for the Redis at an address.
func (c *Config) pool(addr string) *redisconn.Pool {
	return redisconn.NewPool(redisconn.Config{
		Addr: addr, Username: c.Username, Password: c.Password, DB: c.DB,
		PoolSize: c.PoolSize, PoolIdle: c.PoolIdle,
		DialTimeout: c.DialTimeout, ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout,
	})
}

// DefaultConfig is the Redis of presence, which the wiring fills in.
func DefaultConfig() Config {
	return Config{
		PoolSize:     64,
		PoolIdle:     16,
		DialTimeout:  time.Second,
		ReadTimeout:  3 * time.Second,
		WriteTimeout: 3 * time.Second,
		IdleTTL:      24 * time.Hour,
		CursorTTL:    30 * 24 * time.Hour,
	}
}

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	bad := func(key string, value any, allowed string) {
		problems = append(problems, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	if _, port, err := net.SplitHostPort(c.Addr); c.Addr != "" && (err != nil || !goodPort(port)) {
		bad("addr", strconv.Quote(c.Addr), "host:port with a port from 1 to 65535, or nothing")
	}
	if c.Username != "" && c.Password == "" {
		bad("username", strconv.Quote(c.Username), "only together with a password")
	}
	if c.DB < 0 || c.DB > 1023 {
		bad("db", c.DB, "0 to 1023")
	}
	if c.Cluster && c.DB != 0 {
		bad("db", c.DB, "0 on a cluster")
	}
	if c.PoolSize < 1 || c.PoolSize > 4096 {
		bad("pool_size", c.PoolSize, "1 to 4096")
	}
	if c.PoolIdle < 0 || c.PoolIdle > c.PoolSize {
		bad("pool_idle", c.PoolIdle, fmt.Sprintf("0 to pool_size (%d)", c.PoolSize))
	}
	for _, t := range []struct {
		key      string
		val      time.Duration
		min, max time.Duration
		allowed  string
	}{
		{"dial_timeout", c.DialTimeout, 10 * time.Millisecond, time.Minute, "10ms to 1m"},
		{"read_timeout", c.ReadTimeout, 10 * time.Millisecond, time.Minute, "10ms to 1m"},
		{"write_timeout", c.WriteTimeout, 10 * time.Millisecond, time.Minute, "10ms to 1m"},
		{"idle_ttl", c.IdleTTL, minIdle, 720 * time.Hour, "10m to 720h"},
		{"cursor_ttl", c.CursorTTL, minIdle, 8760 * time.Hour, "10m to 8760h"},
	} {
		if t.val < t.min || t.val > t.max {
			bad(t.key, t.val, t.allowed)
		}
	}
	return problems
}

// minIdle is far above the age of a seed: one that is accepted must never be
// older than the state that has expired.
const minIdle = 20 * timeline.MaxSeedAgeMS * time.Millisecond

func goodPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
