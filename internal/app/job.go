package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/job/cometclient"
	"github.com/perseid-im/perseid/internal/job/logicclient"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/registry"
	"github.com/perseid-im/perseid/internal/stream/kafkastream"
)

// JobConfig is the configuration of the job daemon.
type JobConfig struct {
	Job      job.Config         `toml:"job" doc:"how pushes are moved"`
	Kafka    kafkastream.Config `toml:"kafka" doc:"the log of pushes; the same for logic and job"`
	Registry registry.Config    `toml:"registry" doc:"where the other nodes are"`
	Admin    obs.AdminConfig    `toml:"admin" doc:"metrics, health and profiles"`
	Log      obs.LogConfig      `toml:"log" doc:"what is logged"`
}

// DefaultJobConfig is a job beside one broker and one logic on this machine.
func DefaultJobConfig() JobConfig {
	return JobConfig{
		Job:      job.DefaultConfig(),
		Kafka:    kafkastream.DefaultConfig(),
		Registry: registry.DefaultConfig(),
		Admin:    obs.AdminConfig{Addr: "127.0.0.1:3192"},
		Log:      obs.DefaultLogConfig(),
	}
}

// NewJob wires a job. Logs go to w.
func NewJob(cfg JobConfig, w io.Writer) (_ *App, err error) {
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
	j, err := newJobParts(cfg, p, dir, 2*cfg.Kafka.SessionTimeout)
	if err != nil {
		return nil, err
	}
	list := append([]stage{directoryStage(dir, p)}, j.stages()...)
	return newApp("job", p, list, func() map[string]string { return map[string]string{"admin": p.admin.Addr()} }), nil
}

// jobParts is a job without the process around it.
type jobParts struct {
	cfg      JobConfig
	p        *process
	router   *logicclient.Client
	job      *job.Job
	consumer *kafkastream.Consumer
	lag      partitionLag
	life     context.Context // of the consumer
	halt     context.CancelFunc
	done     chan struct{} // closed when the consumer has returned
}

// newJobParts makes a job whose claims are known as current when they last
// longer than settles.
func newJobParts(cfg JobConfig, p *process, dir registry.Directory, settles time.Duration) (*jobParts, error) {
	j := &jobParts{cfg: cfg, p: p, done: make(chan struct{}), lag: partitionLag{records: map[int32]int64{}}}
	j.life, j.halt = context.WithCancel(context.Background())
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	if j.router, err = logicclient.New(dir, p.log); err != nil {
		return nil, err
	}
	p.keep(func(context.Context) error { j.halt(); return j.router.Close() })
	if j.job, err = job.New(cfg.Job, job.Deps{
		Name: host + "-" + strconv.Itoa(os.Getpid()), Router: j.router, Storage: j.router, Edge: cometclient.New(), Logger: p.log, Metrics: p.metrics,
		Settles: settles,
	}); err != nil {
		return nil, err
	}
	p.health.Ready("route", j.job.Ready)
	if j.consumer, err = kafkastream.NewConsumer(cfg.Kafka, p.log, kafkastream.ConsumerHooks{
		Lag: j.lag.set, Released: j.lag.remove,
	}); err != nil {
		return nil, err
	}
	p.metrics.GaugeSetFunc("perseid_lag_records", "Records behind the newest that was taken, per partition.", "partition", j.lag.emit)
	p.health.Ready("kafka group", func(context.Context) error {
		if !j.consumer.Joined() {
			return errors.New("not a member of the consumer group at the moment")
		}
		return nil
	})
	return j, nil
}

func (j *jobParts) stages() []stage {
	return []stage{
		{
			name:  "route",
			start: j.router.Start,
			stop:  func(context.Context) error { return j.router.Close() },
		},
		{
			name: "dispatch",
			stop: j.job.Close,
		},
		{
			name: "intake",
			start: func(ctx context.Context) error {
				return retry(ctx, j.p.log, "Kafka does not answer", func(ctx context.Context) error {
					return kafkastream.EnsureTopics(ctx, j.cfg.Kafka, j.p.log)
				})
			},
			run: func(context.Context) error {
				defer close(j.done)
				return j.consumer.Run(j.life, j.job.Work)
			},
			budget: j.cfg.Kafka.FinishTimeout + j.cfg.Kafka.RequestTimeout,
			stop: func(ctx context.Context) error {
				j.halt()
				select {
				case <-j.done:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		},
	}
}

// partitionLag keeps the newest lag of the partitions that this job has.
type partitionLag struct {
	mu      sync.Mutex
	records map[int32]int64
}

func (l *partitionLag) set(partition int32, records int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[partition] = records
}

func (l *partitionLag) remove(partition int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.records, partition)
}

func (l *partitionLag) emit(emit func(value string, v float64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for partition, records := range l.records {
		emit(strconv.Itoa(int(partition)), float64(records))
	}
}
