package testdeps

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

func dialRedis(t *testing.T, addr string) redis.Conn {
	t.Helper()
	conn, err := redis.Dial("tcp", addr, redis.DialReadTimeout(readyWithin))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestRedisKeepsAcknowledgedWritesOverKillOnlyWithAOF(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		kept bool
	}{"aof": {AOF(), true}, "memory": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Redis(t, c.args...)
			if _, err := dialRedis(t, s.Addr).Do("SET", "k", "v"); err != nil {
				t.Fatal(err)
			}
			before := s.Process().Pid()
			s.Kill()
			if _, err := redis.Dial("tcp", s.Addr); err == nil {
				t.Fatal("the killed server accepts connections")
			}
			s.Restart()
			if s.Process().Pid() == before {
				t.Fatal("the same process after Restart")
			}
			got, err := redis.String(dialRedis(t, s.Addr).Do("GET", "k"))
			if kept := err == nil && got == "v"; kept != c.kept {
				t.Fatalf("after Kill and Restart GET k = %q, %v; kept should be %v", got, err, c.kept)
			}
		})
	}
}

func TestRedisOfTwoTestsAreTwo(t *testing.T) {
	t.Parallel()
	a, b := Redis(t), Redis(t)
	if _, err := dialRedis(t, a.Addr).Do("SET", "k", "v"); err != nil {
		t.Fatal(err)
	}
	if n, err := redis.Int(dialRedis(t, b.Addr).Do("DBSIZE")); err != nil || n != 0 {
		t.Fatalf("the second Redis holds %d keys, %v", n, err)
	}
}

func TestPauseFreezesAServerUntilResume(t *testing.T) {
	t.Parallel()
	s := Redis(t)
	s.Pause()
	conn, err := redis.Dial("tcp", s.Addr, redis.DialReadTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatalf("a paused server's port takes connections: %v", err)
	}
	defer conn.Close()
	if _, err := conn.Do("PING"); err == nil {
		t.Fatal("the paused server answers")
	}
	s.Resume()
	if _, err := dialRedis(t, s.Addr).Do("PING"); err != nil {
		t.Fatal(err)
	}
}

func TestDiscoveryRegistersAndFetches(t *testing.T) {
	t.Parallel()
	s := DiscoveryServer(t)
	register := func() {
		t.Helper()
		form := url.Values{
			"region": {"sh"}, "zone": {"sh001"}, "env": {"dev"}, "appid": {"perseid.test"},
			"hostname": {"comet-1"}, "addrs": {"grpc://127.0.0.1:3109"}, "status": {"1"}, "version": {"1"},
		}
		body := httpBody(t)(http.PostForm("http://"+s.Addr+"/discovery/register", form))
		if !strings.Contains(body, `"code":0`) {
			t.Fatalf("register: %s", body)
		}
	}
	fetch := func() string {
		t.Helper()
		return httpBody(t)(http.Get("http://" + s.Addr + "/discovery/fetch?zone=sh001&env=dev&appid=perseid.test&status=1"))
	}
	register()
	if body := fetch(); !strings.Contains(body, "grpc://127.0.0.1:3109") {
		t.Fatalf("fetch: %s", body)
	}
	s.Stop()
	s.Restart()
	if body := fetch(); !strings.Contains(body, "-404") {
		t.Fatalf("a restarted server knows instances: %s", body)
	}
	register()
}

func httpBody(t *testing.T) func(*http.Response, error) string {
	return func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
}

// A server that cannot start says why, instead of a bare timeout.
func TestAFailedStartShowsTheLog(t *testing.T) {
	t.Parallel()
	part(t, "redis")
	s := &Server{kind: kind{name: "redis", ports: 1, ready: redisReady}, dir: t.TempDir(), args: []string{"--no-such-option", "1"}}
	err := s.startSomewhere()
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Fatalf("err = %v", err)
	}
}

func TestRunningServersNeedNoGoroutine(t *testing.T) {
	Redis(t)
	Kafka(t)
	MariaDB(t)
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	self := fmt.Sprintf("%s(", "TestRunningServersNeedNoGoroutine")
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "internal/testdeps.") && !strings.Contains(stack, self) &&
			!strings.Contains(stack, "testing.(*T).Parallel") {
			t.Errorf("a goroutine of this package:\n%s", stack)
		}
	}
}

func TestDataStaysInTheFolderOfTheTest(t *testing.T) {
	t.Parallel()
	s := Redis(t, AOF()...)
	files, err := filepath.Glob(filepath.Join(s.Dir(), "appendonlydir", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no AOF below %s: %v", s.Dir(), err)
	}
}
