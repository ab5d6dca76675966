package testdeps

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Kafka returns the bootstrap address of a real broker, or skips the test: the
// one named by PERSEID_TEST_KAFKA, or one that this test binary shares. The
// broker creates no topic by itself (use [NewTopic]) and forms groups at once;
// sessions may be as short as 1 s.
func Kafka(t testing.TB) string {
	t.Helper()
	if addr := os.Getenv("PERSEID_TEST_KAFKA"); addr != "" {
		if n, err := brokers(addr); err != nil || n == 0 {
			t.Fatalf("PERSEID_TEST_KAFKA = %s: %d brokers, %v", addr, n, err)
		}
		return addr
	}
	part(t, "kafka")
	s, err := sharedKafka()
	if err != nil {
		t.Fatal(err)
	}
	if s.proc.Ended() {
		t.Fatalf("the shared broker has ended; its log ends with:\n%s", s.logTail())
	}
	return s.Addr
}

// sharedKafka is started by the first test and ended by the guard.
//
//nolint:gochecknoglobals // its purpose is to be one per test binary
var sharedKafka = sync.OnceValues(func() (*Server, error) {
	g, err := theGuard()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(g.dir, "kafka")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	s := &Server{kind: kafkaKind(), dir: dir}
	return s, s.startSomewhere()
})

func kafkaKind() kind { return kind{name: "kafka", ports: 2, ready: kafkaReady} }

// kafkaReady asks for the log line, too: after a restart the broker answers
// from its old metadata before it leads its partitions again.
func kafkaReady(s *Server) bool {
	log, err := os.ReadFile(s.logPath())
	if err != nil || !bytes.Contains(log, []byte("Kafka Server started")) {
		return false
	}
	n, err := brokers(s.Addr)
	return err == nil && n > 0
}

// Topic returns a topic (or group) name that no other call returns. It holds
// the test's name, for the reader of a broker's log.
func Topic(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, t.Name())
	return name[:min(len(name), 100)] + "-" + strings.ToLower(rand.Text()[:12])
}

// NewTopic creates a topic with a unique name and waits until all partitions
// have a leader.
func NewTopic(t testing.TB, bootstrap string, partitions int) string {
	t.Helper()
	name := Topic(t)
	if err := createTopic(bootstrap, name, partitions); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
	if err := awaitLeaders(bootstrap, name, partitions); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
	return name
}

func awaitLeaders(bootstrap, topic string, partitions int) error {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	led, err := 0, error(nil)
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); <-poll.C {
		if led, err = ledPartitions(bootstrap, topic); err == nil && led == partitions {
			return nil
		}
	}
	return fmt.Errorf("%d of %d partitions have a leader: %v", led, partitions, err)
}
