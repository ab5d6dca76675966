package kafkastream

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config is the [kafka] section of logic and job.
type Config struct {
	Brokers     []string      `toml:"brokers" doc:"bootstrap addresses, host:port; at least one"`
	ClientID    string        `toml:"client_id" doc:"name of this client in the brokers' logs and quotas; 1 to 200 of a-z A-Z 0-9 . _ -"`
	Topic       string        `toml:"topic" doc:"topic of the pushes; the same for logic and job"`
	DLQTopic    string        `toml:"dlq_topic" doc:"topic for records that job cannot read"`
	Group       string        `toml:"group" doc:"consumer group of the jobs"`
	Partitions  int32         `toml:"partitions" doc:"partitions of the push topic when it is created, and so the most jobs that share the work; 1 to 4096"`
	Replication int16         `toml:"replication" doc:"replicas of the topics when they are created; 1 to 15, 3 in production"`
	DialTimeout time.Duration `toml:"dial_timeout" doc:"time to connect to a broker, 100ms to 1m"`

	RequestTimeout     time.Duration `toml:"request_timeout" doc:"time for a broker to answer a request, 1s to 2m"`
	Linger             time.Duration `toml:"linger" doc:"interval in which pushes to the rooms of one busy partition leave, to share a batch; where it brings fewer than eight nobody waits; 0s to 1s; 0s: never wait"`
	OutageTimeout      time.Duration `toml:"outage_timeout" doc:"broker restart or leader change that the producer rides over while its callers wait, 1s to 10m"`
	MaxRecordBytes     int           `toml:"max_record_bytes" doc:"size of one record; bodies may be 512 bytes smaller; 2048 to 16777216, and at most what the brokers take"`
	MaxRecordTargets   int           `toml:"max_record_targets" doc:"keys and users that share one record, 1 to 100000"`
	MaxBufferedBytes   int           `toml:"max_buffered_bytes" doc:"bytes that may wait for an acknowledgement in one producer, at least max_record_bytes"`
	MaxInFlightRecords int           `toml:"max_in_flight_records" doc:"records of one partition that may be under way in job, 1 to 1000000; as many again may be fetched ahead"`
	MaxInFlightBytes   int           `toml:"max_in_flight_bytes" doc:"bytes of one partition that may be under way in job, at least max_record_bytes; as many again may be fetched ahead"`
	CommitInterval     time.Duration `toml:"commit_interval" doc:"how often finished offsets are committed, 10ms to 1m; a crash repeats what was finished in between"`
	SessionTimeout     time.Duration `toml:"session_timeout" doc:"silence after which a job loses its partitions, 1s to 5m; brokers allow 6s to 30m by default"`
	HeartbeatInterval  time.Duration `toml:"heartbeat_interval" doc:"interval of heartbeats to the group, 100ms to a third of session_timeout"`
	RebalanceTimeout   time.Duration `toml:"rebalance_timeout" doc:"time for all jobs to take part in a rebalance, 2s to 10m, above finish_timeout"`
	FinishTimeout      time.Duration `toml:"finish_timeout" doc:"time for a partition's worker to finish what is under way when the partition is revoked or job stops, 100ms to 5m"`
	RebalanceStrategy  string        `toml:"rebalance_strategy" doc:"cooperative: only moved partitions stop; sticky: all stop. The same for all jobs of a group"`
	InstanceID         string        `toml:"instance_id" doc:"static member of the group, unique per job; empty: dynamic. A static member keeps its partitions over a restart within session_timeout, and does not hand them over when it stops"`
}

// DefaultConfig is a configuration for one broker on this machine.
func DefaultConfig() Config {
	return Config{
		Brokers:            []string{"127.0.0.1:9092"},
		ClientID:           "perseid",
		Topic:              "perseid-push",
		DLQTopic:           "perseid-push-dlq",
		Group:              "perseid-job",
		Partitions:         16,
		Replication:        1,
		DialTimeout:        5 * time.Second,
		RequestTimeout:     10 * time.Second,
		Linger:             20 * time.Millisecond,
		OutageTimeout:      40 * time.Second,
		MaxRecordBytes:     1_000_000,
		MaxRecordTargets:   1000,
		MaxBufferedBytes:   64 << 20,
		MaxInFlightRecords: 4096,
		MaxInFlightBytes:   8 << 20,
		CommitInterval:     500 * time.Millisecond,
		SessionTimeout:     10 * time.Second,
		HeartbeatInterval:  2 * time.Second,
		RebalanceTimeout:   30 * time.Second,
		FinishTimeout:      15 * time.Second,
		RebalanceStrategy:  "cooperative",
	}
}

// recordRoom is what a record needs besides its body: the fixed fields, the
// Kafka key and at least one target of the longest kind.
const recordRoom = 512

// MaxBodyBytes is the longest body that Append takes.
func (c *Config) MaxBodyBytes() int { return c.MaxRecordBytes - recordRoom }

// legalName is Kafka's rule for topics; clients and groups keep to it, too.
var legalName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,200}$`)

// Problems returns everything that is wrong with the configuration.
func (c *Config) Problems() []string {
	var p []string
	bad := func(key string, value any, allowed string) {
		p = append(p, fmt.Sprintf("%s = %v: %s", key, value, allowed))
	}
	number := func(key string, value, low, high int64) {
		if value < low || value > high {
			bad(key, value, fmt.Sprintf("%d to %d", low, high))
		}
	}
	duration := func(key string, value, low, high time.Duration) {
		if value < low || value > high {
			bad(key, value, fmt.Sprintf("%v to %v", low, high))
		}
	}
	name := func(key, value string) {
		if !legalName.MatchString(value) || strings.Trim(value, ".") == "" {
			bad(key, fmt.Sprintf("%q", value), "1 to 200 of a-z A-Z 0-9 . _ -")
		}
	}

	if len(c.Brokers) == 0 {
		bad("brokers", "[]", "at least one host:port")
	}
	for _, b := range c.Brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			bad("brokers", fmt.Sprintf("%q", b), "host:port")
		}
	}
	name("client_id", c.ClientID)
	name("topic", c.Topic)
	name("dlq_topic", c.DLQTopic)
	name("group", c.Group)
	if c.Topic == c.DLQTopic {
		bad("dlq_topic", fmt.Sprintf("%q", c.DLQTopic), "another topic than topic")
	}
	if c.InstanceID != "" {
		name("instance_id", c.InstanceID)
	}
	number("partitions", int64(c.Partitions), 1, 4096)
	number("replication", int64(c.Replication), 1, 15)
	duration("dial_timeout", c.DialTimeout, 100*time.Millisecond, time.Minute)
	duration("request_timeout", c.RequestTimeout, time.Second, 2*time.Minute)
	duration("linger", c.Linger, 0, time.Second)
	duration("outage_timeout", c.OutageTimeout, time.Second, 10*time.Minute)
	number("max_record_bytes", int64(c.MaxRecordBytes), 2048, 16<<20)
	number("max_record_targets", int64(c.MaxRecordTargets), 1, 100_000)
	number("max_buffered_bytes", int64(c.MaxBufferedBytes), int64(max(c.MaxRecordBytes, 2048)), 64<<30)
	number("max_in_flight_records", int64(c.MaxInFlightRecords), 1, 1_000_000)
	number("max_in_flight_bytes", int64(c.MaxInFlightBytes), int64(max(c.MaxRecordBytes, 2048)), 64<<30)
	duration("commit_interval", c.CommitInterval, 10*time.Millisecond, time.Minute)
	duration("session_timeout", c.SessionTimeout, time.Second, 5*time.Minute)
	duration("heartbeat_interval", c.HeartbeatInterval, 100*time.Millisecond, max(c.SessionTimeout/3, 100*time.Millisecond))
	duration("finish_timeout", c.FinishTimeout, 100*time.Millisecond, 5*time.Minute)
	duration("rebalance_timeout", c.RebalanceTimeout, max(2*time.Second, c.FinishTimeout+time.Second), 10*time.Minute)
	if !slices.Contains([]string{"cooperative", "sticky"}, c.RebalanceStrategy) {
		bad("rebalance_strategy", fmt.Sprintf("%q", c.RebalanceStrategy), "cooperative or sticky")
	}
	return p
}

// err is the problems as one error, nil when there are none.
func (c *Config) err() error {
	if p := c.Problems(); len(p) > 0 {
		return fmt.Errorf("kafka: %s", strings.Join(p, "; "))
	}
	return nil
}
