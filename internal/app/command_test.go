package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/config"
	"github.com/perseid-im/perseid/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func daemons() map[string]any {
	c, l, j := DefaultCometConfig(), DefaultLogicConfig(), DefaultJobConfig()
	return map[string]any{"comet": &c, "logic": &l, "job": &j}
}

// The documented TOML beside each main.go is the defaults, word by word.
// PERSEID_TEST_REWRITE=1 writes it anew.
func TestDocumentedConfigurationIsTheDefault(t *testing.T) {
	for name, cfg := range daemons() {
		file := filepath.Join("..", "..", "cmd", name, name+".toml")
		want := config.Document(cfg)
		if os.Getenv("PERSEID_TEST_REWRITE") != "" {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not what %s -default prints", file, name)
		}
		if err := config.Load(cfg, config.Options{File: file}); err != nil {
			t.Errorf("%s does not load: %v", file, err)
		}
	}
}

func TestCommandLine(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("[listen]\ntpc = \":1\"\n[comet]\nmax_rooms = 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"-t"}, 0, []string{"the configuration is good"}},
		{[]string{"-t", "-set", "comet.max_rooms=5"}, 0, nil},
		{[]string{"-conf", bad, "-t"}, 2, []string{"tpc", `did you mean`, "max_rooms", "allowed is 1 to 10000"}},
		{[]string{"-t", "-set", "comet.nothing=5"}, 2, []string{"comet.nothing"}},
		{[]string{"-conf", "does-not-exist.toml", "-t"}, 2, []string{"does-not-exist.toml"}},
		{[]string{"-nonsense"}, 2, []string{"nonsense"}},
		{[]string{"stray"}, 2, []string{"stray"}},
		{[]string{"-h"}, 0, []string{"-conf"}},
		{[]string{"-version"}, 0, []string{"comet "}},
		{[]string{"-default"}, 0, []string{"[listen]"}},
	} {
		cfg := DefaultCometConfig()
		var out, errs bytes.Buffer
		code := Main(t.Context(), "comet", tc.args, &out, &errs, &cfg, func(io.Writer) (*App, error) {
			t.Errorf("%q: would run", tc.args)
			return nil, errors.New("not now")
		})
		if code != tc.code {
			t.Errorf("%q: exit code %d, want %d\n%s%s", tc.args, code, tc.code, &out, &errs)
		}
		for _, want := range tc.want {
			if !strings.Contains(out.String()+errs.String(), want) {
				t.Errorf("%q: no %q in\n%s%s", tc.args, want, &out, &errs)
			}
		}
	}
}

// A port that is taken ends the process at once, and the word names the port.
func TestTakenPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().String()
	for _, flag := range []string{"-tcp", "-ws", "-http", "-admin"} {
		args := []string{"-data", t.TempDir(), "-tcp", "127.0.0.1:0", "-ws", "127.0.0.1:0", "-http", "127.0.0.1:0", "-admin", "127.0.0.1:0", flag, taken}
		var out, errs bytes.Buffer
		if code := RunAllInOne(t.Context(), args, &out, &errs); code != 1 {
			t.Errorf("%s taken: exit code %d", flag, code)
		}
		if !strings.Contains(errs.String(), taken) || !strings.Contains(errs.String(), "in use") {
			t.Errorf("%s taken: %s", flag, &errs)
		}
	}
}

func TestStagesStartInOrderAndStopInReverse(t *testing.T) {
	var mu sync.Mutex
	var trace []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		trace = append(trace, s)
	}
	part := func(name string, startErr error) stage {
		return stage{
			name:  name,
			start: func(context.Context) error { note("start " + name); return startErr },
			stop:  func(context.Context) error { note("stop " + name); return nil },
		}
	}
	log, err := newLogger(DefaultCometConfig().Log, io.Discard)
	if err != nil {
		t.Fatal(err)
	}

	s := newStages(log, []stage{part("a", nil), part("b", nil), part("c", nil)})
	done := make(chan error, 1)
	go func() { done <- s.Start(context.Background()) }()
	<-s.ready
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"}; !slices.Equal(trace, want) {
		t.Errorf("%q", trace)
	}

	trace = nil
	s = newStages(log, []stage{part("a", nil), part("b", errors.New("no")), part("c", nil)})
	if err := s.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "start b: no") {
		t.Errorf("failed start: %v", err)
	}
	if want := []string{"start a", "start b", "stop a"}; !slices.Equal(trace, want) {
		t.Errorf("%q", trace)
	}

	// A part that ends by itself is a failure; a start that waits is ended by
	// Stop.
	s = newStages(log, []stage{{name: "x", run: func(context.Context) error { return nil }}})
	if err := s.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("ended part: %v", err)
	}
	s = newStages(log, []stage{{name: "slow", start: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}})
	go func() { done <- s.Start(context.Background()) }()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("a stop during the start: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("a start that waits was not ended")
	}
}
