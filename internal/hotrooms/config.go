package hotrooms

import (
	"fmt"
	"time"
)

// Config is what a tracker decides by; the same for all logics.
type Config struct {
	Window        time.Duration `toml:"window" doc:"how long one who spoke in a room counts there; duration; 10s to 1h"`
	Interval      time.Duration `toml:"interval" doc:"how often the ranking is built again, by one of all logics; duration; 100ms to 1m"`
	FlushInterval time.Duration `toml:"flush_interval" doc:"how often new speakers are counted; duration; 10ms to 30s"`
	Timeout       time.Duration `toml:"timeout" doc:"deadline of counting or building; duration; 100ms to 1m"`
	Rooms         int           `toml:"rooms" doc:"rooms of the ranking; count; 1 to 1000"`
	MaxSpeakers   int           `toml:"max_speakers" doc:"most speakers that are counted in one room; count; 10 to 1000000"`
	MaxPending    int           `toml:"max_pending" doc:"speakers that may wait to be counted; what comes above it is dropped and counted as dropped; count; 100 to 10000000"`
}

// DefaultConfig counts the last five minutes.
func DefaultConfig() Config {
	return Config{
		Window:        5 * time.Minute,
		Interval:      5 * time.Second,
		FlushInterval: time.Second,
		Timeout:       5 * time.Second,
		Rooms:         100,
		MaxSpeakers:   10_000,
		MaxPending:    100_000,
	}
}

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	duration := func(key string, d, low, high time.Duration) {
		if d < low || d > high {
			problems = append(problems, fmt.Sprintf("%s = %s: %s to %s", key, d, low, high))
		}
	}
	count := func(key string, n, low, high int) {
		if n < low || n > high {
			problems = append(problems, fmt.Sprintf("%s = %d: %d to %d", key, n, low, high))
		}
	}
	duration("window", c.Window, 10*time.Second, time.Hour)
	duration("interval", c.Interval, 100*time.Millisecond, time.Minute)
	duration("flush_interval", c.FlushInterval, 10*time.Millisecond, 30*time.Second)
	duration("timeout", c.Timeout, 100*time.Millisecond, time.Minute)
	count("rooms", c.Rooms, 1, 1000)
	count("max_speakers", c.MaxSpeakers, 10, 1_000_000)
	count("max_pending", c.MaxPending, 100, 10_000_000)
	return problems
}
