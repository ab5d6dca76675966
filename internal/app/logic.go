package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	kregistry "github.com/go-kratos/kratos/v2/registry"

	"github.com/perseid-im/perseid/internal/hotrooms"
	"github.com/perseid-im/perseid/internal/hotrooms/redishot"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/callback"
	logicgrpc "github.com/perseid-im/perseid/internal/logic/grpcapi"
	"github.com/perseid-im/perseid/internal/logic/httpapi"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/presence/redisreg"
	"github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/stream/kafkastream"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/redistore"
	"github.com/perseid-im/perseid/internal/timeline/sqlstore"
)

// LogicConfig is the configuration of the logic daemon.
type LogicConfig struct {
	Node      LogicNode               `toml:"node" doc:"who this logic is"`
	HTTP      httpapi.Config          `toml:"http" doc:"the push API; it has no authentication: keep it on a private network"`
	GRPC      logicgrpc.Config        `toml:"grpc" doc:"where comets and jobs connect"`
	Logic     logic.Config            `toml:"logic" doc:"what logic decides by"`
	Redis     redisreg.Config         `toml:"redis" doc:"the Redis that keeps presence"`
	Timelines timeline.Config         `toml:"timelines" doc:"stored messages; the same for all logics"`
	Window    redistore.Config        `toml:"window" doc:"the Redis that keeps positions and the newest stored messages"`
	Archive   sqlstore.Config         `toml:"archive" doc:"the database that keeps stored messages for good"`
	Retention sqlstore.RetainConfig   `toml:"retention" doc:"how long the archive keeps messages"`
	HotRooms  hotrooms.Config         `toml:"hot_rooms" doc:"in which rooms most people talk; the same for all logics"`
	Offline   callback.OfflineConfig  `toml:"offline_push" doc:"who is told of stored messages that nobody took"`
	Upstream  callback.UpstreamConfig `toml:"upstream" doc:"who is told of what clients publish"`
	Kafka     kafkastream.Config      `toml:"kafka" doc:"the log of pushes; the same for logic and job"`
	Registry  registry.Config         `toml:"registry" doc:"where the other nodes are"`
	Admin     obs.AdminConfig         `toml:"admin" doc:"metrics, health and profiles"`
	Log       obs.LogConfig           `toml:"log" doc:"what is logged"`
}

// LogicNode is the identity of a logic.
type LogicNode struct {
	Name      string `toml:"name" doc:"unique name of this logic in the registry; empty = the address of its gRPC listener"`
	Advertise string `toml:"advertise" doc:"host:port that comets and jobs dial; empty = the listener's, with this machine's first address"`
}

// Problems lists every setting that is out of range.
func (c *LogicNode) Problems() []string {
	if c.Advertise != "" {
		if _, _, err := registry.SplitAddress(c.Advertise); err != nil {
			return []string{fmt.Sprintf("advertise = %q: allowed is host:port or nothing", c.Advertise)}
		}
	}
	return nil
}

// DefaultLogicConfig has goim's ports.
func DefaultLogicConfig() LogicConfig {
	return LogicConfig{
		HTTP:      httpapi.DefaultConfig(),
		GRPC:      logicgrpc.DefaultConfig(),
		Logic:     logic.DefaultConfig(),
		Redis:     redisreg.DefaultConfig(),
		Timelines: timeline.DefaultConfig(),
		Window:    redistore.DefaultConfig(),
		Archive:   sqlstore.DefaultConfig(),
		Retention: sqlstore.DefaultRetainConfig(),
		HotRooms:  hotrooms.DefaultConfig(),
		Offline:   callback.DefaultOfflineConfig(),
		Upstream:  callback.DefaultUpstreamConfig(),
		Kafka:     kafkastream.DefaultConfig(),
		Registry:  registry.DefaultConfig(),
		Admin:     obs.AdminConfig{Addr: "127.0.0.1:3191"},
		Log:       obs.DefaultLogConfig(),
	}
}

// NewLogic wires a logic. Logs go to w.
func NewLogic(cfg LogicConfig, w io.Writer) (_ *App, err error) {
	log, err := newLogger(cfg.Log, w)
	if err != nil {
		return nil, err
	}
	p, err := newProcess(log, cfg.Admin.Addr)
	if err != nil {
		return nil, fmt.Errorf("admin.addr: %w", err)
	}
	defer p.abandon(&err)
	dir, err := newDirectory(cfg.Registry, p)
	if err != nil {
		return nil, err
	}
	l, err := newLogicParts(cfg, p, dir)
	if err != nil {
		return nil, err
	}
	list := slices.Concat([]stage{directoryStage(dir, p)}, l.stages(), l.pushStages())
	return newApp("logic", p, list, func() map[string]string {
		addrs := l.addrs()
		addrs["admin"] = p.admin.Addr()
		return addrs
	}), nil
}

// logicParts is a logic without the process around it.
type logicParts struct {
	cfg       LogicConfig
	p         *process
	dir       registry.Directory
	presence  *redisreg.Registry
	producer  *kafkastream.Producer
	timelines *timelineParts
	offline   *logic.OfflinePush // nil = off
	hot       *hotrooms.Tracker
	upstream  *logic.Upstream // nil = off
	core      *logic.Core
	http      *httpapi.Server
	rpc       *logicgrpc.Server
	httpL     net.Listener
	grpcL     net.Listener
	self      *kregistry.ServiceInstance
}

func newLogicParts(cfg LogicConfig, p *process, dir registry.Directory) (*logicParts, error) {
	l := &logicParts{cfg: cfg, p: p, dir: dir}
	var err error
	if l.presence, err = redisreg.New(cfg.Redis); err != nil {
		return nil, err
	}
	p.keep(func(context.Context) error { return l.presence.Close() })
	appended := p.metrics.Histogram("perseid_append_seconds", "Time to make a push durable in the log.", obs.Seconds(), "result", []string{"ok", "error"})
	if l.producer, err = kafkastream.NewProducer(cfg.Kafka, p.log, kafkastream.ProducerHooks{
		Appended: func(_ int, took time.Duration, err error) {
			result := 0
			if err != nil {
				result = 1
			}
			appended.Observe(result, took.Seconds())
		},
	}); err != nil {
		return nil, err
	}
	p.keep(l.producer.Close)
	if l.timelines, err = newTimelineParts(cfg, p); err != nil {
		return nil, err
	}
	if l.offline, err = newOfflinePush(cfg, l, p); err != nil {
		return nil, err
	}
	if l.upstream, err = newUpstream(cfg, p); err != nil {
		return nil, err
	}
	if l.hot, err = hotrooms.New(cfg.HotRooms, hotrooms.Deps{Store: redishot.New(l.timelines.window), Logger: p.log, Metrics: p.metrics, Now: time.Now}); err != nil {
		return nil, err
	}
	if l.core, err = logic.New(cfg.Logic, logic.Deps{
		Presence: l.presence, Log: l.producer, Broadcasts: l.presence, Timelines: &l.timelines.late, Requests: l.timelines.window, Offline: l.offline, HotRooms: l.hot, Upstream: l.upstream, Logger: p.log, Metrics: p.metrics, Now: time.Now,
	}); err != nil {
		return nil, err
	}
	if l.httpL, err = p.listen("http.addr", cfg.HTTP.Addr); err != nil {
		return nil, err
	}
	if l.grpcL, err = p.listen("grpc.addr", cfg.GRPC.Addr); err != nil {
		return nil, err
	}
	if l.http, err = httpapi.New(cfg.HTTP, httpapi.Deps{Core: l.core, Listener: l.httpL, Logger: p.log, Metrics: p.metrics}); err != nil {
		return nil, err
	}
	if l.rpc, err = logicgrpc.New(cfg.GRPC, logicgrpc.Deps{Core: l.core, Listener: l.grpcL, Logger: p.log}); err != nil {
		return nil, err
	}
	addr := advertised(cfg.Node.Advertise, l.grpcL)
	name := cfg.Node.Name
	if name == "" {
		name = addr
	}
	l.self = &kregistry.ServiceInstance{ID: name, Name: registry.Logic, Version: obs.Version(), Endpoints: []string{"grpc://" + addr}}
	p.health.Ready("logic", l.core.Ready)
	return l, nil
}

func (l *logicParts) addrs() map[string]string {
	return map[string]string{"http": l.httpL.Addr().String(), "grpc": l.grpcL.Addr().String()}
}

// stages are what comets and jobs need of a logic.
func (l *logicParts) stages() []stage {
	return []stage{
		{
			name:  "presence",
			start: func(ctx context.Context) error { return retry(ctx, l.p.log, "Redis does not answer", l.presence.Ping) },
			stop:  func(context.Context) error { return l.presence.Close() },
		},
		{
			name: "log",
			start: func(ctx context.Context) error {
				if err := retry(ctx, l.p.log, "Kafka does not answer", func(ctx context.Context) error {
					return kafkastream.EnsureTopics(ctx, l.cfg.Kafka, l.p.log)
				}); err != nil {
					return err
				}
				return l.producer.Connect(ctx)
			},
			stop:   l.producer.Close,
			budget: 15 * time.Second,
		},
		l.timelines.stage(l.p),
		offlineStage(l),
		upstreamStage(l),
		{
			name:   "hot rooms",
			start:  l.hot.Start,
			stop:   l.hot.Close,
			budget: 5 * time.Second,
		},
		{
			name:  "logic core",
			start: l.core.Start,
			stop:  l.core.Close,
		},
		{
			name: "logic grpc",
			run:  l.rpc.Start,
			stop: l.rpc.Stop,
		},
	}
}

// pushStages open the push API; they come when everything else works.
func (l *logicParts) pushStages() []stage {
	return []stage{
		{
			name: "logic http",
			run:  l.http.Start,
			stop: func(ctx context.Context) error {
				l.core.Drain() // new pushes get 503 while those under way finish
				return l.http.Stop(ctx)
			},
		},
		registrationStage("logic registration", l.dir, l.self, l.p),
	}
}

// retry calls fn until it works or ctx ends, and says why it waits.
func retry(ctx context.Context, log *slog.Logger, what string, fn func(ctx context.Context) error) error {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := fn(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		log.Warn(what+", trying again", "error", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}
