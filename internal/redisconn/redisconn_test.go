//go:build unix

package redisconn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

func TestCheckIdle(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	pair := func() (ours, theirs net.Conn) {
		ours, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err = listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return ours, theirs
	}
	await := func(conn net.Conn) (err error) {
		for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); runtime.Gosched() {
			err = checkIdle(conn)
		}
		return err
	}
	healthy, _ := pair()
	if err := checkIdle(healthy); err != nil {
		t.Errorf("healthy connection: %v", err)
	}
	closed, theirs := pair()
	theirs.Close()
	if err := await(closed); !errors.Is(err, io.EOF) {
		t.Errorf("closed by the other side: %v", err)
	}
	talking, theirs := pair()
	if _, err := theirs.Write([]byte("-ERR go away\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := await(talking); err == nil {
		t.Error("unexpected data was not noticed")
	}
	ours, _ := pair()
	ours.Close()
	if err := checkIdle(ours); err == nil {
		t.Error("closed by us was not noticed")
	}
}

func TestPipelineIsBounded(t *testing.T) {
	plain, wide := Command{Name: "PING"}, Command{Name: "MGET", Keys: make([]string, 100)}
	huge := Command{Name: "MGET", Keys: make([]string, 2*maxPipelineKeys)}
	for _, tc := range []struct {
		commands []Command
		want     int
	}{
		{nil, 0},
		{slices.Repeat([]Command{plain}, maxPipeline), maxPipeline},
		{slices.Repeat([]Command{plain}, maxPipeline+1), maxPipeline},
		{slices.Repeat([]Command{wide}, 100), maxPipelineKeys / 100},
		{[]Command{huge, plain}, 1},
		{[]Command{plain, huge}, 1},
	} {
		if got := pipeline(tc.commands); got != tc.want {
			t.Errorf("%d of %d commands, want %d", got, len(tc.commands), tc.want)
		}
	}
}

// Symptom: after a failover behind one address every write failed, until the
// daemons were restarted. Cause: an old primary that goes on as a replica keeps
// its connections, answers READONLY, and the pool handed them out again.
func TestConnectionsToAReplicaAreNotUsedAgain(t *testing.T) {
	const old = 3 // connections from before the failover
	for _, refusal := range []string{
		"READONLY You can't write against a read only replica.",
		"ERR Error running script (call to f_1): @user_script:5: @user_script: 5: -READONLY You can't write against a read only replica.",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for accepted := 0; ; accepted++ {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				reply := "-" + refusal + "\r\n"
				if accepted >= old {
					reply = "+OK\r\n"
				}
				go func() {
					defer conn.Close()
					for lines := bufio.NewScanner(conn); lines.Scan(); {
						if lines.Text() == "PING" { // the end of the command
							_, _ = io.WriteString(conn, reply)
						}
					}
				}()
			}
		}()
		pool := NewPool(Config{Addr: listener.Addr().String(), PoolSize: 4, PoolIdle: 4, DialTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute})
		defer pool.Close()
		var idle []redis.Conn
		for range old {
			idle = append(idle, pool.pool.Get())
		}
		for _, conn := range idle {
			conn.Close()
		}
		ping := []Command{{Name: "PING"}}
		if _, err := pool.RunAll(t.Context(), ping); err == nil {
			t.Fatal("the old primary takes writes")
		}
		for range old + 1 {
			if _, err := pool.RunAll(t.Context(), ping); err != nil {
				t.Errorf("after a refused write: %v", err)
			}
		}
	}
}
