package embedded

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Config is the section of the embedded servers.
type Config struct {
	DataDir        string        `toml:"data_dir" doc:"folder that keeps the records; made when missing; used by one process at a time"`
	KafkaAddr      string        `toml:"kafka_addr" doc:"address of the embedded Kafka; loopback IP:port, port 0 = any free one"`
	RedisAddr      string        `toml:"redis_addr" doc:"address of the embedded Redis; loopback IP:port, port 0 = any free one"`
	SyncWrites     bool          `toml:"sync_writes" doc:"write each batch of records to the disk before it is acknowledged, to survive a power failure; true or false"`
	Retention      time.Duration `toml:"retention" doc:"how long records are kept (the last one of a partition always is); duration; 1m to 8760h"`
	RetentionBytes int64         `toml:"retention_bytes" doc:"how much of a partition is kept; bytes; 4194304 or more"`
	RetentionCheck time.Duration `toml:"retention_check" doc:"how often old records are removed; duration; 1s to 1h"`
	Topics         []Topic       `toml:"-"`
}

// Topic is a topic that the embedded Kafka has. One that is there with another
// number of partitions keeps it: to change it would change which partition a
// timeline is in, with records in flight.
type Topic struct {
	Name       string
	Partitions int32
}

// DefaultConfig keeps a day of records below ./perseid-data, on free ports.
func DefaultConfig() Config {
	return Config{
		DataDir:        "perseid-data",
		KafkaAddr:      "127.0.0.1:0",
		RedisAddr:      "127.0.0.1:0",
		Retention:      24 * time.Hour,
		RetentionBytes: 256 << 20,
		RetentionCheck: time.Minute,
	}
}

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	bad := func(key string, value any, allowed string) {
		problems = append(problems, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	if c.DataDir == "" {
		bad("data_dir", `""`, "a folder")
	}
	checkAddr := func(key, addr string) {
		if !loopback(addr) {
			bad(key, strconv.Quote(addr), "a loopback IP and a port, such as 127.0.0.1:0")
		}
	}
	checkAddr("kafka_addr", c.KafkaAddr)
	checkAddr("redis_addr", c.RedisAddr)
	if c.Retention < time.Minute || c.Retention > 365*24*time.Hour {
		bad("retention", c.Retention, "1m to 8760h")
	}
	if c.RetentionBytes < minRetentionBytes {
		bad("retention_bytes", c.RetentionBytes, "4194304 or more")
	}
	if c.RetentionCheck < time.Second || c.RetentionCheck > time.Hour {
		bad("retention_check", c.RetentionCheck, "1s to 1h")
	}
	return problems
}

// loopback: kfake tells clients the address that it listens on, and has no
// authentication, so it must not be reachable from elsewhere.
func loopback(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
