// Package app wires the daemons: it is the only place that knows more than
// one process, every adapter, and the order in which parts start and stop.
//
// # Guarantees
//
// Parts start in the order of their list and stop in reverse, each within a
// budget. A node is registered when everything below works and leaves the
// registry first. What is not there yet (Redis, Kafka, a logic) is waited for
// with a word in the log and an unready probe; what can never work (a port
// that is taken, a bad setting) ends the process with an error.
package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/go-kratos/kratos/v2"
	klog "github.com/go-kratos/kratos/v2/log"
	kregistry "github.com/go-kratos/kratos/v2/registry"

	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/registry/discovery"
	"github.com/perseid-im/perseid/internal/registry/static"
)

// App is one process, ready to run.
type App struct {
	name   string
	log    *slog.Logger
	stages *stages
	health *obs.Health
	addrs  func() map[string]string
}

// process is what all parts of a process share.
type process struct {
	log     *slog.Logger
	metrics *obs.Metrics
	health  *obs.Health
	admin   *obs.Admin
	clear   func() // ends "starting"
	made    []func(context.Context) error
}

// keep notes how to end what was made, for a process that cannot be wired to
// its end. One that runs is ended by its stages.
func (p *process) keep(end func(context.Context) error) { p.made = append(p.made, end) }

// abandon ends what was made, newest first, if err says so.
func (p *process) abandon(err *error) {
	if *err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, end := range slices.Backward(p.made) {
		if e := end(ctx); e != nil {
			p.log.Debug("while giving up", "error", e)
		}
	}
}

// listen binds addr now, so that a taken port is an error of the start.
func (p *process) listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s = %q: %w", key, addr, err)
	}
	p.keep(func(context.Context) error { return l.Close() })
	return l, nil
}

func newProcess(log *slog.Logger, adminAddr string) (*process, error) {
	p := &process{log: log, metrics: obs.NewMetrics(), health: obs.NewHealth()}
	p.clear = p.health.SetUnready("starting")
	var err error
	if p.admin, err = obs.NewAdmin(adminAddr, p.metrics, p.health); err != nil {
		return nil, err
	}
	p.keep(p.admin.Stop)
	return p, nil
}

// adminStage is the first to start and the last to stop, so that probes and
// metrics see the whole life of the process.
func (p *process) adminStage() stage {
	return stage{name: "admin", run: p.admin.Start, stop: p.admin.Stop}
}

// readyStage ends "starting", and says "draining" before anything stops.
func (p *process) readyStage() stage {
	return stage{
		name:  "ready",
		start: func(context.Context) error { p.clear(); return nil },
		stop:  func(context.Context) error { p.health.SetUnready("draining"); return nil },
	}
}

func newApp(name string, p *process, list []stage, addrs func() map[string]string) *App {
	all := append([]stage{p.adminStage()}, list...)
	all = append(all, p.readyStage())
	return &App{name: name, log: p.log, stages: newStages(p.log, all), health: p.health, addrs: addrs}
}

// Ready is closed when every part works.
func (a *App) Ready() <-chan struct{} { return a.stages.ready }

// Addrs returns the addresses that were bound, by listener name. It may be
// called when Ready is closed.
func (a *App) Addrs() map[string]string { return a.addrs() }

// Run runs the process until ctx ends, a part fails, or a signal asks it to
// stop (SIGINT, SIGTERM, SIGQUIT). A second signal dumps all goroutines to
// stderr and exits at once.
func (a *App) Run(ctx context.Context) error {
	app := kratos.New(
		kratos.Context(ctx),
		kratos.Name(a.name),
		kratos.Version(obs.Version()),
		kratos.Server(a.stages),
		kratos.Logger(obs.KratosLogger(a.log)),
		kratos.StopTimeout(0), // every stage has its own budget
		kratos.Signal(stopSignals()...),
	)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stopSignals()...)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	go a.watchSignals(signals, done)
	err := app.Run()
	<-a.stages.ended
	return err
}

func (a *App) watchSignals(signals <-chan os.Signal, done <-chan struct{}) {
	for n := 1; ; n++ {
		select {
		case sig := <-signals:
			if n == 1 {
				a.log.Info("stopping; a second signal exits at once", "signal", sig.String())
				continue
			}
			_ = obs.DumpGoroutines(os.Stderr)
			os.Exit(2)
		case <-done:
			return
		}
	}
}

func stopSignals() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT}
}

// newLogger makes the process logger and gives it to kratos, whose own is a
// global.
func newLogger(cfg obs.LogConfig, w io.Writer) (*slog.Logger, error) {
	log, err := cfg.Logger(w)
	if err != nil {
		return nil, err
	}
	klog.SetLogger(obs.KratosLogger(log))
	return log, nil
}

// newDirectory makes the node directory that the configuration chooses.
func newDirectory(cfg registry.Config, p *process) (dir registry.Directory, err error) {
	if cfg.Kind == registry.KindDiscovery {
		dir, err = discovery.New(cfg.Discovery, p.log)
	} else {
		dir, err = static.New(cfg.Static, net.DefaultResolver, p.log)
	}
	if err != nil {
		return nil, err
	}
	p.keep(dir.Close)
	p.health.Ready("registry", func(context.Context) error { return dir.Ready() })
	return dir, nil
}

// directoryStage only has to end the directory.
func directoryStage(dir registry.Directory, p *process) stage {
	return stage{name: "registry", stop: p.unregister(dir.Close)}
}

// registrationStage keeps a node registered while everything below works.
func registrationStage(name string, dir registry.Directory, self *kregistry.ServiceInstance, p *process) stage {
	return stage{
		name:  name,
		start: func(ctx context.Context) error { return dir.Register(ctx, self) },
		stop:  p.unregister(func(ctx context.Context) error { return dir.Deregister(ctx, self) }),
	}
}

// unregister makes a failure to leave the directory a word in the log: without
// renewals the directory forgets the node by itself, and a process that did
// everything else right has stopped in good order.
func (p *process) unregister(leave func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := leave(ctx); err != nil {
			p.log.Warn("the directory was not told that this node stops", "error", err)
		}
		return nil
	}
}

// advertised is the address under which others reach a listener: the
// configured one, or the listener's own with the first global address of this
// machine in place of "all addresses".
func advertised(configured string, l net.Listener) string {
	if configured != "" {
		return configured
	}
	a := l.Addr().(*net.TCPAddr)
	if !a.IP.IsUnspecified() {
		return a.String()
	}
	addrs, _ := net.InterfaceAddrs()
	for _, ia := range addrs {
		if n, ok := ia.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return (&net.TCPAddr{IP: n.IP, Port: a.Port}).String()
		}
	}
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: a.Port}).String()
}

// fileReserve is how many of the open files a comet keeps for everything but
// clients: jobs, logic, probes, logs, and the listeners of its loops.
const fileReserve = 400

// maxSessions is what the open-file limit leaves for clients.
func maxSessions(reserve uint64) (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("open-file limit: %w", err)
	}
	if limit.Cur <= reserve+16 {
		return 0, fmt.Errorf("open-file limit is %d, a comet needs %d and one more for each client (ulimit -n)", limit.Cur, reserve+16)
	}
	return int(min(limit.Cur-reserve, 1<<27)), nil
}
