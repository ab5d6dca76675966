package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// ErrInUse is what StartKafka and New answer when another process has the data
// directory.
var ErrInUse = errors.New("in use by another process")

// Kafka is an embedded Kafka of one broker.
type Kafka struct {
	cluster *kfake.Cluster
	addr    string
	lock    *os.File
	logger  *kafkaLogger

	life     context.Context // of the retention; Close ends it
	end      context.CancelFunc
	swept    chan struct{} // closed when the retention has ended
	stopOnce sync.Once
	closed   chan struct{} // closed when everything is down
	err      error         // of Close, valid after closed
}

// StartKafka opens the data directory and starts to serve. It returns
// ErrInUse when another process has the directory.
func StartKafka(cfg Config, logger *slog.Logger) (*Kafka, error) {
	k, err := startKafka(cfg, logger)
	if err != nil {
		return nil, fmt.Errorf("embedded kafka on %s in data directory %s: %w", cfg.KafkaAddr, cfg.DataDir, err)
	}
	return k, nil
}

func startKafka(cfg Config, logger *slog.Logger) (*Kafka, error) {
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	k := &Kafka{
		lock:   lock,
		logger: &kafkaLogger{logger: logger},
		swept:  make(chan struct{}),
		closed: make(chan struct{}),
	}
	k.life, k.end = context.WithCancel(context.Background())
	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("perseid"),
		kfake.DataDir(filepath.Join(dir, "kafka")),
		kfake.WithLogger(k.logger),
		kfake.BrokerConfigs(logSettings(cfg)),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(k.life, network, cfg.KafkaAddr)
		}),
	}
	if cfg.SyncWrites {
		options = append(options, kfake.SyncWrites())
	}
	k.cluster, err = kfake.NewCluster(options...)
	if err != nil {
		k.end()
		_ = lock.Close()
		return nil, err
	}
	k.addr = k.cluster.ListenAddrs()[0]
	if err := k.makeTopics(cfg.Topics, logger); err != nil {
		close(k.swept)
		k.shutDown()
		return nil, errors.Join(err, k.err)
	}
	go k.sweep(cfg, logger)
	return k, nil
}

// Addr is the address that it serves on.
func (k *Kafka) Addr() string { return k.addr }

// Close writes what is open to the disk, ends the server and releases the data
// directory. If the context ends first it goes on in the background. Clients
// that are still connected lose their connections.
func (k *Kafka) Close(ctx context.Context) error {
	k.stopOnce.Do(func() {
		go k.shutDown()
	})
	select {
	case <-k.closed:
		return k.err
	case <-ctx.Done():
		return fmt.Errorf("close embedded kafka: %w", ctx.Err())
	}
}

func (k *Kafka) shutDown() {
	k.end()
	<-k.swept // a call to a closed cluster waits for ever
	k.logger.keep()
	k.cluster.Close()
	if err := errors.Join(k.logger.kept(), k.lock.Close()); err != nil {
		k.err = fmt.Errorf("close embedded kafka: %w", err)
	}
	close(k.closed)
}

// kafkaLogger gives kfake's warnings and errors to slog. Those of Close are
// kept, because kfake has no other way to tell them.
type kafkaLogger struct {
	logger *slog.Logger

	mu      sync.Mutex
	keeping bool
	errs    []error
}

// Logf is kfake's logging call.
func (l *kafkaLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	if level == kfake.LogLevelNone || level > kfake.LogLevelWarn {
		return
	}
	text := fmt.Sprintf(format, args...)
	if level == kfake.LogLevelWarn {
		l.logger.Warn("embedded kafka", "detail", text)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keeping {
		l.errs = append(l.errs, errors.New(text))
		return
	}
	l.logger.Error("embedded kafka", "detail", text)
}

// keep starts to keep errors instead of logging them.
func (l *kafkaLogger) keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keeping = true
}

func (l *kafkaLogger) kept() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}
