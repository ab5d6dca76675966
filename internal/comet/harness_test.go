package comet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/pkg/wire"
)

// patience is how long a test waits for what must come: the machine may stand
// still for seconds.
const patience = time.Minute

// serial is a Loop on a goroutine of its own.
type serial struct{ tasks chan func() }

func (l *serial) Execute(fn func()) { l.tasks <- fn }
func (l *serial) Yield()            {}
func (l *serial) Pages() Pages      { return nil }

// testConn records what is written. stuck makes the socket take nothing.
type testConn struct {
	mu      sync.Mutex
	written bytes.Buffer
	waits   int
	stuck   bool
	ended   string
	onWrite func()
	resumed int
	bucket  *Bucket
	session *Session
}

func (c *testConn) Write(p []byte) {
	c.mu.Lock()
	if c.stuck {
		c.waits += len(p)
	} else {
		c.written.Write(p)
	}
	fn := c.onWrite
	c.mu.Unlock()
	if fn != nil {
		fn()
	}
}

func (c *testConn) Buffered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waits
}

func (c *testConn) finish(how string) {
	c.mu.Lock()
	c.ended = how
	c.mu.Unlock()
	c.bucket.Closed(c.session)
}

func (c *testConn) Close()  { c.finish("close") }
func (c *testConn) Reset()  { c.finish("reset") }
func (c *testConn) Resume() { c.resumed++ }

// packets decodes everything that was written on a stream connection.
func (c *testConn) packets(t testing.TB) []wire.Packet {
	t.Helper()
	c.mu.Lock()
	buf := bytes.Clone(c.written.Bytes())
	c.mu.Unlock()
	var out []wire.Packet
	for len(buf) > 0 {
		p, n, err := wire.Decoder{MaxBody: -1, Extensions: true}.Next(buf)
		if err != nil || n == 0 {
			t.Fatalf("not whole packets: %x (%v)", buf, err)
		}
		out = append(out, p)
		buf = buf[n:]
	}
	return out
}

// bodies is the bodies of the pushes with this op.
func (c *testConn) bodies(t testing.TB, op wire.Op) (out []string) {
	for _, p := range c.packets(t) {
		if p.Op == op {
			out = append(out, string(p.Body))
		}
	}
	return out
}

// testLogic accepts every token of goim's form; block holds answers back.
type testLogic struct {
	library
	greeting     func(*ConnectResult) // changes what accepted sessions are told
	mu           sync.Mutex
	keys         map[string]uint64
	disconnected []SessionRef
	refreshes    []Refresh
	resync       bool
	fail         error
	failAfter    int // calls of Refresh from here on until fail is set; 0 = never
	failed       int // calls of Refresh
	block        chan struct{}
	hang         bool // Refresh answers nothing
	renewing     func(sessions int)
	rooms        map[string]int32
	canceled     []message.ID
}

func (l *testLogic) Connect(_ context.Context, _ Node, items []ConnectItem) ([]ConnectResult, error) {
	l.mu.Lock()
	block := l.block
	l.mu.Unlock()
	if block != nil {
		<-block
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	out := make([]ConnectResult, len(items))
	for i, it := range items {
		var token struct {
			Mid     int64   `json:"mid"`
			Key     string  `json:"key"`
			Room    string  `json:"room_id"`
			Accepts []int32 `json:"accepts"`
		}
		if err := json.Unmarshal(it.Token, &token); err != nil {
			out[i] = ConnectResult{Code: BadToken.Code(), Reason: err.Error()}
			continue
		}
		if token.Key == "" {
			token.Key = fmt.Sprintf("key-%x", it.Session)
		}
		out[i] = ConnectResult{Mid: token.Mid, Key: token.Key, Room: token.Room, Accepts: token.Accepts, HeartbeatMS: 60_000, Replaced: l.keys[token.Key]}
		if l.greeting != nil {
			l.greeting(&out[i])
		}
		l.keys[token.Key] = it.Session
	}
	return out, nil
}

func (l *testLogic) Disconnect(_ context.Context, _ Node, refs []SessionRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disconnected = append(l.disconnected, refs...)
	return nil
}

func (l *testLogic) Refresh(ctx context.Context, _ Node, r Refresh) (RefreshReply, error) {
	l.mu.Lock()
	renewing := l.renewing
	l.mu.Unlock()
	if renewing != nil {
		renewing(len(r.Sessions))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hang {
		l.mu.Unlock()
		<-ctx.Done()
		l.mu.Lock()
		return RefreshReply{}, ctx.Err()
	}
	l.refreshes = append(l.refreshes, r)
	reply := RefreshReply{Resync: l.resync, Rooms: l.rooms, Canceled: l.canceled}
	l.resync = false
	err := l.fail
	if err != nil {
		l.failed++
	}
	if l.failAfter > 0 {
		if l.failAfter--; l.failAfter == 0 {
			l.fail = errors.New("presence is away")
		}
	}
	return reply, err
}

func (l *testLogic) Leave(context.Context, Node) error { return nil }

// comet under test: a gateway with some loops.
type fixture struct {
	t       testing.TB
	g       *Gateway
	logic   *testLogic
	buckets []*Bucket
	clockMu sync.Mutex
	now     time.Time
	lane    Lane
	offset  int64
	panics  uint64 // expected
}

func newFixture(t testing.TB, loops int, change func(*Config)) *fixture {
	t.Helper()
	cfg := DefaultConfig()
	cfg.LeaseInterval = time.Minute
	cfg.OnlineInterval = time.Minute
	// What a test does not ask for must not come in between when it is held up:
	// no call to logic ends early, and none is made for tops.
	cfg.LogicTimeout = time.Minute
	cfg.TopsPeriod = time.Hour
	if change != nil {
		change(&cfg)
	}
	f := &fixture{t: t, logic: &testLogic{keys: map[string]uint64{}}, now: time.Unix(1_700_000_000, 0), lane: Lane{Log: "push/1", Lanes: 1}}
	g, err := New(cfg, Node{Name: "comet-1", Incarnation: 7}, NodeInfo{}, 1000, Deps{
		Logic: f.logic, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: obs.NewMetrics(), Clock: f.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.g = g
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var ends []func()
	for range loops {
		l := &serial{tasks: make(chan func(), 1024)}
		wg.Go(func() {
			for fn := range l.tasks {
				fn()
			}
		})
		b, err := g.NewBucket(l)
		if err != nil {
			t.Fatal(err)
		}
		f.buckets = append(f.buckets, b)
		ends = append(ends, func() { close(l.tasks) })
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := g.stats.panics.Value(); n != f.panics {
			t.Errorf("%d panics on the loops, want %d", n, f.panics)
		}
		for _, end := range ends {
			end()
		}
		wg.Wait()
	})
	return f
}

func (f *fixture) clock() time.Time {
	f.clockMu.Lock()
	defer f.clockMu.Unlock()
	return f.now
}

// advance moves the clock and lets every loop see it.
func (f *fixture) advance(d time.Duration) {
	f.clockMu.Lock()
	f.now = f.now.Add(d)
	f.clockMu.Unlock()
	f.g.Tick()
	for _, b := range f.buckets {
		f.on(b, func() {})
	}
}

// on runs fn on the loop of b, and returns when what it caused there is done.
func (f *fixture) on(b *Bucket, fn func()) {
	f.t.Helper()
	for _, fn := range []func(){fn, func() {}} {
		if err := b.call(f.t.Context(), func(b *Bucket) { fn() }); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) open(b *Bucket, framing Framing) *testConn {
	f.t.Helper()
	c := &testConn{bucket: b}
	f.on(b, func() { c.session = b.Open(c, framing, netip127()) })
	if c.session == nil {
		f.t.Fatal("not admitted")
	}
	return c
}

func (f *fixture) send(c *testConn, ver int16, op wire.Op, seq int32, body string) {
	f.t.Helper()
	f.on(c.bucket, func() {
		c.bucket.Packet(c.session, wire.Packet{Header: wire.Header{Ver: ver, Op: op, Seq: seq}, Body: []byte(body)}, "")
		c.bucket.Flush()
	})
}

// connect opens and authenticates a stream connection.
func (f *fixture) connect(b *Bucket, ver int16, token string) *testConn {
	f.t.Helper()
	c := f.open(b, Stream)
	f.send(c, ver, wire.OpAuth, 1, token)
	waitFor(f.t, "the auth reply", func() bool { return len(c.bodies(f.t, wire.OpAuthReply)) == 1 })
	return c
}

// joinsWait lets joins wait for the jobs however long the test is held up. It
// comes before the first join.
func (f *fixture) joinsWait() { f.g.rooms.timeout = time.Hour }

// push dispatches with the next offset and waits for the result.
func (f *fixture) push(p Push) PushResult {
	f.t.Helper()
	f.offset++
	p.Offset = f.offset
	d, err := f.g.Dispatch(f.t.Context(), f.lane, []Push{p})
	if err != nil {
		f.t.Fatal(err)
	}
	return f.result(d)[0]
}

func (f *fixture) result(d *Delivery) []PushResult {
	f.t.Helper()
	select {
	case <-d.Done():
	case <-time.After(patience):
		f.t.Fatalf("no result\n%s", stacks())
	}
	return d.Results
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s\n%s", what, stacks())
		}
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// TestMain fails when a test leaves a goroutine behind.
func TestMain(m *testing.M) { leakcheck.Main(m) }

func netip127() netip.Addr { return netip.MustParseAddr("127.0.0.1") }
