package testdeps

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const (
	readyWithin = 60 * time.Second // a broker needs 1-2 s; the machine may be busy
	pollEvery   = 5 * time.Millisecond
	askWithin   = 30 * time.Second // of a server that answers at once, on a machine that may stand still for seconds
)

// kind is what differs between the servers.
type kind struct {
	name  string
	ports int
	ready func(*Server) bool // does real work
}

// Server is a private server of one test, on a loopback port that it keeps over
// Restart. A test that kills and restarts should not share it.
type Server struct {
	Addr string // 127.0.0.1:port

	kind   kind
	dir    string
	ports  []string
	args   []string // more arguments of deps.sh run, behind the ports
	proc   *Process
	starts int
	t      testing.TB // nil for the shared broker, which nobody restarts
}

// Redis starts an empty private Redis, or skips the test. args are options of
// redis-server; see [AOF].
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	return private(t, kind{name: "redis", ports: 1, ready: redisReady}, args)
}

// AOF are the options for a Redis that keeps every acknowledged write over Kill
// and Restart.
func AOF() []string { return []string{"--appendonly", "yes", "--appendfsync", "always"} }

// Discovery starts a private bilibili/discovery server (region sh, zone sh001,
// env dev, no protect mode) and returns its address, or skips the test.
func Discovery(t testing.TB) string {
	t.Helper()
	return DiscoveryServer(t).Addr
}

// DiscoveryServer is Discovery for tests that stop and restart it. It keeps
// nothing over a restart.
func DiscoveryServer(t testing.TB) *Server {
	t.Helper()
	return private(t, kind{name: "discovery", ports: 1, ready: discoveryReady}, nil)
}

// KafkaServer starts a private broker for tests that stop, kill or pause it, or
// skips the test. Others share one by [Kafka].
func KafkaServer(t testing.TB) *Server {
	t.Helper()
	return private(t, kafkaKind(), nil)
}

func private(t testing.TB, k kind, args []string) *Server {
	t.Helper()
	part(t, k.name)
	s := &Server{kind: k, dir: t.TempDir(), args: args, t: t}
	// Not Process.Kill of one start: the server may be another process by then.
	t.Cleanup(func() {
		if s.proc != nil {
			s.proc.Kill()
		}
	})
	if err := s.startSomewhere(); err != nil {
		t.Fatal(err)
	}
	return s
}

// Dir is the server's data folder.
func (s *Server) Dir() string { return s.dir }

// Process is the running server's process.
func (s *Server) Process() *Process { return s.proc }

// Stop ends the server in good order.
func (s *Server) Stop() {
	s.t.Helper()
	_ = s.proc.Stop() // a JVM ends with 143 on SIGTERM
}

// Kill ends the server by SIGKILL.
func (s *Server) Kill() { s.proc.Kill() }

// Pause freezes the server: it accepts connections and answers nothing.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.proc.Signal(sig); err != nil {
		s.t.Fatalf("%s: %v: %v", s.kind.name, sig, err)
	}
}

// Restart starts the server again on its port and its data, after stopping it
// if it runs, and waits until it is ready.
func (s *Server) Restart() {
	s.t.Helper()
	if !s.proc.Ended() {
		s.Stop()
	}
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// startSomewhere picks free ports, and others when the server died: somebody
// may have taken one meanwhile.
func (s *Server) startSomewhere() (err error) {
	for range 3 {
		s.ports = s.ports[:0]
		for range s.kind.ports {
			port, err := freePort()
			if err != nil {
				return err
			}
			s.ports = append(s.ports, port)
		}
		s.Addr = net.JoinHostPort("127.0.0.1", s.ports[0])
		if err = s.start(); err == nil || !s.proc.Ended() {
			return err
		}
	}
	return err
}

func (s *Server) start() error {
	script, err := depsScript()
	if err != nil {
		return err
	}
	s.starts++
	out, err := os.Create(s.logPath())
	if err != nil {
		return err
	}
	defer out.Close() // the child has its own descriptor
	cmd := exec.Command(script, append(append([]string{"run", s.kind.name, s.dir}, s.ports...), s.args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if s.proc, err = startProcess(cmd); err != nil {
		return fmt.Errorf("start %s: %w", s.kind.name, err)
	}
	return s.awaitReady()
}

func (s *Server) logPath() string {
	return filepath.Join(s.dir, fmt.Sprintf("%s.%d.log", s.kind.name, s.starts))
}

func (s *Server) awaitReady() error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); <-poll.C {
		if s.kind.ready(s) {
			return nil
		}
		if s.proc.Ended() {
			break
		}
	}
	return fmt.Errorf("%s does not get ready; its log ends with:\n%s", s.kind.name, s.logTail())
}

func (s *Server) logTail() []byte {
	log, err := os.ReadFile(s.logPath())
	if err != nil {
		return []byte(err.Error())
	}
	return log[max(0, len(log)-4096):]
}

func redisReady(s *Server) bool {
	answer, err := ask(s.Addr, []byte("PING\r\n"), len("+PONG"))
	return err == nil && string(answer) == "+PONG"
}

// discoveryReady: the registry knows itself, so more than the port works.
func discoveryReady(s *Server) bool {
	const request = "GET /discovery/fetch?zone=sh001&env=dev&appid=infra.discovery&status=1 HTTP/1.0\r\n\r\n"
	answer, _ := ask(s.Addr, []byte(request), 1<<16)
	return bytes.Contains(answer, []byte(`"code":0,`))
}

// ask sends a request and returns the answer's first limit bytes, or fewer with
// the error that ended it.
func ask(addr string, request []byte, limit int) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", addr, askWithin)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(askWithin)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	answer := make([]byte, limit)
	n, err := io.ReadFull(conn, answer)
	return answer[:n], err
}

// freePort picks below the kernel's ephemeral ports, so that no outgoing
// connection and no listener on port 0 takes it while the server starts or is
// down between Kill and Restart.
func freePort() (string, error) {
	var err error
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("no free loopback port: %w", err)
}
