package obs

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LogConfig is the section [log].
type LogConfig struct {
	Level  string `toml:"level" doc:"least severe level to write: debug, info, warn or error"`
	Format string `toml:"format" doc:"one line per event as text (key=value) or json"`
}

// DefaultLogConfig writes text from info on.
func DefaultLogConfig() LogConfig { return LogConfig{Level: "info", Format: "text"} }

// Problems lists what is not allowed.
func (c *LogConfig) Problems() []string {
	var p []string
	if _, err := parseLevel(c.Level); err != nil {
		p = append(p, fmt.Sprintf("level = %q: debug, info, warn or error", c.Level))
	}
	if c.Format != "text" && c.Format != "json" {
		p = append(p, fmt.Sprintf("format = %q: text or json", c.Format))
	}
	return p
}

// Logger makes the logger of a configuration that has no problems.
func (c *LogConfig) Logger(w io.Writer) (*slog.Logger, error) {
	level, err := parseLevel(c.Level)
	if err != nil {
		return nil, err
	}
	return NewLogger(w, level, c.Format), nil
}

func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q: want debug, info, warn or error", s)
}

// NewLogger writes events of at least level to w, as "json" or else as text.
func NewLogger(w io.Writer, level slog.Level, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
