package logic_test

import (
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/config"
	"github.com/perseid-im/perseid/internal/logic"
)

func TestDefaultConfigHasNoProblems(t *testing.T) {
	cfg := logic.DefaultConfig()
	if p := cfg.Problems(); len(p) != 0 {
		t.Error(p)
	}
	// The loader knows all kinds of fields used here, and writes them all.
	document := config.Document(&cfg)
	for _, key := range []string{"online_interval", "[node]", "default_domain", "[backoff]", "regions"} {
		if !strings.Contains(string(document), key) {
			t.Errorf("the document lacks %s:\n%s", key, document)
		}
	}
}

func TestConfigProblems(t *testing.T) {
	cfg := logic.Config{Regions: map[string][]string{
		"bj": {"北京", "10.0.0.0/8", "10.1.0.1/16"}, "sh": {"10.1.0.0/16", "::ffff:10.0.0.0/104"},
	}}
	cfg.Node.RegionWeight = 0.5
	all := strings.Join(cfg.Problems(), "\n")
	for _, want := range []string{
		"lease_ttl = 0s: 3s to 10m0s", "rooms_ttl", "online_interval", "nodes_interval", "presence_timeout", "state_timeout", "append_timeout",
		"max_body_bytes = 0: 1 to 16776704", "max_targets", `node.default_domain = "": not empty`, "node.heartbeat = 0s", "node.heartbeat_max",
		"node.region_weight = 0.5: 1 to 1000", "backoff.max_delay", "backoff.factor",
		`regions.bj has "北京"`, `regions.sh has "10.1.0.0/16": a network of one region only, it is in bj too`, `regions.sh has "::ffff:10.0.0.0/104"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("missing %q in\n%s", want, all)
		}
	}
	if strings.Contains(all, "tcp_port") {
		t.Errorf("port 0 is allowed:\n%s", all)
	}
	if _, err := logic.New(cfg, logic.Deps{}); err == nil {
		t.Error("New takes a wrong configuration")
	}
	cfg = logic.DefaultConfig()
	cfg.LeaseTTL = time.Second
	if _, err := logic.New(cfg, logic.Deps{}); err == nil {
		t.Error("New takes a short lease")
	}
}
