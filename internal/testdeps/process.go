package testdeps

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopWithin bounds an orderly end; afterwards the process is killed.
const stopWithin = 15 * time.Second

// Process is a child that cannot outlive the test binary.
type Process struct {
	cmd     *exec.Cmd
	guard   *guard
	waiting sync.Once
	err     error // of the wait; written once, by waiting
}

// Start starts cmd as a child that is killed, with the children of its own, at
// the end of the test and when the test binary dies. It replaces cmd.Path and
// cmd.Args by a shell that reports itself to the guard and then becomes cmd.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("start %s: %v", filepath.Base(cmd.Path), err)
	}
	t.Cleanup(p.Kill)
	return p
}

func startProcess(cmd *exec.Cmd) (*Process, error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	g, err := theGuard()
	if err != nil {
		return nil, err
	}
	// The child reports before it becomes cmd: there is no moment in which it
	// runs and the guard will not hear of it.
	fd := 3 + len(cmd.ExtraFiles)
	report := fmt.Sprintf(`echo "add $$" >&%d; exec "$0" "$@" %d>&-`, fd, fd)
	cmd.Args = append([]string{"sh", "-c", report, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.ExtraFiles = append(cmd.ExtraFiles, g.pipe)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // a group to kill, and no Ctrl-C from a terminal
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Process{cmd: cmd, guard: g}, nil
}

// Pid returns the process id, which is also the id of its group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process, not to its children.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Wait blocks until the process has ended and returns what exec.Cmd.Wait does.
func (p *Process) Wait() error {
	p.waiting.Do(func() {
		p.err = p.cmd.Wait()
		p.guard.forget(p.Pid())
	})
	return p.err
}

// Kill ends the process and its children by SIGKILL and waits for the end. It
// does nothing to a process that has ended.
func (p *Process) Kill() {
	p.killGroup()
	_ = p.Wait() // says that it was killed
}

// Stop ends the process by SIGTERM, and by SIGKILL when that takes too long.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	bound := time.AfterFunc(stopWithin, p.killGroup)
	defer bound.Stop()
	return p.Wait()
}

// killGroup asks the leader first: once that is reaped, the number of the group
// may be somebody else's.
func (p *Process) killGroup() {
	if p.Signal(syscall.Signal(0)) == nil {
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	}
}

// Ended reports whether the process has ended. Unlike Wait it neither blocks
// nor reaps.
func (p *Process) Ended() bool {
	if errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone) {
		return true // reaped: the number may be somebody else's
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	return strings.HasPrefix(state, "Z")
}

// guard is "deps.sh guard": it kills the children when the test binary is gone.
type guard struct {
	pipe *os.File // never closed: the end of this process closes it
	dir  string   // for data that lives as long as this process
}

// theGuard starts the guard of this test binary with the first process.
//
//nolint:gochecknoglobals // it is one per operating system process by its nature
var theGuard = sync.OnceValues(newGuard)

func newGuard() (*guard, error) {
	script, err := depsScript()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "perseid-testdeps-")
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(script, "guard", dir)
	cmd.Stdin = read
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return &guard{pipe: write, dir: dir}, read.Close()
}

// forget takes a process that has ended off the guard's list. A failure does no
// harm: the guard compares the start times before it kills.
func (g *guard) forget(pid int) {
	_, _ = g.pipe.WriteString("del " + strconv.Itoa(pid) + "\n")
}
