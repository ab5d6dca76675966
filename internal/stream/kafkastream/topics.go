package kafkastream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/IBM/sarama"
)

// dlqPartitions is the number of partitions of a dead-letter topic that is
// created here. It is read by people.
const dlqPartitions = 1

// EnsureTopics creates the push topic and the dead-letter topic where they are
// missing. Topics that exist are left alone; a push topic with another number
// of partitions than configured is a warning. It tries until ctx ends.
func EnsureTopics(ctx context.Context, cfg Config, logger *slog.Logger) error {
	if err := cfg.err(); err != nil {
		return err
	}
	return untilDone(ctx, logger, "looking for the topics", func() error { return ensureTopics(&cfg, logger) })
}

func ensureTopics(cfg *Config, logger *slog.Logger) (err error) {
	admin, err := sarama.NewClusterAdmin(cfg.Brokers, adminConfig(cfg))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.Close()) }()

	found, err := admin.DescribeTopics([]string{cfg.Topic, cfg.DLQTopic})
	if err != nil {
		return fmt.Errorf("describe topics: %w", err)
	}
	for _, t := range found {
		switch {
		case t.Err == sarama.ErrUnknownTopicOrPartition:
			if err := createTopic(admin, cfg, t.Name, logger); err != nil {
				return err
			}
		case t.Err != sarama.ErrNoError:
			return fmt.Errorf("describe topic %s: %w", t.Name, t.Err)
		case t.Name == cfg.Topic && len(t.Partitions) != int(cfg.Partitions):
			logger.Warn("kafka: the topic has another number of partitions than configured; what it has is used",
				"topic", t.Name, "partitions", len(t.Partitions), "configured", cfg.Partitions)
		}
	}
	return nil
}

func createTopic(admin sarama.ClusterAdmin, cfg *Config, topic string, logger *slog.Logger) error {
	detail := &sarama.TopicDetail{
		NumPartitions:     cfg.Partitions,
		ReplicationFactor: cfg.Replication,
		ConfigEntries:     map[string]*string{},
	}
	set := func(key string, value int) { detail.ConfigEntries[key] = new(strconv.Itoa(value)) }
	// Room for Kafka's own framing of a batch of one.
	set("max.message.bytes", max(cfg.MaxRecordBytes+64<<10, 1<<20))
	if topic == cfg.DLQTopic {
		detail.NumPartitions = dlqPartitions
		// It also takes what others wrote into the push topic, plus headers.
		set("max.message.bytes", 2*max(cfg.MaxRecordBytes+64<<10, 1<<20))
	}
	if cfg.Replication >= 3 {
		set("min.insync.replicas", 2) // an accepted message survives the loss of a broker
	}
	err := admin.CreateTopic(topic, detail, false)
	if err == nil {
		logger.Info("kafka: topic created", "topic", topic, "partitions", detail.NumPartitions, "replication", detail.ReplicationFactor)
		return nil
	}
	if errors.Is(err, sarama.ErrTopicAlreadyExists) { // another process was faster
		return nil
	}
	return fmt.Errorf("create topic %s: %w", topic, err)
}
