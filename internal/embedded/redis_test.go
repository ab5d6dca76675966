package embedded

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

func startTestRedis(t *testing.T) (*Redis, redis.Conn) {
	t.Helper()
	r, err := StartRedis("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.shutDown)
	conn, err := redis.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return r, conn
}

func TestKeysExpire(t *testing.T) {
	_, conn := startTestRedis(t)
	start := time.Now()
	for _, set := range [][]any{{"soon", "v", "PX", 1500}, {"later", "v", "PX", 60_000}, {"never", "v"}} {
		if _, err := conn.Do("SET", set...); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(key string) bool {
		n, err := redis.Bool(conn.Do("EXISTS", key))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the key expires", func() bool { return !exists("soon") })
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("a key of 1.5 s was gone after %v", took)
	}
	left, err := redis.Int64(conn.Do("PTTL", "later"))
	if err != nil || left > 59_000 || left < 30_000 {
		t.Errorf("a key of 60 s has %d ms left: %v", left, err)
	}
	if !exists("never") {
		t.Error("a key without a time to live expired")
	}
}

func TestTickAfter(t *testing.T) {
	for cost, want := range map[time.Duration]time.Duration{
		0:                      time.Second,
		3 * time.Millisecond:   time.Second,
		100 * time.Millisecond: 2 * time.Second,
		time.Second:            10 * time.Second,
	} {
		if got := tickAfter(cost); got != want {
			t.Errorf("after a tick of %v: %v, want %v", cost, got, want)
		}
	}
}

func TestRedisCloses(t *testing.T) {
	r, conn := startTestRedis(t)
	if _, err := conn.Do("PING"); err != nil {
		t.Fatal(err)
	}
	if _, err := StartRedis(r.Addr()); err == nil || !strings.Contains(err.Error(), r.Addr()) {
		t.Errorf("start on a taken port: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Close(canceled); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("close with an ended context: %v", err)
	}
	for range 2 {
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := conn.Do("PING"); err == nil {
		t.Error("a closed server answers")
	}
	again, err := StartRedis(r.Addr())
	if err != nil {
		t.Fatalf("the port is not free after Close: %v", err)
	}
	again.shutDown()
}

func TestServers(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	produce(t, s.KafkaAddr(), 1, 3)
	wantRecords(t, s.KafkaAddr(), 1, 3)
	conn, err := redis.Dial("tcp", s.RedisAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if pong, err := redis.String(conn.Do("PING")); err != nil || pong != "PONG" {
		t.Errorf("ping: %q %v", pong, err)
	}

	if _, err := New(cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrInUse) {
		t.Errorf("second servers on the data directory: %v", err)
	}
	taken := testConfig(t.TempDir())
	taken.RedisAddr = s.RedisAddr()
	if _, err := New(taken, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), s.RedisAddr()) {
		t.Errorf("servers on a taken port: %v", err)
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, addr := range []string{s.KafkaAddr(), s.RedisAddr()} {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("%s still accepts", addr)
		}
	}
}

func TestConfigProblems(t *testing.T) {
	good := DefaultConfig()
	if problems := good.Problems(); len(problems) != 0 {
		t.Fatalf("the defaults have problems: %q", problems)
	}
	bad := Config{KafkaAddr: "0.0.0.0:9092", RedisAddr: "localhost:6379", Retention: time.Second, RetentionBytes: 1, RetentionCheck: 0}
	problems := "\n" + strings.Join(bad.Problems(), "\n")
	for _, key := range []string{"data_dir", "kafka_addr", "redis_addr", "retention", "retention_bytes", "retention_check"} {
		if !strings.Contains(problems, "\n"+key+" = ") {
			t.Errorf("no problem of %s in:%s", key, problems)
		}
	}
	for addr, want := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:9092": true, "127.8.8.8:65535": true,
		":9092": false, "10.0.0.1:1": false, "127.0.0.1": false, "127.0.0.1:65536": false, "127.0.0.1:kafka": false,
	} {
		if got := loopback(addr); got != want {
			t.Errorf("loopback(%q) = %v", addr, got)
		}
	}
}
