package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/testdeps"
)

// relay passes TCP connections on to an address that may change.
type relay struct {
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	to    string
	held  chan struct{} // nil = not held; closed by the end of holding
	conns map[net.Conn]struct{}
	ended bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, to: to, conns: map[net.Conn]struct{}{}}
	r.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.switchTo("")
		r.running.Wait()
	})
	return r
}

func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) serve(near net.Conn) {
	defer func() { _ = near.Close() }()
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	far, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		return // so the other side is closed, as by a server that is away
	}
	defer func() { _ = far.Close() }()
	r.mu.Lock()
	if r.ended || r.to != to {
		r.mu.Unlock()
		return
	}
	r.conns[near], r.conns[far] = struct{}{}, struct{}{}
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.pass(far, near); _ = near.Close() })
	both.Go(func() { r.pass(near, far); _ = far.Close() })
	both.Wait()
	r.mu.Lock()
	delete(r.conns, near)
	delete(r.conns, far)
	r.mu.Unlock()
}

// pass copies until one side ends. Holding ends only by a cut, so what was read
// while it is held is dropped.
func (r *relay) pass(from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		held := r.held
		r.mu.Unlock()
		if held != nil {
			<-held
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold stops all bytes until switchTo.
func (r *relay) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil {
		r.held = make(chan struct{})
	}
}

// switchTo cuts all connections and passes new ones to another address.
func (r *relay) switchTo(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for conn := range r.conns {
		_ = conn.Close()
	}
	if r.held != nil {
		close(r.held)
		r.held = nil
	}
}

// redisPair is a master with a replica behind relays: clients keep one address
// over a failover, and replication can be held back.
type redisPair struct {
	t       *testing.T
	servers [2]*testdeps.Server
	master  int
	front   *relay
	stream  *relay // from the master to the replica
	lost    int64  // bytes of the replication stream that the failovers lost
}

func newRedisPair(t *testing.T) *redisPair {
	t.Helper()
	p := &redisPair{t: t}
	for i := range p.servers {
		p.servers[i] = testdeps.Redis(t, append(testdeps.AOF(), "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")...)
	}
	p.front = newRelay(t, p.servers[0].Addr)
	p.stream = newRelay(t, p.servers[0].Addr)
	p.follow()
	return p
}

func (p *redisPair) do(i int, name string, args ...any) (string, error) {
	conn, err := redis.Dial("tcp", p.servers[i].Addr, redis.DialConnectTimeout(5*time.Second), redis.DialReadTimeout(20*time.Second))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return redis.String(conn.Do(name, args...))
}

// replication reads a field of INFO replication.
func (p *redisPair) replication(i int, field string) (string, error) {
	info, err := p.do(i, "INFO", "replication")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("no %s in %q", field, info)
}

// follow makes the other server a replica and waits until it has everything.
func (p *redisPair) follow() {
	p.t.Helper()
	p.stream.switchTo(p.servers[p.master].Addr)
	host, port, err := net.SplitHostPort(p.stream.addr())
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.do(1-p.master, "REPLICAOF", host, port); err != nil {
		p.t.Fatal(err)
	}
	p.waitSynced()
}

func (p *redisPair) waitSynced() {
	p.t.Helper()
	waitFor(p.t, time.Minute, func() error {
		status, err := p.replication(1-p.master, "master_link_status")
		if err == nil && status != "up" {
			err = errors.New("the replica has no link to its master")
		}
		return err
	})
}

// restart kills the master and starts it again, with its data or without.
func (p *redisPair) restart(empty bool) {
	p.t.Helper()
	s := p.servers[p.master]
	s.Kill()
	if empty {
		p.forget(s)
	}
	s.Restart()
}

func (p *redisPair) forget(s *testdeps.Server) {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir(), "*.rdb"))
	for _, f := range append(files, filepath.Join(s.Dir(), "appendonlydir")) {
		err = errors.Join(err, os.RemoveAll(f))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// failover holds the replica back until written says that enough was, kills the
// master and promotes the replica, which loses that. The old master comes back
// as its replica.
func (p *redisPair) failover(written func()) {
	p.t.Helper()
	p.waitSynced()
	p.stream.hold()
	written()
	old := p.servers[p.master]
	ahead := p.offset(p.master, "master_repl_offset") - p.offset(1-p.master, "slave_repl_offset")
	old.Kill()
	p.stream.switchTo("")
	p.master = 1 - p.master
	if _, err := p.do(p.master, "REPLICAOF", "NO", "ONE"); err != nil {
		p.t.Fatal(err)
	}
	p.front.switchTo(p.servers[p.master].Addr)
	p.lost += ahead
	p.forget(old)
	old.Restart()
	p.follow()
}

func (p *redisPair) offset(i int, field string) int64 {
	p.t.Helper()
	text, err := p.replication(i, field)
	if err != nil {
		p.t.Fatal(err)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// A failover loses what the replica was held back from, and only that; the one
// after it works, too.
func TestRedisPairFailsOverBehind(t *testing.T) {
	p := newRedisPair(t)
	set := func(key string) {
		t.Helper()
		conn, err := redis.DialContext(context.Background(), "tcp", p.front.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Do("SET", key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	has := func(key string) bool {
		t.Helper()
		got, err := p.do(p.master, "GET", key)
		if err != nil && !errors.Is(err, redis.ErrNil) {
			t.Fatal(err)
		}
		return got != ""
	}
	for round := range 2 {
		before, lost := fmt.Sprint("before", round), fmt.Sprint("lost", round)
		set(before)
		waitFor(t, patience, func() error {
			if p.offset(p.master, "master_repl_offset") != p.offset(1-p.master, "slave_repl_offset") {
				return io.ErrNoProgress
			}
			return nil
		})
		was := p.lost
		p.failover(func() { set(lost) })
		if !has(before) || has(lost) || p.lost == was {
			t.Errorf("round %d: kept %v, lost one is there: %v, %d bytes lost", round, has(before), has(lost), p.lost-was)
		}
		p.restart(false)
		if !has(before) {
			t.Error("a restart with AOF has lost everything")
		}
	}
	p.restart(true)
	if has("before0") {
		t.Error("a restart without data has them")
	}
}
