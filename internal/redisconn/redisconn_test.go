//go:build unix

package redisconn

import (
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"
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
		for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); runtime.Gosched() {
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
