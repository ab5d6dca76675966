package testdeps

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Skip ends the test because the machine lacks something: it skips the test and
// notes the reason in the file PERSEID_TEST_SKIPS, so that a run can end with
// the list of what was not tested. With PERSEID_TEST_REQUIRE=1 it fails the
// test instead.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("PERSEID_TEST_REQUIRE") == "1" {
		t.Fatalf("required, but missing: %s", reason)
	}
	if path := os.Getenv("PERSEID_TEST_SKIPS"); path != "" {
		if err := appendLine(path, fmt.Sprintf("skipped %s: %s", t.Name(), reason)); err != nil {
			t.Fatalf("note the skipped test: %v", err)
		}
	}
	t.Skip(reason)
}

// appendLine is one write to a file opened for appending: lines of parallel
// test binaries do not mix.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// Node is where npm's ws stands, an independent WebSocket client and server.
type Node struct {
	Bin     string // the node binary
	Modules string // the node_modules folder that holds ws
}

// Command runs a script that may require("ws").
func (n Node) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(n.Bin, args...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+n.Modules)
	return cmd
}

// NodeWS returns node with npm's ws, or skips the test.
func NodeWS(t testing.TB) Node {
	t.Helper()
	modules := part(t, "npm-ws")
	bin, err := exec.LookPath("node")
	if err != nil {
		Skip(t, "npm-ws: "+err.Error())
	}
	return Node{Bin: bin, Modules: modules}
}

// Chromium returns the path of a Chromium browser, or skips the test. Run it
// with [BrowserArgs].
func Chromium(t testing.TB) string {
	t.Helper()
	return part(t, "browser")
}

// BrowserArgs are the flags for a browser without a window that opens url. Its
// profile is written below dir; it keeps running until it is killed. The
// sandbox is off: it does not work as root, and the pages are our own.
func BrowserArgs(dir, url string) []string {
	return []string{
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-extensions", "--remote-debugging-port=0",
		"--user-data-dir=" + filepath.Join(dir, "profile"), url,
	}
}

// part returns the path of a part, or skips the test with the script's reason.
func part(t testing.TB, name string) string {
	t.Helper()
	script, err := depsScript()
	if err != nil {
		t.Fatal(err)
	}
	path, err := exec.Command(script, "path", name).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		Skip(t, strings.TrimPrefix(strings.TrimSpace(string(exit.Stderr)), "deps.sh: "))
	}
	if err != nil {
		t.Fatalf("%s path %s: %v", script, name, err)
	}
	return strings.TrimSpace(string(path))
}

// depsScript finds scripts/deps.sh from the folder of the test, or from this
// file's when the test has changed its folder.
func depsScript() (string, error) {
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		starts = append(starts, filepath.Dir(file))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			script := filepath.Join(dir, "scripts", "deps.sh")
			if _, err := os.Stat(script); err == nil {
				return script, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("scripts/deps.sh is not above any of %q", starts)
}
