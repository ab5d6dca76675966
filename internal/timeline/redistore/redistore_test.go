package redistore

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// losable makes a Store lose what it has, on a Redis that the test owns.
type losable struct {
	*Store
	t    testing.TB
	conn redis.Conn
	mini bool
}

func open(t testing.TB, addr string) *Store {
	t.Helper()
	s, err := New(patientConfig(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// patientConfig takes no machine that stands still for a while for a failure.
func patientConfig(addr string) Config {
	cfg := DefaultConfig()
	cfg.Addr = addr
	cfg.DialTimeout, cfg.ReadTimeout, cfg.WriteTimeout = time.Minute, time.Minute, time.Minute
	return cfg
}

func newLosable(t testing.TB, addr string, mini bool) *losable {
	t.Helper()
	conn, err := redis.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &losable{Store: open(t, addr), t: t, conn: conn, mini: mini}
}

func (l *losable) do(name string, args ...any) any {
	l.t.Helper()
	reply, err := l.conn.Do(name, args...)
	if err != nil {
		l.t.Fatalf("%s: %v", name, err)
	}
	return reply
}

// nextLife is what a failover does to the identity of a server.
func (l *losable) nextLife() {
	l.t.Helper()
	if l.mini {
		l.do("DEL", markerKey)
		return
	}
	l.do("DEBUG", "CHANGE-REPL-ID")
}

// Save keeps all keys. (miniredis dumps strings only.)
func (l *losable) Save() (back func()) {
	l.t.Helper()
	keys, err := redis.Strings(l.do("KEYS", "*"), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	var writes [][]any
	for _, key := range keys {
		if l.do("TYPE", key) == "string" {
			writes = append(writes, []any{"SET", key, l.do("GET", key)})
			continue
		}
		fields, err := redis.Values(l.do("HGETALL", key), nil)
		if err != nil {
			l.t.Fatal(err)
		}
		writes = append(writes, append([]any{"HSET", key}, fields...))
	}
	return func() {
		l.do("FLUSHALL")
		for _, w := range writes {
			l.do(w[0].(string), w[1:]...)
		}
		l.nextLife()
	}
}

// Empty loses everything; the marker alone tells.
func (l *losable) Empty() { l.do("FLUSHALL") }

// Restart keeps everything.
func (l *losable) Restart() { l.nextLife() }

func realRedis(t testing.TB) *losable {
	return newLosable(t, testdeps.Redis(t, "--enable-debug-command", "local", "--save", "").Addr, false)
}

func TestWindowOnRedis(t *testing.T) {
	timelinetest.WindowSuite(t, func(t *testing.T) timelinetest.Losable { return realRedis(t) })
}

func TestWindowOnMiniredis(t *testing.T) {
	timelinetest.WindowSuite(t, func(t *testing.T) timelinetest.Losable {
		return newLosable(t, miniredis.RunT(t).Addr(), true)
	})
}
