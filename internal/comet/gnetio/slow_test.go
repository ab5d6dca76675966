package gnetio

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
)

// narrow connects with a receive buffer of a few KiB.
func (f *fixture) narrow(addr string) *client {
	f.t.Helper()
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	conn, err := d.DialContext(f.t.Context(), "tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(lifetime)); err != nil {
		f.t.Fatal(err)
	}
	c := f.dial(addr)
	_ = c.conn.Close()
	c.conn = conn.(*net.TCPConn)
	c.br.Reset(conn)
	return c
}

// heapBytes is what is in use after a collection.
func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A client that reads nothing is closed, or loses messages that are counted;
// its room mates get everything in order, and what waits for it is bounded.
func TestStuckClient(t *testing.T) {
	const (
		outbox  = 64 << 10
		batches = 400
		batch   = 20
		size    = 1000
	)
	for _, overflow := range []string{"close", "drop"} {
		t.Run(overflow, func(t *testing.T) {
			f := serve(t, func(f *fixture) {
				f.cfg.Overflow, f.cfg.OutboxBytes, f.cfg.RoundBytes = overflow, outbox, 16<<10
				f.net.SendBuffer = 8 << 10
			})
			stuck := f.narrow(f.server.TCPAddr())
			stuck.auth(1, `{"key":"stuck","room_id":"live://1"}`)
			mates := []*client{f.tcp(), f.tcp(), f.websocket(), f.websocket()}
			for i, c := range mates {
				c.auth(1, fmt.Sprintf(`{"key":"mate-%d","room_id":"live://1"}`, i))
			}
			before := heapBytes()
			delivered, slow, sent := 0, 0, 0
			for range batches { // 8 MB
				pushes := make([]comet.Push, batch)
				for i := range pushes {
					pushes[i] = toRoom("live://1", 1000, fmt.Sprintf("%0*d", size, sent+i))
				}
				for _, r := range f.push(pushes...) {
					delivered += int(r.Delivered)
					slow += int(r.Slow)
				}
				for m, c := range mates { // they read: nothing waits for them
					for i, p := range c.pushed(batch) {
						if string(p.Body) != fmt.Sprintf("%0*d", size, sent+i) {
							t.Fatalf("mate %d: message %d is %q", m, sent+i, strings.TrimLeft(string(p.Body), "0"))
						}
					}
				}
				sent += batch
			}
			if grown := heapBytes() - before; grown > 4<<20 {
				t.Errorf("the heap grew by %d bytes", grown)
			}
			if n := f.count("perseid_deliver_total", "slow"); n != float64(slow) || slow == 0 {
				t.Errorf("%v counted as slow, the results say %d", n, slow)
			}
			forStuck := delivered - len(mates)*sent
			if overflow == "close" {
				if n := f.ended(comet.SlowConsumer); n != 1 || f.gateway.Sessions() != len(mates) {
					t.Errorf("%v closed as slow, %d sessions", n, f.gateway.Sessions())
				}
				if before, how := stuck.end(); how != "reset" || len(before) > forStuck {
					t.Errorf("the stuck one got %d of %d and then %s", len(before), forStuck, how)
				}
				return
			}
			if slow+forStuck != sent {
				t.Errorf("of %d messages %d were delivered to the stuck one and %d dropped", sent, forStuck, slow)
			}
			last := ""
			for i, p := range stuck.pushed(forStuck) { // it reads again: a part of the stream, in order
				if string(p.Body) <= last {
					t.Fatalf("message %d out of order", i)
				}
				last = string(p.Body)
			}
			f.push(toRoom("live://1", 1000, "the next"))
			if p := stuck.pushed(1)[0]; string(p.Body) != "the next" {
				t.Errorf("after it caught up it got %q", p.Body)
			}
		})
	}
}

// A client that asks and does not read is closed too: replies are not dropped.
func TestClientThatOnlyAsks(t *testing.T) {
	transports(t, func(f *fixture) {
		f.cfg.OutboxBytes, f.cfg.RoundBytes, f.net.SendBuffer = 16<<10, 16<<10, 8<<10
	}, func(t *testing.T, f *fixture, _ func() *client) {
		var c *client
		if strings.HasSuffix(t.Name(), "tcp") {
			c = f.narrow(f.server.TCPAddr())
		} else {
			c = f.narrow(f.server.WebSocketAddr())
			c.write([]byte(upgradeRequest("/sub")))
			c.upgraded()
		}
		c.auth(1, token)
		request := c.frame(packet(1, 14, 1, strings.Repeat("1", 4000)))
		go func() {
			for {
				if _, err := c.conn.Write(request); err != nil {
					return
				}
			}
		}()
		comettest.WaitFor(t, "the close", func() bool { return f.ended(comet.SlowConsumer) == 1 })
	})
}

// Clients that vanish in the middle of a broadcast cost nobody else a message.
func TestResetDuringBroadcast(t *testing.T) {
	f := serve(t, nil)
	stay := []*client{f.tcp(), f.websocket(), f.tcp(), f.websocket()}
	for i, c := range stay {
		c.auth(1, fmt.Sprintf(`{"key":"stay-%d","room_id":"live://1"}`, i))
	}
	const rounds, perRound = 30, 20
	sent := 0
	for range rounds {
		var gone []*client
		for range 8 {
			c := f.tcp()
			c.auth(1, `{"room_id":"live://1"}`)
			gone = append(gone, c)
		}
		var waiting []*comet.Delivery
		for i := range perRound {
			waiting = append(waiting, f.dispatch(toRoom("live://1", 1000, fmt.Sprint(sent))))
			sent++
			if i%2 == 0 && len(gone) > 0 {
				_ = gone[0].conn.SetLinger(0) // RST
				_ = gone[0].conn.Close()
				gone = gone[1:]
			}
		}
		for _, d := range waiting {
			<-d.Done()
			if d.Results[0].Delivered < uint32(len(stay)) {
				t.Fatalf("%+v", d.Results[0])
			}
		}
	}
	for _, c := range stay {
		for i, p := range c.pushed(sent) {
			if string(p.Body) != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, p.Body)
			}
		}
		c.alive(1)
	}
	comettest.WaitFor(t, "the others to be gone", func() bool { return f.gateway.Sessions() == len(stay) })
}

// A client that stops reading is no reason for the drain to wait.
func TestDrainWithAStuckClient(t *testing.T) {
	f := serve(t, func(f *fixture) { f.net.SendBuffer = 8 << 10 })
	stuck := f.narrow(f.server.TCPAddr())
	stuck.auth(2, `{"room_id":"live://1"}`)
	f.push(toRoom("live://1", 1000, strings.Repeat("x", 200<<10)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.gateway.Drain(ctx, 0); err != nil {
		t.Error(err)
	}
}
