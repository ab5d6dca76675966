package logic

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/perseid-im/perseid/internal/presence"
)

// maxOffered is how many comets a client is told; goim's number.
const maxOffered = 5

// platformWeb gets host names instead of addresses.
const platformWeb = "web"

// Nodes is goim's NodesReply as its JSON has it: the order of the fields, and
// no field that is zero.
type Nodes struct {
	Domain       string   `json:"domain,omitempty"`
	TCPPort      int      `json:"tcp_port,omitempty"`
	WSPort       int      `json:"ws_port,omitempty"`
	WSSPort      int      `json:"wss_port,omitempty"`
	Heartbeat    int      `json:"heartbeat,omitempty"` // seconds
	Nodes        []string `json:"nodes,omitempty"`
	Backoff      Backoff  `json:"backoff"`
	HeartbeatMax int      `json:"heartbeat_max,omitempty"`
}

// Backoff is how clients shall wait before they reconnect.
type Backoff struct {
	MaxDelay  int     `json:"max_delay,omitempty"`  // seconds
	BaseDelay int     `json:"base_delay,omitempty"` // seconds
	Factor    float32 `json:"factor,omitempty"`
	Jitter    float32 `json:"jitter,omitempty"`
}

// Instance is goim's naming.Instance of bilibili/discovery as its JSON has it.
type Instance struct {
	Region    string            `json:"region"`
	Zone      string            `json:"zone"`
	Env       string            `json:"env"`
	AppID     string            `json:"appid"`
	Hostname  string            `json:"hostname"`
	Addrs     []string          `json:"addrs"`
	Version   string            `json:"version"`
	UpdatedNS int64             `json:"latest_timestamp"`
	Metadata  map[string]string `json:"metadata"`
}

// NodesWeighted tells a client where to connect, best first. An invalid ip is
// a client of no region.
func (c *Core) NodesWeighted(platform string, ip netip.Addr) Nodes {
	region, known := c.regions.of(ip)
	gain := 1.0
	if known {
		gain = c.cfg.Node.RegionWeight
	}
	offer := c.balancer.choose(region, gain, maxOffered, func(n presence.NodeInfo) bool {
		return platform == platformWeb || len(publicAddrs(n)) > 0
	})
	var names []string
	for _, n := range offer {
		if platform == platformWeb {
			names = append(names, hostname(n)+c.cfg.Node.HostDomain)
		} else {
			names = append(names, publicAddrs(n)...)
		}
	}
	if len(names) == 0 {
		names = []string{c.cfg.Node.DefaultDomain}
	}
	node, backoff := c.cfg.Node, c.cfg.Backoff
	return Nodes{
		Domain:       node.DefaultDomain,
		TCPPort:      node.TCPPort,
		WSPort:       node.WSPort,
		WSSPort:      node.WSSPort,
		Heartbeat:    int(node.Heartbeat / time.Second),
		Nodes:        names,
		Backoff:      Backoff{backoff.MaxDelay, backoff.BaseDelay, float32(backoff.Factor), float32(backoff.Jitter)},
		HeartbeatMax: node.HeartbeatMax,
	}
}

// NodesInstances lists the comets that take new clients, as goim's discovery
// did; nil when there is none.
func (c *Core) NodesInstances() []Instance {
	var list []Instance
	for _, n := range c.snapshot.Load().nodes {
		if n.Offline {
			continue
		}
		list = append(list, Instance{
			Region: n.Region, Zone: n.Zone, Env: n.Env,
			AppID:     "goim.comet",
			Hostname:  hostname(n),
			Addrs:     []string{"grpc://" + n.GRPCAddr},
			UpdatedNS: n.UpdatedMS * int64(time.Millisecond),
			Metadata: map[string]string{
				"addrs":      strings.Join(publicAddrs(n), ","),
				"conn_count": strconv.FormatInt(n.ConnCount, 10),
				"ip_count":   strconv.FormatInt(n.IPCount, 10),
				"offline":    strconv.FormatBool(n.Offline),
				"weight":     strconv.FormatInt(n.Weight, 10),
			},
		})
	}
	return list
}

func hostname(n presence.NodeInfo) string {
	if n.Hostname != "" {
		return n.Hostname
	}
	return n.Name
}

// publicAddrs leaves out empty addresses: goim offered "" for a comet that
// had none.
func publicAddrs(n presence.NodeInfo) []string {
	addrs := make([]string, 0, len(n.PublicAddrs))
	for _, a := range n.PublicAddrs {
		if a != "" {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
