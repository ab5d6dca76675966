package logicclient

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	kregistry "github.com/go-kratos/kratos/v2/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	logicv1 "github.com/perseid-im/perseid/api/logic/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/registry/static"
)

// patience is how long something may take on a loaded machine.
const patience = time.Minute

//archtest:leaks checkLeaks
func checkLeaks(t *testing.T) {
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "google.golang.org/grpc") && !strings.Contains(stacks, "logicclient.(*Client)") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("goroutines left:\n%s", stacks)
			}
			<-time.After(2 * time.Millisecond)
		}
	})
}

// logic answers every item with its number of keys as sessions, on node 0 named
// after itself, or as the test says.
type logic struct {
	logicv1.UnimplementedLogicServer
	name   string
	addr   string
	server *grpc.Server

	mu      sync.Mutex
	streams int
	answer  func(*logicv1.RouteRequest) (*logicv1.RouteReply, error)
}

func newLogic(t *testing.T, name string) *logic {
	return newServer(t, name, func(l *logic) logicv1.LogicServer { return l })
}

// newServer serves what as makes of a logic.
func newServer(t *testing.T, name string, as func(*logic) logicv1.LogicServer) *logic {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &logic{name: name, addr: lis.Addr().String()}
	l.server = grpc.NewServer(grpc.KeepaliveEnforcementPolicy(
		keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	logicv1.RegisterLogicServer(l.server, as(l))
	go func() { _ = l.server.Serve(lis) }()
	t.Cleanup(l.server.Stop)
	return l
}

func (l *logic) say(answer func(*logicv1.RouteRequest) (*logicv1.RouteReply, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = answer
}

// opened is the number of streams so far.
func (l *logic) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams
}

func (l *logic) reply(in *logicv1.RouteRequest) *logicv1.RouteReply {
	out := &logicv1.RouteReply{Nodes: []*logicv1.LiveNode{{Node: &logicv1.Node{Name: l.name, Incarnation: 3}, GrpcAddr: "x:1"}}}
	for _, item := range in.Items {
		r := &logicv1.RouteResult{Offline: uint32(len(item.Mids))}
		for i := range item.Keys {
			r.Locations = append(r.Locations, &logicv1.Location{Session: uint64(i + 1), Target: uint32(i)})
		}
		out.Results = append(out.Results, r)
	}
	return out
}

func (l *logic) Route(stream grpc.BidiStreamingServer[logicv1.RouteRequest, logicv1.RouteReply]) error {
	l.mu.Lock()
	l.streams++
	l.mu.Unlock()
	for {
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		l.mu.Lock()
		answer := l.answer
		l.mu.Unlock()
		reply := l.reply(in)
		if answer != nil {
			if reply, err = answer(in); err != nil {
				return err
			}
		}
		if reply == nil {
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

func newClient(t *testing.T, discovery kregistry.Discovery) *Client {
	c, err := New(discovery, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func newDirectory(t *testing.T, logics ...*logic) *static.Directory {
	cfg := registry.DefaultConfig().Static
	cfg.Comet, cfg.Logic = nil, nil
	for _, l := range logics {
		cfg.Logic = append(cfg.Logic, l.addr)
	}
	d, err := static.New(cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

var someItems = []job.RouteItem{{Keys: []string{"a", "b"}, Mids: []int64{4}}, {}, {Keys: []string{"c"}}}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// untilFrom calls Route until the logic with the name answers.
func untilFrom(t *testing.T, c *Client, name string) {
	t.Helper()
	ctx := deadline(t, patience)
	for {
		routes, err := c.Route(ctx, someItems)
		if err == nil && routes.Nodes[0].Name == name {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("no answer from %s: %v", name, err)
		}
	}
}

// listInForce asks until the first list of logics counts: streams that were
// opened before it are not used again.
func listInForce(t *testing.T, c *Client) {
	t.Helper()
	ctx := deadline(t, patience)
	for known := false; !known; {
		if _, err := c.Route(ctx, someItems); ctx.Err() != nil {
			t.Fatalf("no list: %v", err)
		}
		c.mu.Lock()
		known = c.list > 0
		c.mu.Unlock()
	}
}

func TestRoute(t *testing.T) {
	checkLeaks(t)
	l := newLogic(t, "l1")
	c := newClient(t, newDirectory(t, l))
	listInForce(t, c)
	untilFrom(t, c, "l1")
	before := l.opened()
	for range 3 {
		routes, err := c.Route(deadline(t, patience), someItems)
		if err != nil {
			t.Fatal(err)
		}
		if n := routes.Nodes; len(n) != 1 || n[0] != (job.Node{Name: "l1", Incarnation: 3, Addr: "x:1"}) {
			t.Errorf("nodes %v", n)
		}
		r := routes.Results
		if len(r) != 3 || len(r[0].Locations) != 2 || r[0].Locations[1] != (job.Location{Session: 2, Target: 1}) ||
			r[0].Offline != 1 || len(r[1].Locations) != 0 || len(r[2].Locations) != 1 {
			t.Errorf("results %v", r)
		}
	}
	if n := l.opened() - before; n != 0 {
		t.Errorf("%d more streams for calls one after the other", n)
	}
	c.mu.Lock()
	c.idle[0].opened = time.Now().Add(-2 * streamAge)
	c.mu.Unlock()
	if _, err := c.Route(deadline(t, patience), nil); err != nil {
		t.Error(err)
	}
	if n := l.opened() - before; n != 1 {
		t.Errorf("%d more streams after the first grew old", n)
	}
}

func TestRouteConcurrently(t *testing.T) {
	checkLeaks(t)
	c := newClient(t, newDirectory(t, newLogic(t, "l1"), newLogic(t, "l2")))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				items := make([]job.RouteItem, i+1)
				items[i].Keys = make([]string, i+1)
				routes, err := c.Route(deadline(t, patience), items)
				if err != nil || len(routes.Results[i].Locations) != i+1 {
					t.Errorf("call of %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// The job uses the indexes of an answer unseen.
func TestWrongAnswersAreErrors(t *testing.T) {
	checkLeaks(t)
	l := newLogic(t, "l1")
	c := newClient(t, newDirectory(t, l))
	for name, change := range map[string]func(*logicv1.RouteReply){
		"error":           func(r *logicv1.RouteReply) { r.Error = "redis is away" },
		"results missing": func(r *logicv1.RouteReply) { r.Results = r.Results[:2] },
		"node":            func(r *logicv1.RouteReply) { r.Results[2].Locations[0].Node = 1 },
		"target":          func(r *logicv1.RouteReply) { r.Results[2].Locations[0].Target = 1 },
		"no nodes":        func(r *logicv1.RouteReply) { r.Nodes = nil },
	} {
		l.say(func(in *logicv1.RouteRequest) (*logicv1.RouteReply, error) {
			reply := l.reply(in)
			change(reply)
			return reply, nil
		})
		if _, err := c.Route(deadline(t, patience), someItems); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	l.say(nil)
	if _, err := c.Route(deadline(t, patience), someItems); err != nil {
		t.Error(err)
	}
}

func TestAnotherLogicIsTried(t *testing.T) {
	for name, fail := range map[string]func(*logic){
		"error": func(l *logic) {
			l.say(func(*logicv1.RouteRequest) (*logicv1.RouteReply, error) { return nil, errors.New("no") })
		},
		"refusal": func(l *logic) {
			l.say(func(*logicv1.RouteRequest) (*logicv1.RouteReply, error) {
				return &logicv1.RouteReply{Error: "redis is away"}, nil
			})
		},
		"death": func(l *logic) { l.server.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			l1, l2 := newLogic(t, "l1"), newLogic(t, "l2")
			c := newClient(t, newDirectory(t, l1, l2))
			routes, err := c.Route(deadline(t, patience), someItems)
			if err != nil {
				t.Fatal(err)
			}
			if routes.Nodes[0].Name == "l2" {
				l1, l2 = l2, l1
			}
			fail(l1)
			untilFrom(t, c, l2.name)
		})
	}
}

// Symptom, now and then: for up to a minute Route went on with a logic that had
// left. Cause: the list was counted as new before it was in force.
func TestLogicsComeAndGo(t *testing.T) {
	checkLeaks(t)
	l1, l2 := newLogic(t, "l1"), newLogic(t, "l2")
	d := newDirectory(t)
	c := newClient(t, d)
	if _, err := c.Route(deadline(t, patience), someItems); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Route without logics = %v", err)
	}
	if err := d.Set(registry.Logic, []string{l1.addr}); err != nil {
		t.Fatal(err)
	}
	untilFrom(t, c, "l1")
	if err := d.Set(registry.Logic, []string{l2.addr}); err != nil {
		t.Fatal(err)
	}
	untilFrom(t, c, "l2")
}

func TestDeadlineEndsACall(t *testing.T) {
	checkLeaks(t)
	l := newLogic(t, "l1")
	l.say(func(*logicv1.RouteRequest) (*logicv1.RouteReply, error) { return nil, nil })
	c := newClient(t, newDirectory(t, l))
	begin := time.Now()
	_, err := c.Route(deadline(t, 200*time.Millisecond), someItems)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > patience {
		t.Errorf("Route = %v after %v", err, time.Since(begin))
	}
	l.say(nil)
	if _, err := c.Route(deadline(t, patience), someItems); err != nil {
		t.Error(err)
	}
}

// flaky refuses the first watch.
type flaky struct {
	kregistry.Discovery
	mu      sync.Mutex
	watches int
}

func (f *flaky) Watch(ctx context.Context, name string) (kregistry.Watcher, error) {
	f.mu.Lock()
	f.watches++
	first := f.watches == 1
	f.mu.Unlock()
	if first {
		return nil, errors.New("the directory is away")
	}
	return f.Discovery.Watch(ctx, name)
}

func TestWatchIsOpenedAgain(t *testing.T) {
	checkLeaks(t)
	c := newClient(t, &flaky{Discovery: newDirectory(t, newLogic(t, "l1"))})
	if _, err := c.Route(deadline(t, patience), someItems); err != nil {
		t.Error(err)
	}
}

// leaving is a registry that tells the list once and is away from then on.
type leaving struct {
	kregistry.Discovery
	told chan struct{} // closed when the list has been taken in
	once sync.Once
	gone bool // of the watching goroutine
}

func (l *leaving) Watch(ctx context.Context, name string) (kregistry.Watcher, error) {
	if l.gone {
		l.once.Do(func() { close(l.told) })
		return nil, errors.New("the directory is away")
	}
	l.gone = true
	w, err := l.Discovery.Watch(ctx, name)
	return &oneAnswer{Watcher: w}, err
}

type oneAnswer struct {
	kregistry.Watcher
	told bool
}

func (w *oneAnswer) Next() ([]*kregistry.ServiceInstance, error) {
	if w.told {
		return nil, errors.New("the directory is away")
	}
	w.told = true
	return w.Watcher.Next()
}

// Symptom: a job that had no partitions while the registry was there took over
// from a dead one when it was not, and its partitions stood still. Cause: the
// list of logics was asked for with the first Route only.
func TestStandbyKnowsTheLogics(t *testing.T) {
	checkLeaks(t)
	l := &leaving{Discovery: newDirectory(t, newLogic(t, "l1")), told: make(chan struct{})}
	c := newClient(t, l)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.told:
	case <-time.After(patience):
		t.Fatal("the registry is not watched")
	}
	if _, err := c.Route(deadline(t, patience), someItems); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	checkLeaks(t)
	l := newLogic(t, "l1")
	l.say(func(*logicv1.RouteRequest) (*logicv1.RouteReply, error) { return nil, nil })
	c := newClient(t, newDirectory(t, l))
	done := make(chan error, 1)
	go func() {
		_, err := c.Route(context.Background(), someItems)
		done <- err
	}()
	for l.opened() == 0 {
		<-time.After(time.Millisecond)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a call survived Close")
	}
	if _, err := c.Route(context.Background(), someItems); !errors.Is(err, ErrClosed) {
		t.Errorf("Route after Close = %v", err)
	}
	if _, err := New(nil, nil); err == nil {
		t.Error("a client without registry was made")
	}
}
