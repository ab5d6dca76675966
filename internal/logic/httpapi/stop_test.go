package httpapi_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/logic/logictest"
)

// A push under way is finished and answered: neither the end of the context
// of Start (which kratos makes the base of all requests) nor Stop cuts it.
func TestStopFinishesPushes(t *testing.T) {
	env := logictest.New(t)
	entered, leave := make(chan context.Context), make(chan struct{})
	core := env.Core(t, func(_ *logic.Config, d *logic.Deps) {
		d.Log = failingLog{func(ctx context.Context) error { entered <- ctx; <-leave; return ctx.Err() }}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := httpapi.New(patientConfig(), httpapi.Deps{Core: core, Listener: listener})
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(t.Context())
	started, stopped, pushed := make(chan error, 1), make(chan error, 1), make(chan answer, 1)
	go func() { started <- server.Start(running) }()
	go func() {
		pushed <- do(t, "POST", "http://"+listener.Addr().String()+"/goim/push/all?operation=1", "", "x")
	}()
	<-entered
	cancel()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		stopped <- server.Stop(ctx)
	}()
	if err := <-started; err != nil { // Serve ends when Stop has closed the listener
		t.Error(err)
	}
	select {
	case err := <-stopped:
		t.Errorf("stopped with a push under way: %v", err)
	default:
	}
	close(leave)
	if got := <-pushed; got.body != `{"code":0,"message":""}` {
		t.Errorf("%d %s", got.status, got.body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Pushes from many callers are all in the log, each under an id of its own.
func TestConcurrentPushes(t *testing.T) {
	env := logictest.New(t)
	url, _ := serve(t, env, env.Core(t, nil), nil)
	const callers, each = 8, 25
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				if got := do(t, "POST", url+"/v1/push", appJSON, onePush); got.status != 202 {
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	ids := map[string]int{}
	for _, r := range env.Records(t) {
		ids[string(r.MsgId)]++
	}
	if len(ids) != callers*each {
		t.Errorf("%d ids, want %d", len(ids), callers*each)
	}
	for id, records := range ids {
		if records != 2 { // a user and a room
			t.Errorf("%x has %d records, want 2", id, records)
		}
	}
}

func TestConfigProblems(t *testing.T) {
	cfg := httpapi.DefaultConfig()
	if p := cfg.Problems(); len(p) != 0 {
		t.Error(p)
	}
	cfg = httpapi.Config{Addr: "3111", Timeout: time.Minute, WriteTimeout: time.Minute, TrustedProxies: []string{"10.0.0.1"}}
	all := strings.Join(cfg.Problems(), "\n")
	for _, want := range []string{
		`addr = "3111": host:port`, "read_header_timeout = 0s", "read_timeout = 0s", "idle_timeout = 0s",
		"write_timeout = 1m0s: above timeout (1m0s)", "max_header_bytes = 0: 4096 to 16777216", "max_pushes = 0",
		`trusted_proxies[0] = "10.0.0.1": a network`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("missing %q in\n%s", want, all)
		}
	}
	if _, err := httpapi.New(cfg, httpapi.Deps{}); err == nil {
		t.Error("New takes a wrong configuration")
	}
}
