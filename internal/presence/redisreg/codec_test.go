package redisreg

import (
	"errors"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
)

func TestKeyNames(t *testing.T) {
	for got, want := range map[string]string{
		keyKey("abc"):               "key:abc",
		userKey(42):                 "pres:{u:42}",
		userKey(math.MaxInt64):      "pres:{u:9223372036854775807}",
		roomsKey("comet-1"):         "rooms:comet-1",
		identity(node("a"), 5, ':'): "a:7:5",
		keyValue(node("a"), presence.Session{ID: 5, Mid: -1}, ""):  "-1|a|7|5",
		keyValue(node("a"), presence.Session{ID: 5, Mid: 3}, "r1"): "3@r1|a|7|5",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestParseIdentity(t *testing.T) {
	for value, want := range map[string]*place{
		"42|a|7|5": {[]byte("a"), 7, 5},
		"0|a|b|18446744073709551615|18446744073709551615": {[]byte("a|b"), math.MaxUint64, math.MaxUint64},
		"0||1|2": {[]byte(""), 1, 2},
		"":       nil, "|": nil, "1|2": nil, "1|2|3": nil, "1|a||2": nil, "1|a|2|": nil, "1|a|-2|3": nil, "1|a|2|+3": nil,
		"1|a|18446744073709551616|3": nil, "1|a|99999999999999999999999|3": nil,
	} {
		got, ok := parseKeyValue([]byte(value))
		if ok != (want != nil) || ok && !reflect.DeepEqual(got, *want) {
			t.Errorf("%q: %v %v, want %v", value, got, ok, want)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("comet", uint64(1), uint64(2), "1|a|2|3")
	f.Add("a|1|2", uint64(math.MaxUint64), uint64(0), "||")
	f.Fuzz(func(t *testing.T, name string, incarnation, session uint64, junk string) {
		node := presence.Node{Name: name, Incarnation: incarnation}
		at, ok := parseKeyValue([]byte(keyValue(node, presence.Session{ID: session, Mid: 9}, "0a")))
		if !ok || !at.is(node) || at.session != session {
			t.Fatalf("%+v %d came back as %+v %v", node, session, at, ok)
		}
		if at, ok := parseKeyValue([]byte(junk)); ok && !strings.Contains(junk, string(at.node)) {
			t.Fatalf("%q names node %q", junk, at.node)
		}
	})
}

func FuzzRooms(f *testing.F) {
	f.Add([]byte{}, "live://1", int32(3))
	f.Add([]byte{7, 200, 'a'}, "", int32(math.MaxInt32))
	f.Add([]byte{7, 1, 'a', 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, "a", int32(1))
	f.Fuzz(func(t *testing.T, junk []byte, room string, count int32) {
		sum := map[string]int32{}
		if err := addRooms(sum, junk, 7); err != nil && !errors.Is(err, errRooms) {
			t.Fatal(err)
		}
		want := map[string]int32{}
		if count > 0 {
			want[room] = count
		}
		got := map[string]int32{}
		if err := addRooms(got, encodeRooms(7, map[string]int32{room: count}), 7); err != nil || !maps.Equal(got, want) {
			t.Fatalf("%v %v, want %v", got, err, want)
		}
	})
}

func TestConfigProblems(t *testing.T) {
	good := DefaultConfig()
	if problems := good.Problems(); len(problems) != 0 {
		t.Fatalf("the defaults have problems: %q", problems)
	}
	bad := Config{
		Addr: "localhost", Username: "u", DB: -1, PoolSize: 0, PoolIdle: 1,
		DialTimeout: 0, ReadTimeout: time.Hour, WriteTimeout: -1, SessionTTL: time.Second,
	}
	problems := strings.Join(bad.Problems(), "\n")
	for _, key := range []string{
		"addr", "username", "db", "pool_size", "pool_idle", "dial_timeout", "read_timeout", "write_timeout", "session_ttl", "broadcast_ttl", "max_broadcasts",
	} {
		if !strings.Contains("\n"+problems, "\n"+key+" = ") {
			t.Errorf("no problem of %s in:\n%s", key, problems)
		}
	}
	for addr, ok := range map[string]bool{
		"redis:6379": true, "[::1]:1": true, ":6379": true, "redis:0": false, "redis:65536": false, "redis:http": false, "": false,
	} {
		cfg := DefaultConfig()
		cfg.Addr = addr
		if got := len(cfg.Problems()) == 0; got != ok {
			t.Errorf("addr %q is good: %v", addr, got)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration made a registry")
	}
}
