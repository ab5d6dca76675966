package kafkastream

import (
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := DefaultConfig()
	if p := cfg.Problems(); len(p) > 0 {
		t.Error(p)
	}
	if err := producerConfig(&cfg).Validate(); err != nil {
		t.Error(err)
	}
	if err := consumerConfig(&cfg).Validate(); err != nil {
		t.Error(err)
	}
	if err := deadLetterConfig(&cfg).Validate(); err != nil {
		t.Error(err)
	}
}

func TestProblemsNameEveryKey(t *testing.T) {
	cfg := Config{Brokers: []string{"nowhere"}, InstanceID: "a b"}
	got := strings.Join(cfg.Problems(), "\n")
	for _, key := range []string{
		"brokers", "client_id", "topic", "dlq_topic", "group", "instance_id", "partitions", "replication",
		"dial_timeout", "request_timeout", "outage_timeout", "max_record_bytes", "max_record_targets",
		"max_buffered_bytes", "max_in_flight_records", "max_in_flight_bytes", "commit_interval", "session_timeout",
		"heartbeat_interval", "rebalance_timeout", "finish_timeout", "rebalance_strategy",
	} {
		if !strings.Contains("\n"+got, "\n"+key+" = ") {
			t.Errorf("nothing about %s in\n%s", key, got)
		}
	}
	for change, key := range map[*Config]string{
		with(func(c *Config) { c.DLQTopic = c.Topic }):                       "dlq_topic",
		with(func(c *Config) { c.Brokers = nil }):                            "brokers",
		with(func(c *Config) { c.FinishTimeout = c.RebalanceTimeout }):       "rebalance_timeout",
		with(func(c *Config) { c.HeartbeatInterval = c.SessionTimeout / 2 }): "heartbeat_interval",
		with(func(c *Config) { c.MaxBufferedBytes = c.MaxRecordBytes - 1 }):  "max_buffered_bytes",
		with(func(c *Config) { c.MaxInFlightBytes = c.MaxRecordBytes - 1 }):  "max_in_flight_bytes",
		with(func(c *Config) { c.RebalanceStrategy = "range" }):              "rebalance_strategy",
	} {
		if p := change.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], key+" = ") {
			t.Errorf("%s: problems %q", key, p)
		}
	}
}

func with(change func(*Config)) *Config {
	c := DefaultConfig()
	change(&c)
	return &c
}

func TestBackoffFillsTheOutage(t *testing.T) {
	for _, total := range []time.Duration{time.Second, 40 * time.Second, 10 * time.Minute} {
		sum := time.Duration(0)
		for i := range attempts(total) {
			sum += backoff(i + 1)
		}
		if sum < total || sum > total+2*maxBackoff {
			t.Errorf("%d attempts last %v, wanted %v", attempts(total), sum, total)
		}
	}
}
