package grpcapi

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

// Config is the section [grpc].
type Config struct {
	Addr            string        `toml:"addr" doc:"address of the gRPC server for comet and job, host:port; port 0 = any free port"`
	Timeout         time.Duration `toml:"timeout" doc:"deadline of one call; duration; 100ms to 2m, above four times logic's presence_timeout"`
	MaxMessageBytes int           `toml:"max_message_bytes" doc:"largest message of a call; bytes; 65536 to 268435456, the same on comet and job"`
}

// DefaultConfig has goim's port.
func DefaultConfig() Config {
	return Config{Addr: ":3119", Timeout: 10 * time.Second, MaxMessageBytes: 16 << 20}
}

// Problems lists everything that is wrong, "key = value: what is allowed".
func (c *Config) Problems() []string {
	var p []string
	_, port, err := net.SplitHostPort(c.Addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		p = append(p, fmt.Sprintf("addr = %q: host:port or :port with a port of 0 to 65535", c.Addr))
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 2*time.Minute {
		p = append(p, fmt.Sprintf("timeout = %v: 100ms to 2m", c.Timeout))
	}
	if c.MaxMessageBytes < 64<<10 || c.MaxMessageBytes > 256<<20 {
		p = append(p, fmt.Sprintf("max_message_bytes = %d: 65536 to 268435456", c.MaxMessageBytes))
	}
	return p
}
