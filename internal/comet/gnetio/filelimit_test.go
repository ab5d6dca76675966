package gnetio

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/pkg/wire"
)

// limited is a comet that may open args[0] files and admits args[1] sessions.
// It prints its address, and for each line of input the number of sessions,
// how many were refused, and how Run ended ("" = it runs).
func limited(args []string) error {
	files, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	maxSessions, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files}); err != nil {
		return err
	}
	log, metrics := slog.New(slog.DiscardHandler), obs.NewMetrics()
	g, err := comet.New(comettest.Config(), comettest.Node(), comet.NodeInfo{}, maxSessions,
		comet.Deps{Logic: &comettest.Logic{Heartbeat: time.Hour}, Log: log, Metrics: metrics, Clock: time.Now})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.Start(ctx); err != nil {
		return err
	}
	cfg := DefaultConfig()
	cfg.TCP, cfg.WebSocket, cfg.Loops = "127.0.0.1:0", "127.0.0.1:0", 2
	s, err := New(cfg, g, log)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	if err := s.Ready(ctx); err != nil {
		return err
	}
	fmt.Println(s.TCPAddr())
	ended := ""
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		select {
		case err := <-ran:
			ended = fmt.Sprint(err)
		default:
		}
		fmt.Printf("%d %v %q\n", g.Sessions(), refused(metrics), ended)
	}
	return nil
}

func refused(m *obs.Metrics) (n float64) {
	families, err := m.Registry.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		if f.GetName() == "perseid_session_refused_total" {
			for _, v := range f.GetMetric() {
				n += v.GetCounter().GetValue()
			}
		}
	}
	return n
}

// try connects and authenticates; nil if the comet refuses.
func try(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(lifetime))
	_, _ = conn.Write(packet(1, wire.OpAuth, 1, `{}`))
	if n, _ := conn.Read(make([]byte, wire.HeaderLen)); n != wire.HeaderLen {
		_ = conn.Close()
		return nil
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// More connections than the process may hold: the bound refuses them one by
// one and counts them, those that are in stay, and there is room again when
// some have gone. Without the bound gnet would end its loops (see below).
func TestFileLimit(t *testing.T) {
	const files, reserve, extra = 256, 64, 300
	comet := startChild(t, "limited", strconv.Itoa(files), strconv.Itoa(files-reserve))
	addr := comet.line()
	var in []net.Conn
	for range files - reserve + extra {
		if conn := try(t, addr); conn != nil {
			in = append(in, conn)
		}
	}
	if len(in) != files-reserve {
		t.Errorf("%d clients are in", len(in))
	}
	if got, want := comet.ask("?"), fmt.Sprintf(`%d %d ""`, files-reserve, extra); got != want {
		t.Errorf("the comet has %s, want %s", got, want)
	}
	for i, conn := range in {
		if _, err := conn.Write(packet(1, wire.OpHeartbeat, 1, "")); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
		if n, err := conn.Read(make([]byte, 20)); n != 20 {
			t.Errorf("client %d: %v", i, err)
		}
	}
	for _, conn := range in[:50] {
		_ = conn.Close()
	}
	comettest.WaitFor(t, "room", func() bool { return comet.ask("?") == fmt.Sprintf(`%d %d ""`, files-reserve-50, extra) })
	for range 50 {
		if try(t, addr) == nil {
			t.Fatal("refused although there is room")
		}
	}
	if try(t, addr) != nil {
		t.Error("admitted above the bound")
	}
}

// What the bound is for: gnet ends its engine when accept finds no file
// descriptor, and Run must not look well then.
func TestWithoutTheBoundTheLoopsEnd(t *testing.T) {
	const files = 128
	comet := startChild(t, "limited", strconv.Itoa(files), strconv.Itoa(10*files))
	addr := comet.line()
	for range 2 * files {
		conn, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			break // the listener is gone
		}
		defer conn.Close()
	}
	comettest.WaitFor(t, "the end", func() bool {
		return comet.ask("?") == `0 0 "gnetio: the event loops ended unasked; gnet does so when accept fails, most likely for want of file descriptors"`
	})
}
