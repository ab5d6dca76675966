package gnetio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/pkg/wire"
)

// A port that is taken is an error that names the setting and the address.
// The loops' own sockets would share the port with a second comet.
func TestPortTaken(t *testing.T) {
	f := serve(t, nil)
	for key, change := range map[string]func(*Config){
		"listen.tcp":       func(c *Config) { c.TCP = f.server.TCPAddr() },
		"listen.websocket": func(c *Config) { c.WebSocket = f.server.WebSocketAddr() },
	} {
		cfg := DefaultConfig()
		cfg.TCP, cfg.WebSocket = "127.0.0.1:0", "127.0.0.1:0"
		change(&cfg)
		_, err := New(cfg, f.gateway, comettest.Log(t))
		addr := cfg.TCP
		if key == "listen.websocket" {
			addr = cfg.WebSocket
		}
		if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	good := DefaultConfig()
	if p := good.Problems(); len(p) != 0 {
		t.Errorf("the default has problems: %q", p)
	}
	bad := Config{Loops: 257, KeepAlive: time.Millisecond, SendBuffer: -1, WebSocketPath: "sub"}
	if p := bad.Problems(); len(p) != 5 {
		t.Errorf("5 problems expected: %q", p)
	}
	if _, err := New(bad, nil, comettest.Log(t)); err == nil {
		t.Error("New takes a bad configuration")
	}
}

// Symptom: with one address for TCP and WebSocket a comet came up, and closed
// every TCP client for a handshake that made no sense. Cause: the loops share
// their ports, so both listened, and whose connection it is tells the address.
func TestOneAddressForBoth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cfg := DefaultConfig()
	cfg.TCP, cfg.WebSocket = addr, addr
	if _, err := New(cfg, nil, comettest.Log(t)); err == nil {
		t.Errorf("New takes %s for both", addr)
	}
}

// One listener may be missing, and the two may have one port on two addresses.
func TestListeners(t *testing.T) {
	f := serve(t, func(f *fixture) { f.net.WebSocket = "" })
	if f.server.WebSocketAddr() != "" {
		t.Error(f.server.WebSocketAddr())
	}
	c := f.tcp()
	c.auth(1, token)
	_, port, err := net.SplitHostPort(f.server.TCPAddr())
	if err != nil {
		t.Fatal(err)
	}
	f.stop()

	f = serve(t, func(f *fixture) { f.net.TCP, f.net.WebSocket = "127.0.0.1:"+port, "127.0.0.2:"+port })
	c = f.tcp()
	c.auth(1, token)
	c = f.websocket()
	c.auth(1, token)
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Log("no IPv6 here: ", err)
		return
	}
	_ = l.Close()
	f := serve(t, func(f *fixture) { f.net.TCP, f.net.WebSocket = "[::1]:0", ":0" })
	c := f.tcp()
	c.auth(1, `{"key":"six"}`)
	if ip := f.logic.Item(f.logic.Session("six")).IP.String(); ip != "::1" {
		t.Errorf("address %s", ip)
	}
	_, port, err := net.SplitHostPort(f.server.WebSocketAddr())
	if err != nil {
		t.Fatal(err)
	}
	for key, host := range map[string]string{"::1": "[::1]:", "127.0.0.1": "127.0.0.1:"} { // all addresses of both families
		c := f.dial(host + port)
		c.write([]byte(upgradeRequest("/sub")))
		c.upgraded()
		c.auth(1, fmt.Sprintf(`{"key":"%s"}`, key))
		if ip := f.logic.Item(f.logic.Session(key)).IP.String(); ip != key {
			t.Errorf("address %s, want %s", ip, key)
		}
	}
}

// Stop ends every connection; a drain before it tells the clients why.
func TestStop(t *testing.T) {
	for _, drain := range []bool{false, true} {
		t.Run(fmt.Sprintf("drain %v", drain), func(t *testing.T) {
			f := serve(t, nil)
			clients := map[string]*client{}
			for i := range 5 {
				clients[fmt.Sprintf("tcp1-%d", i)] = f.tcp()
				clients[fmt.Sprintf("tcp2-%d", i)] = f.tcp()
				clients[fmt.Sprintf("ws1-%d", i)] = f.websocket()
				clients[fmt.Sprintf("ws2-%d", i)] = f.websocket()
			}
			ver := func(name string) int16 {
				return 1 + int16(strings.IndexByte("12", name[strings.IndexByte(name, '-')-1]))
			}
			for name, c := range clients {
				c.auth(ver(name), fmt.Sprintf(`{"key":"%s"}`, name))
			}
			if drain {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := f.gateway.Drain(ctx, 200*time.Millisecond); err != nil {
					t.Error(err)
				}
				late := f.tcp()
				if before, _ := late.end(); len(before) != 0 {
					t.Errorf("a client that comes while the node drains got %+v", before)
				}
				if n := f.count("perseid_session_refused_total", "draining"); n != 1 {
					t.Errorf("%v counted", n)
				}
			}
			f.stop()
			for name, c := range clients {
				before, how := c.end()
				bye := len(before) == 1 && before[0].Op == wire.OpBye && strings.Contains(string(before[0].Body), `"code":3001,"reason":"draining","reconnect":true,"retry_ms":`)
				if bye != (drain && ver(name) == 2) || (!bye && len(before) != 0) {
					t.Errorf("%s got %+v", name, before)
				}
				if closed := how == "close 3001 draining"; closed != (drain && c.isWS) {
					t.Errorf("%s: %s", name, how)
				}
			}
			if f.gateway.Sessions() != 0 {
				t.Errorf("%d sessions are left", f.gateway.Sessions())
			}
			comettest.WaitFor(t, "logic to hear of all", func() bool { return f.logic.Disconnected() == len(clients) })
			if _, err := net.DialTimeout("tcp", f.server.TCPAddr(), time.Second); err == nil {
				t.Error("it still accepts")
			}
			f.stop() // is idempotent
		})
	}
}

// Symptom: a comet that was stopped while it started hung until its budget
// was used up. Cause: Stop waited for the end of a Run that had not begun.
func TestStopBeforeRun(t *testing.T) {
	cfg := DefaultConfig()
	cfg.TCP, cfg.WebSocket = "127.0.0.1:0", "127.0.0.1:0"
	g := comettest.Start(t, comet.DefaultConfig(), 10, &comettest.Logic{}, obs.NewMetrics(), comettest.Log(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range 8 {
		s, err := New(cfg, g, comettest.Log(t))
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		if i == 0 {
			if err := s.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			ran <- s.Run()
		} else {
			go func() { ran <- s.Run() }()
			if i%2 == 0 {
				<-s.booted
			}
			if err := s.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 { // it may not have begun yet: then it returns at once
				select {
				case err := <-ran:
					ran <- err
				case <-ctx.Done():
					t.Fatal("Run goes on")
				}
			}
		}
		if err := <-ran; err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := s.Ready(ctx); err == nil {
				t.Error("ready although it never ran")
			}
		}
	}
}

// The engine boots after Run has begun: a Stop in between finds no engine to
// stop.
func TestStopBeforeBoot(t *testing.T) {
	s := &Server{booted: make(chan struct{}), started: true, stopped: true}
	if action := s.OnBoot(gnet.Engine{}); action != gnet.Shutdown {
		t.Errorf("the engine goes on: %v", action)
	}
	select {
	case <-s.booted:
		t.Error("it says that it accepts")
	default:
	}
}

func TestReadyEndsWithItsContext(t *testing.T) {
	cfg := DefaultConfig()
	cfg.TCP, cfg.WebSocket = "127.0.0.1:0", ""
	s, err := New(cfg, nil, comettest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Symptom: a comet whose port was taken while it started said only that it
// "ended before it accepted". Cause: Ready did not know why Run had ended.
func TestReadyTellsWhyItCannotListen(t *testing.T) {
	cfg := DefaultConfig()
	cfg.TCP, cfg.WebSocket = "127.0.0.1:0", ""
	s, err := New(cfg, nil, comettest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", s.TCPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	if err := s.Ready(t.Context()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), s.TCPAddr()) {
		t.Error(err)
	}
	if err := <-ran; err == nil {
		t.Error("Run is satisfied")
	}
}
