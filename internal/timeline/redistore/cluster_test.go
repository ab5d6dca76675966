package redistore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// masters are a cluster of three, without replicas.
type masters struct {
	*Store
	t     testing.TB
	conns []redis.Conn
	addrs []string
}

func newMasters(t testing.TB) *masters {
	t.Helper()
	m := &masters{t: t}
	var buses []string
	for range 3 {
		bus := strconv.Itoa(busPort(t))
		server := testdeps.Redis(t, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "60000",
			"--enable-debug-command", "local", "--save", "")
		conn, err := redis.Dial("tcp", server.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		m.conns, m.addrs, buses = append(m.conns, conn), append(m.addrs, server.Addr), append(buses, bus)
	}
	for i := range m.conns {
		m.on(i, "CLUSTER", "ADDSLOTSRANGE", i*6000, min(i*6000+5999, slotCount-1))
		m.on(i, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	for i := range m.conns[1:] {
		host, port, err := net.SplitHostPort(m.addrs[i+1])
		if err != nil {
			t.Fatal(err)
		}
		m.on(0, "CLUSTER", "MEET", host, port, buses[i+1])
	}
	for i := range m.conns {
		m.await(i, "cluster_state:ok", "cluster_known_nodes:3")
	}
	cfg := patientConfig(m.addrs[1])
	cfg.Cluster = true
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	m.Store = s
	return m
}

// busPort is free, and below the ports that the kernel gives out and those of
// testdeps: nobody takes it before Redis does.
func busPort(t testing.TB) int {
	t.Helper()
	var err error
	for range 100 {
		port := 10_000 + rand.IntN(10_000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal(err)
	return 0
}

func (m *masters) on(i int, name string, args ...any) any {
	m.t.Helper()
	reply, err := m.conns[i].Do(name, args...)
	if err != nil {
		m.t.Fatalf("%s %v on %d: %v", name, args, i, err)
	}
	return reply
}

// await waits for what CLUSTER INFO says.
func (m *masters) await(i int, all ...string) {
	m.t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-poll.C {
		info, err := redis.String(m.on(i, "CLUSTER", "INFO"), nil)
		if err != nil {
			m.t.Fatal(err)
		}
		met := true
		for _, line := range all {
			met = met && strings.Contains(info, line)
		}
		if met {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("node %d: %s", i, info)
		}
	}
}

// Restart is a failover of each master, at which nothing is lost.
func (m *masters) Restart() {
	for i := range m.conns {
		m.on(i, "DEBUG", "CHANGE-REPL-ID")
	}
}

// Empty is the restart of empty servers.
func (m *masters) Empty() {
	for i := range m.conns {
		m.on(i, "FLUSHALL")
	}
	m.Restart()
}

// Save keeps all keys of all masters.
func (m *masters) Save() (back func()) {
	dump := make([]map[string]any, len(m.conns))
	for i := range m.conns {
		dump[i] = map[string]any{}
		keys, err := redis.Strings(m.on(i, "KEYS", "*"), nil)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, key := range keys {
			dump[i][key] = m.on(i, "DUMP", key)
		}
	}
	return func() {
		m.Empty()
		for i := range dump {
			for key, value := range dump[i] {
				m.on(i, "RESTORE", key, 0, value)
			}
		}
	}
}

func TestWindowOnACluster(t *testing.T) {
	m := newMasters(t)
	timelinetest.WindowSuite(t, func(*testing.T) timelinetest.Losable {
		m.Empty()
		return m
	})
}

func TestFoldHoldsOnACluster(t *testing.T) {
	m := newMasters(t)
	for seed := range uint64(15) {
		m.Empty()
		got, err := timelinetest.FoldRun{Seed: seed, Window: m, Archive: timelinetest.NewArchive(), Generation: 1, Faults: seed%2 == 1, Steps: 200}.Run(t.Context())
		if err != nil || got.Problems != nil {
			t.Errorf("run %d: %.300q, %v", seed, got.Problems, err)
		}
	}
}

// A slot that moves takes its timelines along, and the worker rewinds: the
// state was written by another server.
func TestAMovedSlotIsARewind(t *testing.T) {
	m := newMasters(t)
	tls := []message.Timeline{"u:1", "u:2", "u:3", "u:4", "u:5", "u:6"}
	inc, err := m.Incarnation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say := func(inc timeline.Incarnation, offset int64, seeded bool) []timeline.WindowAppended {
		t.Helper()
		var batch []timeline.WindowAppend
		for _, tl := range tls {
			b := timeline.WindowAppend{Timeline: tl, Mode: timeline.Off, Keep: timeline.Keep{Entries: 9, HardEntries: 9, Bytes: 1 << 20, HardBytes: 1 << 20},
				Records: []timeline.Pending{{At: timeline.Offset{Generation: 1, Offset: offset}, Message: &message.Message{ID: message.ID{byte(offset)}}}}}
			if seeded {
				b.Seed = &timeline.Seed{Epoch: 5, AskedMS: time.Now().UnixMilli()}
			}
			batch = append(batch, b)
		}
		got, err := m.Append(t.Context(), inc, batch)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, r := range say(inc, 1, true) {
		if r.Status != timeline.Applied {
			t.Fatalf("%+v", r)
		}
	}
	slot := slotOf(metaKey(tls[0]))
	from, to := slot/6000, (slot/6000+1)%3
	m.moveSlot(slot, from, to)
	got := say(inc, 2, false)
	for i, tl := range tls {
		want := timeline.Applied
		if slotOf(metaKey(tl)) == slot {
			want = timeline.Rewind
		}
		if got[i].Status != want {
			t.Errorf("%s: %+v, want status %d", tl, got[i], want)
		}
	}
	tops, err := m.Tops(t.Context(), tls)
	if err != nil || !tops[0].Miss || tops[1].Miss {
		t.Errorf("%+v, %v", tops, err)
	}
	next, err := m.Incarnation(t.Context())
	if err != nil || next == inc {
		t.Fatalf("%q, %v", next, err)
	}
	if got := say(next, 3, true); got[0].Status != timeline.Applied || got[0].Verdicts[0].Seq != 1 || got[1].Verdicts[0].Seq != 3 {
		t.Errorf("%+v", got)
	}
}

func (m *masters) moveSlot(slot, from, to int) {
	m.t.Helper()
	id := func(i int) string {
		s, err := redis.String(m.on(i, "CLUSTER", "MYID"), nil)
		if err != nil {
			m.t.Fatal(err)
		}
		return s
	}
	host, port, err := net.SplitHostPort(m.addrs[to])
	if err != nil {
		m.t.Fatal(err)
	}
	m.on(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(from))
	m.on(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
	keys, err := redis.Strings(m.on(from, "CLUSTER", "GETKEYSINSLOT", slot, 100), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, key := range keys {
		m.on(from, "MIGRATE", host, port, key, 0, 60_000)
	}
	m.on(to, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	m.on(from, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
}

func TestSlots(t *testing.T) {
	for key, want := range map[string]int{
		"123456789": 12739, "{user1000}.following": slotOf("user1000"), "foo{}{bar}": int(crc16("foo{}{bar}")) % slotCount,
		"foo{{bar}}zap": slotOf("{bar"), "": 0, metaKey("u:1"): slotOf("u:1"), logKey("r:{a}://}b{"): slotOf(metaKey("r:{a}://}b{")),
	} {
		if got := slotOf(key); got != want {
			t.Errorf("slot of %q: %d, want %d", key, got, want)
		}
	}
	s := snapshot{{0, 5, "a:1:"}, {6, 6, "b:2:"}, {9, 16383, "a:1:"}}
	back, ok := parseSnapshot(s.String())
	if !ok || fmt.Sprint(back) != fmt.Sprint(s) {
		t.Errorf("%v came back as %v", s, back)
	}
	for slot, want := range map[int]string{0: "a:1:", 5: "a:1:", 6: "b:2:", 7: "", 9: "a:1:", 16383: "a:1:"} {
		if got := s.token(slot); got != want {
			t.Errorf("token of %d: %q, want %q", slot, got, want)
		}
	}
	if _, ok := parseSnapshot("run:repl:marker"); ok {
		t.Error("the incarnation of a single Redis is a snapshot")
	}
}

func TestAClusterThatIsAwayIsAnError(t *testing.T) {
	cfg := patientConfig("127.0.0.1:1") // nobody listens there
	cfg.Cluster = true
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a cluster that is away answers")
	}
	if _, err := s.Incarnation(t.Context()); err == nil || errors.Is(err, errReply) {
		t.Errorf("incarnation: %v", err)
	}
}
