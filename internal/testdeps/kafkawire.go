package testdeps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The three questions this package asks a broker, in Kafka's own protocol: the
// package stays without a client library, so its user's client is the only one
// under test. Layouts: https://kafka.apache.org/protocol, Metadata v1 and
// CreateTopics v2.
const (
	keyMetadata     = 3
	keyCreateTopics = 19

	maxAnswerBytes = 1 << 20
	createWithinMs = 30_000
)

// brokers returns how many brokers take requests.
func brokers(addr string) (int, error) {
	a, err := call(addr, keyMetadata, 1, appendInt32(nil, 0)) // of no topic
	if err != nil {
		return 0, err
	}
	return a.int32(), a.err
}

// ledPartitions returns how many partitions of a topic have a leader.
func ledPartitions(addr, topic string) (int, error) {
	a, err := call(addr, keyMetadata, 1, appendString(appendInt32(nil, 1), topic))
	if err != nil {
		return 0, err
	}
	for range a.int32() { // brokers: id, host, port, rack
		a.int32()
		a.string()
		a.int32()
		a.string()
	}
	a.int32() // controller
	led := 0
	for range a.int32() { // topics: error, name, internal, partitions
		code := a.int16()
		a.string()
		a.take(1)
		for range a.int32() { // error, index, leader, replicas, in sync
			if a.int16() == 0 {
				led++
			}
			a.int32()
			a.int32()
			a.take(4 * a.int32())
			a.take(4 * a.int32())
		}
		if code != 0 {
			return 0, fmt.Errorf("error code %d", code)
		}
	}
	return led, a.err
}

// createTopic creates a topic of one replica.
func createTopic(addr, topic string, partitions int) error {
	body := appendString(appendInt32(nil, 1), topic)
	body = appendInt32(body, partitions)
	body = binary.BigEndian.AppendUint16(body, 1) // replicas
	body = appendInt32(body, 0)                   // assignments: the broker's choice
	body = appendInt32(body, 0)                   // settings: the broker's defaults
	body = append(appendInt32(body, createWithinMs), 0)
	a, err := call(addr, keyCreateTopics, 2, body)
	if err != nil {
		return err
	}
	a.int32() // throttled for
	a.int32() // topics: name, error, message
	a.string()
	if code, message := a.int16(), a.string(); a.err == nil && code != 0 {
		return fmt.Errorf("error code %d %s", code, message)
	}
	return a.err
}

// call sends one request on a connection of its own.
func call(addr string, key, version uint16, body []byte) (*answer, error) {
	conn, err := net.DialTimeout("tcp", addr, askWithin)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(createWithinMs * time.Millisecond)); err != nil {
		return nil, err
	}
	request := appendInt32(nil, 2+2+4+2+len(body))
	request = binary.BigEndian.AppendUint16(request, key)
	request = binary.BigEndian.AppendUint16(request, version)
	request = appendInt32(request, 1)                            // correlation
	request = binary.BigEndian.AppendUint16(request, ^uint16(0)) // no client id
	if _, err := conn.Write(append(request, body...)); err != nil {
		return nil, err
	}
	var head [8]byte // size, correlation
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:])) - 4
	if size < 0 || size > maxAnswerBytes {
		return nil, fmt.Errorf("an answer of %d bytes", size)
	}
	a := &answer{rest: make([]byte, size)}
	_, err = io.ReadFull(conn, a.rest)
	return a, err
}

func appendInt32(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// answer reads fields in order; after the first error it reads zeros.
type answer struct {
	rest []byte
	err  error
}

func (a *answer) take(n int) []byte {
	if n < 0 || n > len(a.rest) || a.err != nil {
		a.err = errors.New("a short or malformed answer")
		return make([]byte, 4)[:min(max(n, 0), 4)]
	}
	field := a.rest[:n]
	a.rest = a.rest[n:]
	return field
}

func (a *answer) int16() int { return int(int16(binary.BigEndian.Uint16(a.take(2)))) }
func (a *answer) int32() int { return int(int32(binary.BigEndian.Uint32(a.take(4)))) }

// string reads a nullable string; null is empty.
func (a *answer) string() string {
	if n := a.int16(); n > 0 {
		return string(a.take(n))
	}
	return ""
}
