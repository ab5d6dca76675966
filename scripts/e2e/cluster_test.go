package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/testdeps"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// patience is how long what must happen may take, on a machine that stands
// still for seconds now and then.
const patience = time.Minute

// cluster is a set of daemons on one machine with their real servers.
type cluster struct {
	t         *testing.T
	bin       string
	redis     *testdeps.Server
	kafka     string
	discovery string
	topic     string
	settings  map[string][]string // of a daemon, beside the common ones
	daemons   []*daemon
}

// daemon is one process.
type daemon struct {
	*testdeps.Process
	name  string
	addrs map[string]string // from its ready line
	ready <-chan string
	log   *logBuffer
}

// logBuffer keeps the log of a daemon for a test that fails.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) tail(max int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max0(len(b)-max):])
}

func max0(n int) int { return max(n, 0) }

// newCluster starts the servers; a part that the machine does not have skips
// the test with a word.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, redis: testdeps.Redis(t), kafka: testdeps.Kafka(t), discovery: testdeps.Discovery(t), topic: testdeps.Topic(t), settings: map[string][]string{}}
	c.bin = build(t)
	t.Cleanup(func() {
		if t.Failed() {
			for _, d := range c.daemons {
				t.Logf("--- log of %s\n%s", d.name, d.log.tail(6000))
			}
		}
	})
	return c
}

// patient sets deadlines that a machine that stands still does not reach, for
// tests in which nothing may fail but what the test ends.
func (c *cluster) patient() {
	c.settings["logic"] = append(c.settings["logic"], "http.timeout=40s", "http.write_timeout=50s", "grpc.timeout=1m", "logic.append_timeout=30s",
		"logic.presence_timeout=14s", "redis.dial_timeout=14s", "redis.read_timeout=14s", "redis.write_timeout=14s", "logic.lease_ttl=40s")
	c.settings["comet"] = append(c.settings["comet"], "comet.handshake_timeout=1m", "comet.logic_timeout=1m")
	c.settings["job"] = append(c.settings["job"], "job.connect_timeout=30s")
}

// ownHost is an address of its own for listeners: the port of a killed daemon may
// otherwise be taken by a daemon of another cluster on this machine, and callers
// that still know the old address would work with that one.
func ownHost() string {
	return fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

// builds are the programs by the build tags they have.
var builds struct {
	mu   sync.Mutex
	made map[string]built
}

type built struct {
	dir string
	err error
}

// build compiles the daemons once per run and set of tags.
func build(t *testing.T, tags ...string) string {
	t.Helper()
	builds.mu.Lock()
	defer builds.mu.Unlock()
	key := strings.Join(tags, ",")
	b, made := builds.made[key]
	if !made {
		if b.dir, b.err = os.MkdirTemp("", "perseid-e2e-"); b.err == nil {
			cmd := exec.Command("go", "build", "-tags="+key, "-o", b.dir+"/", "./cmd/comet", "./cmd/logic", "./cmd/job", "./cmd/perseid")
			cmd.Dir = filepath.Join("..", "..")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.err = fmt.Errorf("go build: %w\n%s", err, out)
			}
		}
		if builds.made == nil {
			builds.made = map[string]built{}
		}
		builds.made[key] = b
	}
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.dir
}

// start runs a daemon and waits until it says that it works.
func (c *cluster) start(kind, name string, sets ...string) *daemon {
	c.t.Helper()
	d := c.launch(kind, name, sets...)
	c.waitReady(d)
	return d
}

func (c *cluster) launch(kind, name string, sets ...string) *daemon {
	c.t.Helper()
	common := []string{
		"registry.kind=discovery", "registry.discovery.nodes=" + c.discovery,
		"registry.discovery.region=sh", "registry.discovery.zone=sh001", "registry.discovery.env=dev",
		"admin.addr=127.0.0.1:0",
	}
	kafka := []string{"kafka.brokers=" + c.kafka, "kafka.topic=" + c.topic, "kafka.dlq_topic=" + c.topic + "-dlq", "kafka.group=" + c.topic + "-job", "kafka.partitions=8", "kafka.session_timeout=6s", "kafka.heartbeat_interval=1s"}
	switch kind {
	case "comet":
		common = append(common, "node.name="+name, "listen.tcp=127.0.0.1:0", "listen.websocket=127.0.0.1:0", "grpc.addr=127.0.0.1:0", "comet.drain_window=1s")
	case "logic":
		common = append(common, kafka...)
		common = append(common, "http.addr=127.0.0.1:0", "grpc.addr=127.0.0.1:0", "redis.addr="+c.redis.Addr, "logic.online_interval=500ms", "logic.nodes_interval=500ms")
	case "job":
		common = append(common, kafka...)
	}
	common = append(common, c.settings[kind]...)
	var args []string
	for _, s := range append(common, sets...) {
		args = append(args, "-set", s)
	}
	return c.exec(kind, name, args...)
}

// exec starts one of the programs.
func (c *cluster) exec(kind, name string, args ...string) *daemon {
	c.t.Helper()
	d := &daemon{name: name, log: &logBuffer{}, addrs: map[string]string{}}
	cmd := exec.Command(filepath.Join(c.bin, kind), args...)
	cmd.Stderr = d.log
	pr, pw, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stdout = pw
	d.Process = testdeps.Start(c.t, cmd)
	_ = pw.Close()
	c.t.Cleanup(func() { _ = pr.Close() })
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(pr).ReadString('\n')
		ready <- line
	}()
	c.daemons = append(c.daemons, d)
	d.ready = ready
	return d
}

func (c *cluster) waitReady(d *daemon) {
	c.t.Helper()
	select {
	case line := <-d.ready:
		if !strings.HasPrefix(line, "ready ") {
			c.t.Fatalf("%s said %q\n%s", d.name, line, d.log.tail(4000))
		}
		for _, f := range strings.Fields(line)[1:] {
			k, v, _ := strings.Cut(f, "=")
			d.addrs[k] = v
		}
	case <-time.After(patience):
		c.t.Fatalf("%s is not ready\n%s", d.name, d.log.tail(4000))
	}
}

// httpClient keeps enough idle connections for all producers of a test.
func httpClient(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// post sends a body and returns status and answer.
func post(ctx context.Context, hc *http.Client, url, contentType, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", contentType)
	return do(hc, req)
}

func get(ctx context.Context, hc *http.Client, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	return do(hc, req)
}

func do(hc *http.Client, req *http.Request) (int, string, error) {
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// metric sums the samples of a metric over the labels that contain all of
// the given texts, from a daemon's admin listener.
func (d *daemon) metric(ctx context.Context, hc *http.Client, name string, labels ...string) (float64, error) {
	status, body, err := get(ctx, hc, "http://"+d.addrs["admin"]+"/metrics")
	if err != nil || status != http.StatusOK {
		return 0, errors.Join(err, fmt.Errorf("%s: /metrics answered %d", d.name, status))
	}
	sum := 0.0
next:
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(line, l) {
				continue next
			}
		}
		var v float64
		fields := strings.Fields(line)
		if _, err := fmt.Sscanf(fields[len(fields)-1], "%g", &v); err != nil {
			return 0, fmt.Errorf("%s: %q: %w", d.name, line, err)
		}
		sum += v
	}
	return sum, nil
}

// waitFor waits until ok says nil, and fails with its last answer otherwise.
func waitFor(t *testing.T, d time.Duration, ok func() error) {
	t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("after %s: %v", d, err)
		}
	}
}
