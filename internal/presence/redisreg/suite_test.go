package redisreg

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/presence/presencetest"
	"github.com/perseid-im/perseid/internal/testdeps"
)

func TestSuiteOnMiniredis(t *testing.T) {
	presencetest.Run(t, func(t *testing.T) presencetest.Backend {
		server := miniredis.RunT(t)
		clock := time.Now()
		server.SetTime(clock)
		return presencetest.Backend{
			Open:   func(t *testing.T, ttl time.Duration) presence.Registry { return open(t, server.Addr(), ttl) },
			Forget: func(*testing.T) { server.FlushAll() },
			Pass: func(_ *testing.T, d time.Duration) {
				clock = clock.Add(d)
				server.SetTime(clock)
				server.FastForward(d)
			},
			Unit: time.Minute,
		}
	})
}

func TestSuiteOnRedis(t *testing.T) {
	addr := testdeps.Redis(t).Addr
	presencetest.Run(t, func(t *testing.T) presencetest.Backend {
		client := dial(t, addr)
		do(t, client, "FLUSHALL")
		return presencetest.Backend{
			Open:   func(t *testing.T, ttl time.Duration) presence.Registry { return open(t, addr, ttl) },
			Forget: func(t *testing.T) { do(t, client, "FLUSHALL") },
			Pass:   func(t *testing.T, d time.Duration) { pass(t, client, d) },
			Unit:   time.Second,
		}
	})
}

func TestBroadcastsOnMiniredis(t *testing.T) {
	presencetest.RunBroadcasts(t, func(t *testing.T) presencetest.BroadcastBackend {
		server := miniredis.RunT(t)
		return presencetest.BroadcastBackend{
			Open: func(t *testing.T, ttl time.Duration, most int) presence.Broadcasts {
				return openBroadcasts(t, server.Addr(), ttl, most)
			},
			Pass: func(_ *testing.T, d time.Duration) { server.FastForward(d) },
			Unit: time.Minute,
		}
	})
}

func TestBroadcastsOnRedis(t *testing.T) {
	addr := testdeps.Redis(t).Addr
	presencetest.RunBroadcasts(t, func(t *testing.T) presencetest.BroadcastBackend {
		client := dial(t, addr)
		do(t, client, "FLUSHALL")
		return presencetest.BroadcastBackend{
			Open: func(t *testing.T, ttl time.Duration, most int) presence.Broadcasts {
				return openBroadcasts(t, addr, ttl, most)
			},
			Pass: func(t *testing.T, d time.Duration) { pass(t, client, d) },
			Unit: time.Second,
		}
	})
}

func openBroadcasts(t testing.TB, addr string, ttl time.Duration, most int) *Registry {
	t.Helper()
	cfg := patientConfig(addr)
	cfg.BroadcastTTL, cfg.MaxBroadcasts = ttl, most
	return openConfig(t, cfg)
}

func open(t testing.TB, addr string, ttl time.Duration) *Registry {
	t.Helper()
	cfg := patientConfig(addr)
	cfg.SessionTTL = ttl
	return openConfig(t, cfg)
}

// patientConfig takes no machine that stands still for a while for a failure.
func patientConfig(addr string) Config {
	cfg := DefaultConfig()
	cfg.Addr = addr
	cfg.DialTimeout, cfg.ReadTimeout, cfg.WriteTimeout = time.Minute, time.Minute, time.Minute
	return cfg
}

func openConfig(t testing.TB, cfg Config) *Registry {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func dial(t testing.TB, addr string) redis.Conn {
	t.Helper()
	conn, err := redis.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func do(t testing.TB, conn redis.Conn, command string, args ...any) any {
	t.Helper()
	reply, err := conn.Do(command, args...)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// pass waits until the clock of the server has moved by d: a blocking read of
// a list that stays empty ends when the time has passed.
func pass(t testing.TB, conn redis.Conn, d time.Duration) {
	t.Helper()
	now := func() time.Time {
		parts, err := redis.Int64s(conn.Do("TIME"))
		if err != nil {
			t.Fatal(err)
		}
		return time.Unix(parts[0], parts[1]*1000)
	}
	// TTLs count whole milliseconds.
	for end := now().Add(d + 2*time.Millisecond); ; {
		left := end.Sub(now())
		if left <= 0 {
			return
		}
		do(t, conn, "BLPOP", "never-filled", max(left.Seconds(), 0.001))
	}
}
