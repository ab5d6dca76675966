package obs

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// maxLimitedKeys bounds the memory of a Limited. Keys beyond it share one.
const maxLimitedKeys = 1024

const sharedKey = "other"

// Limited writes storms of the same event as one line per interval and key,
// with the number of lines left out since ("suppressed").
type Limited struct {
	l        *slog.Logger
	interval time.Duration

	mu   sync.Mutex
	keys map[string]*limitedKey
}

type limitedKey struct {
	openAt     time.Time // from then on a line may be written
	suppressed int
	level      slog.Level
	message    string
}

// NewLimited writes to l at most one line per interval for each key.
func NewLimited(l *slog.Logger, interval time.Duration) *Limited {
	return &Limited{l: l, interval: interval, keys: make(map[string]*limitedKey)}
}

// Warn logs like slog's Warn, unless key was logged less than an interval ago.
// The key names the kind of event ("accept", "comet/c1"), not the single case.
func (l *Limited) Warn(key, message string, attrs ...any) {
	l.log(slog.LevelWarn, key, message, attrs)
}

// Error is Warn at level Error. A key is one, whatever the level.
func (l *Limited) Error(key, message string, attrs ...any) {
	l.log(slog.LevelError, key, message, attrs)
}

func (l *Limited) log(level slog.Level, key, message string, attrs []any) {
	suppressed, ok := l.admit(level, key, message, time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		attrs = append(slices.Clip(attrs), slog.Int("suppressed", suppressed))
	}
	write(l.l, level, message, attrs)
}

func (l *Limited) admit(level slog.Level, key, message string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[key]
	if k == nil {
		if len(l.keys) >= maxLimitedKeys {
			l.forget(now)
		}
		if len(l.keys) >= maxLimitedKeys {
			key = sharedKey
			k = l.keys[key]
		}
		if k == nil {
			k = &limitedKey{}
			l.keys[key] = k
		}
	}
	k.level, k.message = level, message
	if now.Before(k.openAt) {
		k.suppressed++
		return 0, false
	}
	suppressed = k.suppressed
	k.openAt, k.suppressed = now.Add(l.interval), 0
	return suppressed, true
}

// forget drops the keys that have nothing to tell any more.
func (l *Limited) forget(now time.Time) {
	for key, k := range l.keys {
		if k.suppressed == 0 && !now.Before(k.openAt) {
			delete(l.keys, key)
		}
	}
}

// Flush writes what was suppressed and not yet told, for the end of a process.
func (l *Limited) Flush() {
	type rest struct {
		key string
		limitedKey
	}
	var told []rest
	l.mu.Lock()
	for key, k := range l.keys {
		if k.suppressed > 0 {
			told = append(told, rest{key, *k})
			k.suppressed = 0
		}
	}
	l.mu.Unlock()
	for _, r := range told {
		write(l.l, r.level, r.message, []any{"key", r.key, "suppressed", r.suppressed})
	}
}
