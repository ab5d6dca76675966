package app

import (
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/embedded"
	"github.com/perseid-im/perseid/internal/logic/callback"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/registry/static"
)

// AllInOneConfig is what a newcomer may choose; everything else has the
// defaults of the daemons.
type AllInOneConfig struct {
	DataDir   string // of the embedded Kafka and the archive
	TCP       string
	WebSocket string
	HTTP      string
	Admin     string
	Offline   callback.OfflineConfig
	Upstream  callback.UpstreamConfig
	Log       obs.LogConfig
	Loops     int // of the comet; 0 = one per CPU that Go may use
}

// DefaultAllInOneConfig listens on goim's ports, on loopback only.
func DefaultAllInOneConfig() AllInOneConfig {
	return AllInOneConfig{
		DataDir:   "perseid-data",
		TCP:       "127.0.0.1:3101",
		WebSocket: "127.0.0.1:3102",
		HTTP:      "127.0.0.1:3111",
		Admin:     "127.0.0.1:3190",
		Offline:   callback.DefaultOfflineConfig(),
		Upstream:  callback.DefaultUpstreamConfig(),
		Log:       obs.DefaultLogConfig(),
	}
}

// NewAllInOne wires logic, job and comet into one process that talks to itself
// over real loopback sockets, with an embedded Kafka and Redis. It starts the
// embedded servers at once.
func NewAllInOne(cfg AllInOneConfig, w io.Writer) (_ *App, err error) {
	log, err := newLogger(cfg.Log, w)
	if err != nil {
		return nil, err
	}
	p, err := newProcess(log, cfg.Admin)
	if err != nil {
		return nil, fmt.Errorf("-admin: %w", err)
	}
	defer p.abandon(&err)

	lc, cc, jc := DefaultLogicConfig(), DefaultCometConfig(), DefaultJobConfig()
	ec := embedded.DefaultConfig()
	ec.DataDir = cfg.DataDir
	ec.Topics = []embedded.Topic{{Name: lc.Kafka.Topic, Partitions: lc.Kafka.Partitions}, {Name: lc.Kafka.DLQTopic, Partitions: 1}}
	servers, err := embedded.New(ec, log)
	if err != nil {
		return nil, fmt.Errorf("-data: %w", err)
	}
	p.keep(servers.Close)

	lc.HTTP.Addr, lc.GRPC.Addr = cfg.HTTP, "127.0.0.1:0"
	lc.Redis.Addr, lc.Offline, lc.Upstream = servers.RedisAddr(), cfg.Offline, cfg.Upstream
	lc.Archive.DSN, lc.Archive.Sync = "sqlite:"+servers.ArchivePath(), ec.SyncWrites
	lc.Kafka.Brokers, jc.Kafka.Brokers = []string{servers.KafkaAddr()}, []string{servers.KafkaAddr()}
	cc.Listen.TCP, cc.Listen.WebSocket, cc.Listen.Loops, cc.GRPC.Addr = cfg.TCP, cfg.WebSocket, cfg.Loops, "127.0.0.1:0"
	cc.Node.Name = "perseid"
	cc.Node.Addrs = []string{host(cfg.TCP)}
	lc.Logic.Node.TCPPort, lc.Logic.Node.WSPort = port(cfg.TCP), port(cfg.WebSocket)

	dir, err := static.New(registry.StaticConfig{ResolveInterval: 5 * time.Second}, net.DefaultResolver, log)
	if err != nil {
		return nil, err
	}
	p.keep(dir.Close)
	logicPart, err := newLogicParts(lc, p, dir)
	if err != nil {
		return nil, err
	}
	if err = dir.Set(registry.Logic, []string{logicPart.grpcL.Addr().String()}); err != nil {
		return nil, err
	}
	cometPart, err := newCometParts(cc, p, dir, allInOneReserve)
	if err != nil {
		return nil, err
	}
	if err = dir.Set(registry.Comet, []string{cometPart.listener.Addr().String()}); err != nil {
		return nil, err
	}
	jobPart, err := newJobParts(jc, p, dir, 0) // there is no other consumer
	if err != nil {
		return nil, err
	}

	// The push API is last, so that it stops first, and then the job: what was
	// accepted finds its clients still there.
	list := slices.Concat(
		[]stage{{name: "embedded servers", stop: servers.Close}, directoryStage(dir, p)},
		logicPart.stages(), cometPart.stages(), jobPart.stages(), logicPart.pushStages())
	return newApp("perseid", p, list, func() map[string]string {
		addrs := cometPart.addrs()
		delete(addrs, "grpc") // its own affair
		addrs["http"] = logicPart.addrs()["http"]
		addrs["admin"] = p.admin.Addr()
		return addrs
	}), nil
}

// allInOneReserve is fileReserve for a process that also holds the stores and
// the HTTP API.
const allInOneReserve = 2000

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil || h == "" {
		return "127.0.0.1"
	}
	return h
}

func port(addr string) int {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := net.LookupPort("tcp", p)
	if err != nil {
		return 0
	}
	return n
}
