package httpapi

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Config is the section [http].
type Config struct {
	Addr              string        `toml:"addr" doc:"address of the HTTP API, host:port; port 0 = any free port"`
	Timeout           time.Duration `toml:"timeout" doc:"deadline of one request; duration; 100ms to 2m, not below logic's append_timeout"`
	ReadHeaderTimeout time.Duration `toml:"read_header_timeout" doc:"time a caller has to send its request header; duration; 100ms to 1m"`
	ReadTimeout       time.Duration `toml:"read_timeout" doc:"time a caller has to send its whole request; duration; 100ms to 5m"`
	WriteTimeout      time.Duration `toml:"write_timeout" doc:"time from the request header to the end of the answer; duration; 100ms to 5m, above timeout"`
	IdleTimeout       time.Duration `toml:"idle_timeout" doc:"how long an idle connection is kept; duration; 1s to 1h"`
	MaxHeaderBytes    int           `toml:"max_header_bytes" doc:"largest request line and header, which bounds the list of keys or mids in a URL; bytes; 4096 to 16777216"`
	MaxPushes         int           `toml:"max_pushes" doc:"pushes under way at once; more are answered 429; count; 1 to 1000000"`
	TrustedProxies    []string      `toml:"trusted_proxies" doc:"networks (CIDR) whose X-Forwarded-For and X-Real-IP are believed; empty = nobody's"`
}

// DefaultConfig has goim's port.
func DefaultConfig() Config {
	return Config{
		Addr:              ":3111",
		Timeout:           10 * time.Second,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    1 << 20,
		MaxPushes:         1024,
	}
}

// Problems lists everything that is wrong, "key = value: what is allowed".
func (c *Config) Problems() []string {
	var p []string
	if !validAddr(c.Addr) {
		p = append(p, fmt.Sprintf("addr = %q: host:port or :port with a port of 0 to 65535", c.Addr))
	}
	p = durationIn(p, "timeout", c.Timeout, 100*time.Millisecond, 2*time.Minute)
	p = durationIn(p, "read_header_timeout", c.ReadHeaderTimeout, 100*time.Millisecond, time.Minute)
	p = durationIn(p, "read_timeout", c.ReadTimeout, 100*time.Millisecond, 5*time.Minute)
	p = durationIn(p, "write_timeout", c.WriteTimeout, 100*time.Millisecond, 5*time.Minute)
	if c.WriteTimeout <= c.Timeout {
		p = append(p, fmt.Sprintf("write_timeout = %v: above timeout (%v), or answers are cut off", c.WriteTimeout, c.Timeout))
	}
	p = durationIn(p, "idle_timeout", c.IdleTimeout, time.Second, time.Hour)
	p = countIn(p, "max_header_bytes", c.MaxHeaderBytes, 4096, 16<<20)
	p = countIn(p, "max_pushes", c.MaxPushes, 1, 1_000_000)
	for i, cidr := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			p = append(p, fmt.Sprintf("trusted_proxies[%d] = %q: a network like 10.0.0.0/8 or 2001:db8::/32", i, cidr))
		}
	}
	return p
}

func validAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func durationIn(p []string, key string, v, least, most time.Duration) []string {
	if v < least || v > most {
		p = append(p, fmt.Sprintf("%s = %v: %v to %v", key, v, least, most))
	}
	return p
}

func countIn(p []string, key string, v, least, most int) []string {
	if v < least || v > most {
		p = append(p, fmt.Sprintf("%s = %d: %d to %d", key, v, least, most))
	}
	return p
}
