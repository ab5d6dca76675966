package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	edge "github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/gnetio"
	"github.com/perseid-im/perseid/internal/obs"
)

// logic accepts everybody, as goim does.
type logic struct{}

func (logic) Connect(_ context.Context, _ edge.Node, items []edge.ConnectItem) ([]edge.ConnectResult, error) {
	out := make([]edge.ConnectResult, len(items))
	for i, it := range items {
		var token struct {
			Mid     int64   `json:"mid"`
			Room    string  `json:"room_id"`
			Accepts []int32 `json:"accepts"`
		}
		if err := json.Unmarshal(it.Token, &token); err != nil {
			return nil, err
		}
		// 36 bytes, as logic makes keys.
		key := fmt.Sprintf("%08x-0000-4000-8000-%012x", it.Session>>32, it.Session&0xffffffff)
		out[i] = edge.ConnectResult{Mid: token.Mid, Key: key, Room: token.Room, Accepts: token.Accepts, HeartbeatMS: time.Hour.Milliseconds()}
	}
	return out, nil
}

func (logic) Disconnect(context.Context, edge.Node, []edge.SessionRef) error { return nil }

func (logic) Refresh(context.Context, edge.Node, edge.Refresh) (edge.RefreshReply, error) {
	return edge.RefreshReply{}, nil
}

func (logic) Leave(context.Context, edge.Node) error { return nil }

// comet runs until its standard input ends; each line of it is a command that
// is answered with a Memory.
func comet(ctx context.Context, o *options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	g, err := edge.New(edge.DefaultConfig(), edge.Node{Name: "idle", Incarnation: 1}, edge.NodeInfo{}, o.Conns+100,
		edge.Deps{Logic: logic{}, Log: log, Metrics: obs.NewMetrics(), Clock: time.Now})
	if err != nil {
		return err
	}
	if err := g.Start(ctx); err != nil {
		return err
	}
	cfg := gnetio.DefaultConfig()
	cfg.TCP, cfg.WebSocket, cfg.Loops = "127.0.0.1:0", "127.0.0.1:0", o.Loops
	s, err := gnetio.New(cfg, g, log)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run() }()
	if err := s.Ready(ctx); err != nil {
		return err
	}
	fmt.Println(s.TCPAddr() + "," + s.WebSocketAddr())
	answers := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "collect":
			runtime.GC()
			if o.profile != "" {
				if err := writeProfile(o.profile); err != nil {
					return err
				}
			}
		case "release":
			debug.FreeOSMemory()
		}
		if err := answers.Encode(memory(g.Sessions())); err != nil {
			return err
		}
	}
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if err := <-ran; err != nil {
		return err
	}
	return g.Close(ctx)
}

func writeProfile(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.Lookup("heap").WriteTo(f, 0); err != nil {
		return err
	}
	return f.Close()
}
