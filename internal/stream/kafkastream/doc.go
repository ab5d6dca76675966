// Package kafkastream is the durable log on Kafka: the producer that logic
// appends with, the consumer group that job reads with, the format of a record
// and the topics.
//
// # Guarantees
//
// Append returns nil when every record is acknowledged by all in-sync
// replicas. The producer is idempotent: a retry inside it doubles nothing and
// keeps the order of a partition. Messages of a timeline go to one partition,
// as long as the number of partitions stays (see Producer).
//
// A claim is read by one worker, in order. Only the contiguous prefix of
// complete records is marked, only by its current worker, and never after the
// worker returned. Marks are committed at an interval, when a partition is
// revoked, and at the stop. A worker that fails gets every record from the mark
// on again, like another process would.
//
// Memory is bounded: per partition by what is in flight and what is fetched
// ahead, in the producer by what is not acknowledged. A partition whose worker
// is slow is paused; its neighbours are not.
//
// # Concurrency
//
// Producer is safe for concurrent use. One call of Consumer.Run at a time; its
// workers run concurrently, one for each partition.
//
// # Ownership
//
// Bodies of records that a consumer hands out belong to the receiver. Append
// reads message and targets until it returns and keeps neither.
//
// # Non-goals
//
// No transactions. Brokers older than Kafka 3.2 are not supported. Repartition
// of a live topic breaks the order of timelines; nothing here hides that.
package kafkastream
