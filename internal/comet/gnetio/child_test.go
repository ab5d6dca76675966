package gnetio

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
)

// childRole is the environment variable that makes this test binary a child.
const childRole = "PERSEID_GNETIO_TEST_CHILD"

func TestMain(m *testing.M) {
	role, args, _ := strings.Cut(os.Getenv(childRole), " ")
	run := map[string]func([]string) error{"crowd": crowd, "limited": limited}[role]
	if run == nil {
		leakcheck.Main(m)
	}
	if err := run(strings.Fields(args)); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a process of this test binary. It ends with its standard input,
// so nothing outlives the test.
type child struct {
	t     testing.TB
	stdin io.WriteCloser
	lines chan string
}

func startChild(t testing.TB, role string, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childRole+"="+role+" "+strings.Join(args, " "))
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, stdin: stdin, lines: make(chan string, 16)}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		for range c.lines { // to its end
		}
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("%s: %v", role, err)
		}
	})
	return c
}

// line is the next line of the child's output.
func (c *child) line() string {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		if !ok {
			c.t.Fatal("the child has ended")
		}
		return line
	case <-time.After(patience):
		c.t.Fatal("the child says nothing")
	}
	return ""
}

// ask writes a line to the child and returns its answer.
func (c *child) ask(line string) string {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
	return c.line()
}
