package job

import (
	"fmt"
	"math"
	"time"
)

// Config is the section [job].
type Config struct {
	Lanes             int           `toml:"lanes" doc:"ordered streams to each comet; the same for all jobs of a cluster, change it only while none runs; 1 to 64"`
	DispatchTimeout   time.Duration `toml:"dispatch_timeout" doc:"how long a target waits for a comet that does not answer, before it is dropped and counted; duration; 100ms to 5m"`
	ConnectTimeout    time.Duration `toml:"connect_timeout" doc:"how long one attempt to open a stream to a comet may take; duration; 100ms to 1m"`
	RouteTimeout      time.Duration `toml:"route_timeout" doc:"how long logic may take to route or to archive a batch before another logic is asked; duration; 100ms to 1m"`
	NodeRefresh       time.Duration `toml:"node_refresh" doc:"how often the list of live comets is read when nothing is pushed; duration; 100ms to 1m"`
	MaxBatchRecords   int           `toml:"max_batch_records" doc:"most records that are routed at once; 1 to 10000"`
	MaxBatchBytes     int           `toml:"max_batch_bytes" doc:"most bytes of records that are routed at once, and of pushes that go to a comet at once (one larger record goes alone); bytes; 1024 to 4194304"`
	MaxBatchPushes    int           `toml:"max_batch_pushes" doc:"most pushes that go to a comet at once; 1 to 10000"`
	LaneQueueBytes    int64         `toml:"lane_queue_bytes" doc:"most bytes that wait for an answer in one lane; a full lane holds the partition back; bytes; 65536 to 1073741824"`
	LaneWindow        int           `toml:"lane_window" doc:"most unanswered batches of a lane; 1 to 1024"`
	TopicGeneration   uint32        `toml:"topic_generation" doc:"raised by one whenever the topic of the pushes was made anew, the same for all jobs; 1 to 4294967295"`
	ArchiveQueueBytes int64         `toml:"archive_queue_bytes" doc:"most bytes of a partition that wait for an archive that nothing waits for; what is more is not archived, and counted; bytes; 65536 to 1073741824"`
	ConflictRetry     time.Duration `toml:"conflict_retry" doc:"how often a partition that stopped because a position has two messages looks whether it still has; duration; 10ms to 10m"`
	RetryMin          time.Duration `toml:"retry_min" doc:"first pause before a failed call is repeated; doubled up to retry_max, with jitter; duration; 1ms to 10s"`
	RetryMax          time.Duration `toml:"retry_max" doc:"longest pause before a failed call is repeated; duration; retry_min to 1m"`
}

// DefaultConfig is the configuration that nothing was said about.
func DefaultConfig() Config {
	return Config{
		Lanes:             4,
		DispatchTimeout:   10 * time.Second,
		ConnectTimeout:    3 * time.Second,
		RouteTimeout:      5 * time.Second,
		NodeRefresh:       2 * time.Second,
		MaxBatchRecords:   512,
		MaxBatchBytes:     1 << 20,
		MaxBatchPushes:    1024,
		LaneQueueBytes:    8 << 20,
		LaneWindow:        16,
		TopicGeneration:   1,
		ArchiveQueueBytes: 8 << 20,
		ConflictRetry:     30 * time.Second,
		RetryMin:          20 * time.Millisecond,
		RetryMax:          time.Second,
	}
}

// Problems lists everything that is wrong.
func (c *Config) Problems() []string {
	var problems []string
	number := func(key string, value, least, most int64) {
		if value < least || value > most {
			problems = append(problems, fmt.Sprintf("%s = %d: %d to %d", key, value, least, most))
		}
	}
	duration := func(key string, value, least, most time.Duration) {
		if value < least || value > most {
			problems = append(problems, fmt.Sprintf("%s = %v: %v to %v", key, value, least, most))
		}
	}
	number("lanes", int64(c.Lanes), 1, 64)
	duration("dispatch_timeout", c.DispatchTimeout, 100*time.Millisecond, 5*time.Minute)
	duration("connect_timeout", c.ConnectTimeout, 100*time.Millisecond, time.Minute)
	duration("route_timeout", c.RouteTimeout, 100*time.Millisecond, time.Minute)
	duration("node_refresh", c.NodeRefresh, 100*time.Millisecond, time.Minute)
	number("max_batch_records", int64(c.MaxBatchRecords), 1, 10_000)
	number("max_batch_bytes", int64(c.MaxBatchBytes), 1<<10, 4<<20)
	number("max_batch_pushes", int64(c.MaxBatchPushes), 1, 10_000)
	number("lane_queue_bytes", c.LaneQueueBytes, 64<<10, 1<<30)
	number("lane_window", int64(c.LaneWindow), 1, 1024)
	number("topic_generation", int64(c.TopicGeneration), 1, math.MaxUint32)
	number("archive_queue_bytes", c.ArchiveQueueBytes, 64<<10, 1<<30)
	duration("conflict_retry", c.ConflictRetry, 10*time.Millisecond, 10*time.Minute)
	duration("retry_min", c.RetryMin, time.Millisecond, 10*time.Second)
	duration("retry_max", c.RetryMax, max(c.RetryMin, time.Millisecond), time.Minute)
	return problems
}
