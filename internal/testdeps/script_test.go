package testdeps

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// deps runs scripts/deps.sh and returns what it printed.
func deps(t *testing.T, args ...string) (string, error) {
	t.Helper()
	script, err := depsScript()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(script, args...).CombinedOutput()
	return string(out), err
}

func startAll(t *testing.T, dir string, servers ...string) map[string]string {
	t.Helper()
	for _, server := range servers {
		part(t, server)
	}
	if out, err := deps(t, append([]string{"start", dir}, servers...)...); err != nil {
		t.Fatalf("start: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := deps(t, "stop", dir); err != nil {
			t.Errorf("stop: %v\n%s", err, out)
		}
	})
	env := map[string]string{}
	for line := range strings.Lines(contentOf(t, dir, "env")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[key] = value
	}
	return env
}

func contentOf(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestScriptStartsAndStopsTheServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := startAll(t, dir, "redis", "kafka", "mariadb", "discovery")
	if len(env) != 4 {
		t.Fatalf("env = %v", env)
	}
	if _, err := dialRedis(t, env["PERSEID_TEST_REDIS"]).Do("PING"); err != nil {
		t.Error(err)
	}
	NewTopic(t, env["PERSEID_TEST_KAFKA"], 2)
	s := &Server{Addr: env["PERSEID_TEST_DISCOVERY"]}
	if !discoveryReady(s) {
		t.Error("discovery does not answer")
	}
	if !greets(env["PERSEID_TEST_MARIADB"]) {
		t.Error("mariadb does not answer")
	}
	var pids []string
	for _, server := range []string{"redis", "kafka", "mariadb", "discovery"} {
		pids = append(pids, contentOf(t, dir, server+".pid"))
	}
	if out, err := deps(t, "start", dir, "redis"); err == nil || !strings.Contains(out, "already runs") {
		t.Errorf("a second start: %v, %s", err, out)
	}
	if out, err := deps(t, "stop", dir); err != nil {
		t.Fatalf("stop: %v\n%s", err, out)
	}
	for _, pid := range pids {
		if running(pid) {
			t.Errorf("process %s runs after stop", pid)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "env")); !os.IsNotExist(err) {
		t.Errorf("env is there after stop: %v", err)
	}
}

// The number in a pid file may have become somebody else's.
func TestScriptStopsOnlyWhatItStarted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stranger := Start(t, exec.Command("tail", "-f", "/dev/null"))
	for name, text := range map[string]string{"redis.pid": strconv.Itoa(stranger.Pid()), "redis.started": "12345"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := deps(t, "stop", dir); err != nil {
		t.Fatalf("stop: %v\n%s", err, out)
	}
	if stranger.Ended() {
		t.Fatal("a process that the script did not start was ended")
	}
}

func TestScriptHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	help, err := deps(t, "help")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"install", "missing", "path", "start", "stop", "run", "guard"} {
		if !strings.Contains(help, "\n  "+command+" ") {
			t.Errorf("help does not name %s", command)
		}
	}
	if out, err := deps(t, "no-such-command"); err == nil {
		t.Errorf("an unknown command succeeds: %s", out)
	}
}
