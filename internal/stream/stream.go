// Package stream is the durable log between logic and job: the port of the
// producer, the port of a partition, and the tracker that decides which
// offset may be committed. Kafka is behind it (kafkastream).
//
// # Guarantees
//
// Order is the order of a partition and nothing else. All messages of a
// timeline are in one partition. An offset is committed only when every
// record before it is complete; nothing else marks.
package stream

import (
	"context"
	"errors"

	"github.com/perseid-im/perseid/internal/message"
)

// ErrRevoked ends Claim.Next when the partition goes to another owner or the
// consumer stops.
var ErrRevoked = errors.New("stream: partition revoked")

// ErrTooLarge is what Append answers to a message that no record can hold. The
// wrapping error names the size and the limit; a retry cannot help.
var ErrTooLarge = errors.New("stream: message too large")

// Producer is where logic puts what it accepts.
type Producer interface {
	// Append makes the message durable for all targets: it returns nil when
	// every record is acknowledged by all in-sync replicas. After an error
	// some targets may have the message and some not; a caller that retries
	// uses the same message id.
	Append(ctx context.Context, m message.Message, targets []message.Target) error
	// Ping tells whether the log can be reached.
	Ping(ctx context.Context) error
}

// Record is one entry of a partition. Targets of one record share the
// partition, not the timeline.
type Record struct {
	Partition int32
	Offset    int64
	Message   message.Message
	Targets   []message.Target
	Size      int   // bytes of the record in the log
	Err       error // not nil: unreadable; Message and Targets are empty
}

// Claim is the ownership of one partition, from assignment to revocation. Its
// methods are for one worker; Complete is safe for concurrent use.
type Claim interface {
	// Log names the incarnation of the log, "<topic>/<topic id>"; offsets of
	// different logs must not be compared.
	Log() string
	Partition() int32
	// Generation is that of the consumer group in which the partition was
	// assigned: of two claims of a partition, the later one has the higher
	// number, unless the group was made anew in between.
	Generation() int32
	// Next blocks until a record is there and returns all that wait, up to max
	// records. It returns ErrRevoked when no more records will come. The slice
	// is valid until the next call; bodies may be kept.
	Next(ctx context.Context, max int) ([]Record, error)
	// Complete says that the record at offset needs no more work. The
	// contiguous prefix of complete records is marked for commit.
	Complete(offset int64)
	// DeadLetter puts an unreadable record into the dead-letter topic and
	// returns when it is durable there. It does not complete the record. After
	// a revocation it answers ErrRevoked: the next owner gets the record again.
	DeadLetter(ctx context.Context, r Record) error
}

// Worker owns a claim: it returns when Next answered ErrRevoked and all its
// work is finished or given up. The claim is committed and released after it
// returned. ctx ends when the budget for finishing is over.
type Worker func(ctx context.Context, c Claim) error

// Consumer takes partitions of the log and runs one Worker on each.
type Consumer interface {
	// Run blocks until ctx ends and all workers have returned.
	Run(ctx context.Context, w Worker) error
}
