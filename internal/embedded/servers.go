package embedded

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
)

// Servers are the servers of the all-in-one.
type Servers struct {
	kafka *Kafka
	redis *Redis
	dir   string
}

// New starts both servers. It returns ErrInUse when another process has the
// data directory.
func New(cfg Config, logger *slog.Logger) (*Servers, error) {
	redis, err := StartRedis(cfg.RedisAddr)
	if err != nil {
		return nil, err
	}
	kafka, err := StartKafka(cfg, logger)
	if err != nil {
		redis.shutDown()
		return nil, err
	}
	return &Servers{kafka: kafka, redis: redis, dir: cfg.DataDir}, nil
}

// KafkaAddr is the address of Kafka.
func (s *Servers) KafkaAddr() string { return s.kafka.Addr() }

// RedisAddr is the address of Redis.
func (s *Servers) RedisAddr() string { return s.redis.Addr() }

// ArchivePath is the file for the archive of timelines. Whoever opens it closes
// it before Close, which gives the data directory up.
func (s *Servers) ArchivePath() string { return filepath.Join(s.dir, "archive.db") }

// Close ends both. It may be called again, and then waits again.
func (s *Servers) Close(ctx context.Context) error {
	return errors.Join(s.kafka.Close(ctx), s.redis.Close(ctx))
}
