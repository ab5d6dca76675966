package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	kregistry "github.com/go-kratos/kratos/v2/registry"
	kgrpc "github.com/go-kratos/kratos/v2/transport/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/gnetio"
	cometgrpc "github.com/perseid-im/perseid/internal/comet/grpcapi"
	"github.com/perseid-im/perseid/internal/comet/logicclient"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/registry"
)

// maxMessageBytes of gRPC between the daemons.
const maxMessageBytes = 16 << 20

// CometConfig is the configuration of the comet daemon.
type CometConfig struct {
	Node     CometNode       `toml:"node" doc:"who this comet is"`
	Listen   gnetio.Config   `toml:"listen" doc:"where clients connect"`
	GRPC     CometGRPC       `toml:"grpc" doc:"where jobs connect"`
	Comet    comet.Config    `toml:"comet" doc:"bounds and times of sessions"`
	Registry registry.Config `toml:"registry" doc:"where the other nodes are"`
	Admin    obs.AdminConfig `toml:"admin" doc:"metrics, health and profiles"`
	Log      obs.LogConfig   `toml:"log" doc:"what is logged"`
}

// CometNode is the identity of a comet.
type CometNode struct {
	Name     string   `toml:"name" doc:"unique name of this comet; empty = host name and port of grpc.addr"`
	Region   string   `toml:"region" doc:"region, for nodes/weighted; may be empty"`
	Zone     string   `toml:"zone" doc:"zone; may be empty"`
	Env      string   `toml:"env" doc:"deployment environment; may be empty"`
	Hostname string   `toml:"hostname" doc:"name that nodes/weighted gives to browsers, before its host_domain; empty = the host's name"`
	Addrs    []string `toml:"addrs" doc:"addresses that nodes/weighted gives to other clients (goim: ADDRS)"`
	Weight   int64    `toml:"weight" doc:"share of new clients, against the weights of the other comets; 0 to 1000000"`
	Offline  bool     `toml:"offline" doc:"true hides this comet from new clients"`
}

// Problems lists every setting that is out of range.
func (c *CometNode) Problems() []string {
	var p []string
	if len(c.Name) > 128 || strings.ContainsAny(c.Name, " /|\t\n") {
		p = append(p, fmt.Sprintf("name = %q: allowed is up to 128 bytes without blanks, / and |", c.Name))
	}
	if c.Weight < 0 || c.Weight > 1_000_000 {
		p = append(p, fmt.Sprintf("weight = %d: allowed is 0 to 1000000", c.Weight))
	}
	return p
}

// CometGRPC is the comet's gRPC listener.
type CometGRPC struct {
	Addr      string `toml:"addr" doc:"host:port of the gRPC listener for jobs (goim: :3109); it has no authentication: keep it on a private network"`
	Advertise string `toml:"advertise" doc:"host:port that jobs dial; empty = the listener's, with this machine's first address"`
}

// Problems lists every setting that is out of range.
func (c *CometGRPC) Problems() []string {
	var p []string
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		p = append(p, fmt.Sprintf("addr = %q: allowed is host:port", c.Addr))
	}
	if c.Advertise != "" {
		if _, _, err := registry.SplitAddress(c.Advertise); err != nil {
			p = append(p, fmt.Sprintf("advertise = %q: allowed is host:port or nothing", c.Advertise))
		}
	}
	return p
}

// DefaultCometConfig has goim's ports.
func DefaultCometConfig() CometConfig {
	return CometConfig{
		Node:     CometNode{Weight: 10},
		Listen:   gnetio.DefaultConfig(),
		GRPC:     CometGRPC{Addr: ":3109"},
		Comet:    comet.DefaultConfig(),
		Registry: registry.DefaultConfig(),
		Admin:    obs.AdminConfig{Addr: "127.0.0.1:3190"},
		Log:      obs.DefaultLogConfig(),
	}
}

// NewComet wires a comet. Logs go to w.
func NewComet(cfg CometConfig, w io.Writer) (_ *App, err error) {
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
	c, err := newCometParts(cfg, p, dir, fileReserve)
	if err != nil {
		return nil, err
	}
	list := append([]stage{directoryStage(dir, p)}, c.stages()...)
	return newApp("comet", p, list, func() map[string]string {
		addrs := c.addrs()
		addrs["admin"] = p.admin.Addr()
		return addrs
	}), nil
}

// cometParts is a comet without the process around it.
type cometParts struct {
	cfg      CometConfig
	p        *process
	dir      registry.Directory
	logic    *grpc.ClientConn
	gateway  *comet.Gateway
	edge     *gnetio.Server
	listener net.Listener
	rpc      *grpc.Server
	api      *cometgrpc.Server
	self     *kregistry.ServiceInstance
}

func newCometParts(cfg CometConfig, p *process, dir registry.Directory, reserve uint64) (*cometParts, error) {
	c := &cometParts{cfg: cfg, p: p, dir: dir}
	limit, err := maxSessions(reserve)
	if err != nil {
		return nil, err
	}
	if c.listener, err = p.listen("grpc.addr", cfg.GRPC.Addr); err != nil {
		return nil, err
	}
	grpcAddr := advertised(cfg.GRPC.Advertise, c.listener)
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	if cfg.Node.Hostname == "" {
		cfg.Node.Hostname = host
	}
	if cfg.Node.Name == "" {
		_, port, _ := net.SplitHostPort(grpcAddr)
		cfg.Node.Name = host + "-" + port
	}
	c.logic, err = kgrpc.DialInsecure(context.Background(),
		kgrpc.WithEndpoint("discovery:///"+registry.Logic),
		kgrpc.WithDiscovery(dir),
		kgrpc.WithTimeout(0), // the caller's deadline holds
		kgrpc.WithPrintDiscoveryDebugLog(false),
		kgrpc.WithOptions(
			grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
			// A logic that hangs costs every other auth until this notices.
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("connection to logic: %w", err)
	}
	p.keep(func(context.Context) error { return c.logic.Close() })
	node := comet.Node{Name: cfg.Node.Name, Incarnation: uint64(time.Now().UnixNano())}
	info := comet.NodeInfo{
		GRPCAddr: grpcAddr, Region: cfg.Node.Region, Zone: cfg.Node.Zone, Env: cfg.Node.Env, Hostname: cfg.Node.Hostname,
		PublicAddrs: cfg.Node.Addrs, Weight: cfg.Node.Weight, Offline: cfg.Node.Offline,
	}
	c.gateway, err = comet.New(cfg.Comet, node, info, limit, comet.Deps{
		Logic: logicclient.New(c.logic), Log: p.log, Metrics: p.metrics, Clock: time.Now,
	})
	if err != nil {
		return nil, err
	}
	p.health.Ready("comet lease", c.gateway.Ready)
	if c.edge, err = gnetio.New(cfg.Listen, c.gateway, p.log); err != nil {
		return nil, err
	}
	c.rpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
	)
	c.api = cometgrpc.Register(c.rpc, c.gateway, p.log)
	c.self = &kregistry.ServiceInstance{
		ID: node.Name, Name: registry.Comet, Version: obs.Version(), Endpoints: []string{"grpc://" + grpcAddr},
		Metadata: map[string]string{"weight": fmt.Sprint(cfg.Node.Weight), "addrs": strings.Join(cfg.Node.Addrs, ","), "offline": fmt.Sprint(cfg.Node.Offline)},
	}
	c.cfg = cfg
	return c, nil
}

func (c *cometParts) addrs() map[string]string {
	return map[string]string{"tcp": c.edge.TCPAddr(), "ws": c.edge.WebSocketAddr(), "grpc": c.listener.Addr().String()}
}

func (c *cometParts) stages() []stage {
	return []stage{
		{
			name: "comet connection to logic",
			stop: func(context.Context) error { return c.logic.Close() },
		},
		{
			name: "comet grpc",
			run:  func(context.Context) error { return c.rpc.Serve(c.listener) },
			stop: func(ctx context.Context) error {
				c.api.Close()
				stopped := make(chan struct{})
				go func() { c.rpc.GracefulStop(); close(stopped) }()
				select {
				case <-stopped:
					return nil
				case <-ctx.Done():
					c.rpc.Stop()
					<-stopped
					return errors.New("streams were cut")
				}
			},
		},
		{
			// Before the edge: jobs find a comet by its lease, so a client must
			// not get in before it is taken.
			name:  "comet lease",
			start: c.gateway.Start,
			stop:  c.gateway.Close,
		},
		{
			name:   "comet edge",
			run:    func(context.Context) error { return c.edge.Run() },
			budget: c.cfg.Comet.DrainWindow + 15*time.Second,
			stop: func(ctx context.Context) error {
				drain, cancel := context.WithTimeout(ctx, c.cfg.Comet.DrainWindow+10*time.Second)
				defer cancel()
				return errors.Join(c.gateway.Drain(drain, c.cfg.Comet.DrainWindow), c.edge.Stop(ctx))
			},
		},
		{
			name:  "comet edge accepts",
			start: c.edge.Ready,
		},
		registrationStage("comet registration", c.dir, c.self, c.p),
	}
}
