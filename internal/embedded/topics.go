package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// segmentBytes is the size of a file of records. Only whole files are removed
// from the disk, so it must be small against RetentionBytes.
const segmentBytes = 16 << 20

// minRetentionBytes keeps the removal by size away from the last batch of a
// partition, which is never above 1 MiB.
const minRetentionBytes = 4 << 20

var errTopic = errors.New("a topic has 1 or more partitions and a name of 1 to 249 of a-z A-Z 0-9 . _ -")

// goodTopic checks what Kafka checks and kfake does not.
func goodTopic(name string) bool {
	ok, err := regexp.MatchString(`^[a-zA-Z0-9._-]{1,249}$`, name)
	return err == nil && ok && name != "." && name != ".."
}

// logSettings are the broker's settings, so that a change applies to the topics
// that are there.
func logSettings(cfg Config) map[string]string {
	return map[string]string{
		"log.retention.ms":    "-1", // see sweep
		"log.retention.bytes": strconv.FormatInt(cfg.RetentionBytes, 10),
		"log.segment.bytes":   strconv.Itoa(segmentBytes),
		// A job that was away for a week must go on where it was (Kafka's
		// default forgets then): 100 years.
		"offsets.retention.minutes": "52560000",
	}
}

// makeTopics creates the topics that are not there.
func (k *Kafka) makeTopics(topics []Topic, logger *slog.Logger) error {
	for _, topic := range topics {
		if topic.Partitions < 1 || !goodTopic(topic.Name) {
			return fmt.Errorf("topic %q with %d partitions: %w", topic.Name, topic.Partitions, errTopic)
		}
		has := len(k.cluster.PartitionInfos(topic.Name))
		if has == 0 {
			if err := k.cluster.CreateTopic(topic.Name, topic.Partitions, nil); err != nil {
				return fmt.Errorf("create topic %s: %w", topic.Name, err)
			}
		} else if has != int(topic.Partitions) {
			logger.Warn("a topic keeps the partitions it was made with",
				"topic", topic.Name, "partitions", has, "configured", topic.Partitions)
		}
	}
	return nil
}

// sweep removes old records until Close.
//
// kfake can do it, but not so that we could use it. Its ticker runs only after
// a topic with settings of its own was made in this process. And it removes the
// last record of an idle partition, whose numbering then starts at 0 again
// after a restart: committed offsets and every "already seen" above that are
// wrong. So kfake removes by size only, and age is done here, always leaving
// the last record.
func (k *Kafka) sweep(cfg Config, logger *slog.Logger) {
	defer close(k.swept)
	ticker := time.NewTicker(cfg.RetentionCheck)
	defer ticker.Stop()
	for {
		select {
		case <-k.life.Done():
			return
		case <-ticker.C:
		}
		k.cluster.ApplyRetention()
		if err := k.removeBefore(cfg.Topics, time.Now().Add(-cfg.Retention)); err != nil && k.life.Err() == nil {
			logger.Warn("old records are not removed", "error", err)
		}
	}
}

// removeBefore removes the records of before cutoff.
func (k *Kafka) removeBefore(topics []Topic, cutoff time.Time) error {
	for _, topic := range topics {
		// Read before the question: records that come between are young.
		before := k.cluster.PartitionInfos(topic.Name)
		firsts, err := k.firstSince(topic.Name, before, cutoff)
		if err != nil {
			return fmt.Errorf("first records of %s to keep: %w", topic.Name, err)
		}
		for _, p := range before {
			to := p.HighWatermark - 1 // the last record stays
			if first := firsts[p.Partition]; first >= 0 {
				to = min(to, first)
			}
			if to <= p.LogStartOffset {
				continue
			}
			if err := k.cluster.DeleteRecords(topic.Name, p.Partition, to); err != nil {
				return fmt.Errorf("remove records of %s-%d before %d: %w", topic.Name, p.Partition, to, err)
			}
		}
	}
	return nil
}

// firstSince returns, per partition, the offset of the first record of since
// or later, -1 = none. kfake has no call for it, so this asks as a client.
func (k *Kafka) firstSince(topic string, partitions []*kfake.PartitionInfo, since time.Time) (map[int32]int64, error) {
	ask := kmsg.NewPtrListOffsetsRequest()
	ask.Version = 1
	askTopic := kmsg.NewListOffsetsRequestTopic()
	askTopic.Topic = topic
	for _, p := range partitions {
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = p.Partition, since.UnixMilli()
		askTopic.Partitions = append(askTopic.Partitions, part)
	}
	ask.Topics = append(ask.Topics, askTopic)
	reply := kmsg.NewPtrListOffsetsResponse()
	reply.Version = ask.Version
	if err := k.call(ask, reply); err != nil {
		return nil, err
	}
	firsts := make(map[int32]int64, len(partitions))
	for _, t := range reply.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, fmt.Errorf("partition %d: error %d", p.Partition, p.ErrorCode)
			}
			firsts[p.Partition] = p.Offset
		}
	}
	if len(firsts) != len(partitions) {
		return nil, fmt.Errorf("answers for %d of %d partitions", len(firsts), len(partitions))
	}
	return firsts, nil
}

// callTimeout is far above what a call over loopback takes.
const callTimeout = 10 * time.Second

// call makes one request on a connection of its own.
func (k *Kafka) call(ask kmsg.Request, reply kmsg.Response) (err error) {
	dialer := net.Dialer{Timeout: callTimeout}
	conn, err := dialer.DialContext(k.life, "tcp", k.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	const correlation = 1
	if _, err := conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, ask, correlation)); err != nil {
		return err
	}
	head := make([]byte, 8)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size < 4 || size > maxReplyBytes || binary.BigEndian.Uint32(head[4:]) != correlation {
		return fmt.Errorf("malformed reply of %d bytes", size)
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	return reply.ReadFrom(body)
}

// maxReplyBytes is far above the answer for 10,000 partitions.
const maxReplyBytes = 1 << 20
