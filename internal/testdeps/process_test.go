package testdeps

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(readyWithin); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", readyWithin, what)
		}
	}
}

// running reports whether a process exists and is no zombie.
func running(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// notedPid waits for the pid that a shell writes to a file.
func notedPid(t *testing.T, file string) (pid string) {
	t.Helper()
	eventually(t, "the child has its pid noted", func() bool {
		text, err := os.ReadFile(file)
		pid = strings.TrimSpace(string(text))
		return err == nil && strings.HasSuffix(string(text), "\n")
	})
	return pid
}

// envVictim makes TestHelperToBeKilled the test binary that dies.
const envVictim = "TESTDEPS_VICTIM"

func TestHelperToBeKilled(t *testing.T) {
	if os.Getenv(envVictim) == "" {
		t.Skip("only for TestNothingOutlivesAKilledTestBinary")
	}
	redis := Redis(t)
	// One that ignores the polite signals, with a child of its own.
	note := filepath.Join(t.TempDir(), "pid")
	stubborn := Start(t, exec.Command("sh", "-c",
		"trap '' TERM INT HUP; tail -f /dev/null & echo $! > "+note+"; while :; do wait; done"))
	child := notedPid(t, note)
	Kafka(t)
	kafka, err := sharedKafka()
	if err != nil {
		t.Fatal(err)
	}
	g, err := theGuard()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("running", redis.Process().Pid(), stubborn.Pid(), child, kafka.Process().Pid(), g.dir)
	<-time.After(time.Minute) // to be killed; the bound is for a run by hand
}

func TestNothingOutlivesAKilledTestBinary(t *testing.T) {
	part(t, "redis")
	part(t, "kafka")
	victim := exec.Command(os.Args[0], "-test.run=^TestHelperToBeKilled$")
	// Its own broker, and its files below our folder, since its cleanups never run.
	victim.Env = append(os.Environ(), envVictim+"=1", "PERSEID_TEST_KAFKA=", "TMPDIR="+t.TempDir())
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	victim.Stdout = write
	p := Start(t, victim)
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	var words []string
	for lines := bufio.NewScanner(read); len(words) == 0 && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "running ") {
			words = strings.Fields(lines.Text())
		}
	}
	if len(words) != 6 {
		t.Fatalf("the victim says %q", words)
	}
	pids, dir := words[1:5], words[5]
	for _, pid := range pids {
		if !running(pid) {
			t.Fatalf("process %s does not run before the kill", pid)
		}
	}
	p.Kill()
	for _, pid := range pids {
		eventually(t, "process "+pid+" ends", func() bool { return !running(pid) })
	}
	eventually(t, "the folder of the shared broker goes", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestKillEndsTheChildrenToo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	p := Start(t, exec.Command("sh", "-c", "tail -f /dev/null & echo $! > "+file+"; wait"))
	child := notedPid(t, file)
	if !running(child) {
		t.Fatal("the child does not run")
	}
	p.Kill()
	eventually(t, "the child ends", func() bool { return !running(child) })
	if !p.Ended() {
		t.Error("a killed process has not ended")
	}
	p.Kill() // does nothing
}

func TestStopIsPoliteAndReportsTheExit(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p := Start(t, exec.Command("sh", "-c", "trap 'exit 7' TERM; : > "+ready+"; while :; do sleep 0.01; done"))
	eventually(t, "the trap is set", func() bool { _, err := os.Stat(ready); return err == nil })
	var exit *exec.ExitError
	if err := p.Stop(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("Stop: %v", err)
	}
	if err := p.Stop(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("Stop again: %v", err)
	}
}

func TestStartPassesArgumentsFilesAndEnvironment(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd := exec.Command("sh", "-c", `printf '%s|%s|%s' "$1" "$2" "$V" >&3; [ -e /proc/$$/fd/4 ] && echo "|open" >&3 || echo "|closed" >&3`, "x", "a b", "$c")
	cmd.Env = append(os.Environ(), "V=v w")
	cmd.ExtraFiles = []*os.File{write}
	p := Start(t, cmd)
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(read).ReadString('\n')
	// The guard's pipe came as 4, behind the file of the caller, and is not handed on.
	if want := "a b|$c|v w|closed\n"; err != nil || line != want {
		t.Fatalf("got %q, %v; want %q", line, err, want)
	}
}

func TestStartOfAMissingProgram(t *testing.T) {
	if _, err := startProcess(exec.Command("no-such-program-here")); !errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("err = %v", err)
	}
}

func TestSignalOfAnEndedProcess(t *testing.T) {
	p := Start(t, exec.Command("true"))
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("err = %v", err)
	}
}
