package gnetio

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/pkg/wire"
)

// crowd is a process with args[1] members of a room that read what comes.
func crowd(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for range n {
		conn, err := net.DialTimeout("tcp", args[0], patience)
		if err != nil {
			return err
		}
		reply := make([]byte, wire.HeaderLen)
		if _, err := conn.Write(packet(1, wire.OpAuth, 1, `{"room_id":"live://1"}`)); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, reply); err != nil {
			return err
		}
		go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{conn}) }()
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return err
}

// A room that is flooded at the maximum rate must not starve the others on
// its loops: heartbeats are answered, and new clients get in. The flood goes on
// until they were, so a starved session fails the test. The bounds are far above
// what is measured (the log line says what): a busy machine must not fail it.
func TestFloodedRoomIsFair(t *testing.T) {
	const members, rounds = crowdSize, 8
	f := serve(t, func(f *fixture) { f.cfg.Overflow, f.cfg.OutboxBytes = "drop", 64<<10 })
	crowd := startChild(t, "crowd", f.server.TCPAddr(), strconv.Itoa(members))
	if line := crowd.line(); line != "ready" {
		t.Fatal(line)
	}
	// Enough of them that both loops have some.
	others := []*client{f.tcp(), f.tcp(), f.tcp(), f.tcp(), f.websocket(), f.websocket(), f.websocket(), f.websocket()}
	for i, c := range others {
		c.auth(1, fmt.Sprintf(`{"key":"other-%d","room_id":"live://2"}`, i))
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent, written := 0, make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(written)
		for window := make(chan *comet.Delivery, 64); ctx.Err() == nil; {
			pushes := make([]comet.Push, 16)
			for i := range pushes {
				pushes[i] = toRoom("live://1", 1000, fmt.Sprintf("%0100d", sent))
				pushes[i].Offset = int64(sent)
				sent++
			}
			d, err := f.gateway.Dispatch(ctx, lane(), pushes)
			if err != nil {
				return // the flood is over
			}
			if len(window) == cap(window) {
				select {
				case <-(<-window).Done():
				case <-ctx.Done():
				}
			}
			window <- d
		}
	}()

	var beats, handshakes []time.Duration
	for round := range rounds {
		c := others[round%len(others)]
		start := time.Now()
		c.send(1, wire.OpHeartbeat, int32(round), "")
		if p := c.packet(); p.Op != wire.OpHeartbeatReply {
			t.Fatalf("%+v", p)
		}
		beats = append(beats, time.Since(start))
		start = time.Now()
		guest := f.tcp()
		if round%2 == 0 {
			guest = f.websocket()
		}
		guest.auth(1, `{"key":"guest"}`)
		handshakes = append(handshakes, time.Since(start))
		_ = guest.conn.Close()
	}
	took := time.Since(begin)
	cancel()
	<-written
	slices.Sort(beats)
	slices.Sort(handshakes)
	t.Logf("%d members, %d messages in %s: heartbeat reply median %s, max %s; connect and auth median %s, max %s (%d each)",
		members, sent, took, beats[len(beats)/2], beats[len(beats)-1], handshakes[len(handshakes)/2], handshakes[len(handshakes)-1], rounds)
	if median := max(beats[rounds/2], handshakes[rounds/2]); median > slowdown*2*time.Second {
		t.Errorf("half of them waited for %s or more", median)
	}
	if worst := max(beats[rounds-1], handshakes[rounds-1]); worst > slowdown*10*time.Second {
		t.Errorf("somebody waited for %s", worst)
	}
}
