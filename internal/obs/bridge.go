package obs

import (
	"fmt"
	"log/slog"
	"strings"

	kratoslog "github.com/go-kratos/kratos/v2/log"
)

// KratosLogger sends what kratos logs to l. Fatal is logged as Error: leaving
// the process is for main alone.
func KratosLogger(l *slog.Logger) kratoslog.Logger { return kratosLogger{l} }

type kratosLogger struct{ l *slog.Logger }

func (k kratosLogger) Log(level kratoslog.Level, keyvals ...any) error {
	message := "kratos"
	args := make([]any, 0, len(keyvals))
	for i := 0; i < len(keyvals); i += 2 {
		if i+1 == len(keyvals) {
			args = append(args, "unpaired", keyvals[i])
			break
		}
		key, value := fmt.Sprint(keyvals[i]), keyvals[i+1]
		if key == kratoslog.DefaultMessageKey {
			message = fmt.Sprint(value)
			continue
		}
		args = append(args, key, value)
	}
	switch level {
	case kratoslog.LevelDebug:
		write(k.l, slog.LevelDebug, message, args)
	case kratoslog.LevelWarn:
		write(k.l, slog.LevelWarn, message, args)
	case kratoslog.LevelError, kratoslog.LevelFatal:
		write(k.l, slog.LevelError, message, args)
	default:
		write(k.l, slog.LevelInfo, message, args)
	}
	return nil
}

// write logs without a context, which none of the bridged loggers has.
func write(l *slog.Logger, level slog.Level, message string, args []any) {
	switch level {
	case slog.LevelDebug:
		l.Debug(message, args...)
	case slog.LevelWarn:
		l.Warn(message, args...)
	case slog.LevelError:
		l.Error(message, args...)
	default:
		l.Info(message, args...)
	}
}

// text is formatted only if the line is written.
type text func() string

// LogValue formats, without the line end that the libraries add.
func (t text) LogValue() slog.Value { return slog.StringValue(strings.TrimSpace(t())) }

// SaramaLogger is a sarama.StdLogger that writes at Debug: sarama reports what
// matters as errors too, and its log lines are many.
type SaramaLogger struct{ l *slog.Logger }

// NewSaramaLogger writes to l.
func NewSaramaLogger(l *slog.Logger) *SaramaLogger { return &SaramaLogger{l} }

// Print logs its arguments as fmt.Print would write them.
func (s *SaramaLogger) Print(v ...any) {
	s.l.Debug("sarama", "text", text(func() string { return fmt.Sprint(v...) }))
}

// Printf logs a formatted line.
func (s *SaramaLogger) Printf(format string, v ...any) {
	s.l.Debug("sarama", "text", text(func() string { return fmt.Sprintf(format, v...) }))
}

// Println logs its arguments as fmt.Println would write them.
func (s *SaramaLogger) Println(v ...any) {
	s.l.Debug("sarama", "text", text(func() string { return fmt.Sprintln(v...) }))
}

// GnetLogger is a logging.Logger of gnet.
type GnetLogger struct{ l *slog.Logger }

// NewGnetLogger writes to l.
func NewGnetLogger(l *slog.Logger) *GnetLogger { return &GnetLogger{l} }

func (g *GnetLogger) log(level slog.Level, format string, args []any) {
	write(g.l, level, "gnet", []any{"text", text(func() string { return fmt.Sprintf(format, args...) })})
}

// Debugf logs at Debug.
func (g *GnetLogger) Debugf(format string, args ...any) { g.log(slog.LevelDebug, format, args) }

// Infof logs at Info.
func (g *GnetLogger) Infof(format string, args ...any) { g.log(slog.LevelInfo, format, args) }

// Warnf logs at Warn.
func (g *GnetLogger) Warnf(format string, args ...any) { g.log(slog.LevelWarn, format, args) }

// Errorf logs at Error.
func (g *GnetLogger) Errorf(format string, args ...any) { g.log(slog.LevelError, format, args) }

// Fatalf logs at Error and returns: the engine's end is noticed where it runs.
func (g *GnetLogger) Fatalf(format string, args ...any) { g.log(slog.LevelError, format, args) }
