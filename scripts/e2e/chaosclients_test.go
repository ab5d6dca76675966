package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/scripts/e2e/oracle"
)

// follower is an application with pkg/client, and a recorder on its wire.
type follower struct {
	name string
	mid  int64
	room string
	sdk  *client.Client

	mu       sync.Mutex
	seen     oracle.Client
	count    map[string]int // got by the application, by timeline
	connects int
	joined   bool
	ended    []error // of Run, which should go on until it is stopped
}

func (f *follower) follows() []string {
	return []string{"u:" + strconv.FormatInt(f.mid, 10), "r:" + f.room}
}

// followers is all of them; each keeps its cursors over all its connections.
type followers struct {
	all     []*follower
	stop    context.CancelFunc
	running sync.WaitGroup
}

func newFollowers(t *testing.T, cfg chaosConfig, comet func() string) *followers {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	fs := &followers{stop: stop}
	t.Cleanup(fs.close)
	for i := range cfg.clients {
		f := &follower{
			name: fmt.Sprintf("client-%d", i), mid: int64(1 + i%cfg.inboxes), room: fmt.Sprintf("live://%d", 1+i%cfg.rooms),
			count: map[string]int{},
		}
		f.seen.Name, f.seen.Follows = f.name, f.follows()
		var err error
		f.sdk, err = client.New(client.Config{
			Address:   "tcp://comet:0", // see NetDial
			Auth:      client.Auth{Mid: f.mid, Key: f.name, Platform: "ios", Accepts: []wire.Op{1000}},
			Heartbeat: 2 * time.Second,
			Backoff:   client.Backoff{Min: 50 * time.Millisecond, Max: time.Second},
			NetDial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, comet())
				if err != nil {
					return nil, err
				}
				return &recorder{Conn: conn, f: f}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		fs.all = append(fs.all, f)
		fs.running.Go(func() { f.run(ctx) })
	}
	return fs
}

func (fs *followers) close() {
	fs.stop()
	fs.running.Wait()
}

func (f *follower) run(ctx context.Context) {
	err := f.sdk.Run(ctx, client.Handler{
		Connected: func(ctx context.Context, c *client.Conn) error {
			results, err := c.Join(ctx, f.room)
			if err == nil && !results[0].OK {
				err = errors.New(results[0].Reason)
			}
			f.mu.Lock()
			f.connects++
			f.joined = err == nil
			f.mu.Unlock()
			if err != nil {
				return c.Close() // and so another try
			}
			return nil
		},
		Disconnected: func(error, time.Duration) {
			f.mu.Lock()
			f.joined = false
			f.mu.Unlock()
		},
		Message: func(m client.Message) {
			if m.Seq == 0 {
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.seen.App = append(f.seen.App, got(oracle.Position{Timeline: m.Timeline, Epoch: m.Epoch, Seq: m.Seq}, m.ID, m.Body))
			f.count[m.Timeline]++
		},
		Skipped: func(s client.Skip) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.seen.Skips = append(f.seen.Skips, fmt.Sprintf("%+v", s))
		},
	})
	if ctx.Err() == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended = append(f.ended, err)
	}
}

// got reads producer and number out of a body.
func got(p oracle.Position, id [16]byte, body []byte) oracle.Got {
	producer, n, _ := strings.Cut(string(body), "|")
	number, err := strconv.Atoi(n)
	if err != nil {
		producer = fmt.Sprintf("a body nobody sent: %q", body)
	}
	return oracle.Got{Position: p, ID: id, Producer: producer, N: number}
}

// recorder notes the stored pushes that a connection carries. The reader of the
// connection is its only user.
type recorder struct {
	net.Conn
	f   *follower
	buf []byte
}

func (c *recorder) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.buf = append(c.buf, b[:n]...)
	rest := c.buf
	for {
		p, size, bad := wire.Decoder{MaxBody: -1, Extensions: true}.Next(rest)
		if bad != nil || size == 0 {
			break
		}
		if at, ok := wire.ParsePosition(p.Extension); ok {
			if at.Timeline == "" {
				at.Timeline = c.f.follows()[0]
			}
			c.f.mu.Lock()
			c.f.seen.Wire = append(c.f.seen.Wire, got(oracle.Position{Timeline: at.Timeline, Epoch: at.Epoch, Seq: at.Seq}, at.MsgID, p.Body))
			c.f.mu.Unlock()
		}
		rest = rest[size:]
	}
	c.buf = append(c.buf[:0], rest...)
	return n, err
}

// waitJoined waits until all are connected and in their rooms.
func (fs *followers) waitJoined(t *testing.T, within time.Duration) {
	t.Helper()
	waitFor(t, within, func() error {
		for _, f := range fs.all {
			f.mu.Lock()
			joined, ended := f.joined, f.ended
			f.mu.Unlock()
			if !joined {
				return fmt.Errorf("%s is not in its room; %v", f.name, ended)
			}
		}
		return nil
	})
}

// missing compares what the applications got with how much was accepted by
// timeline; the oracle looks closer.
func (fs *followers) missing(accepted map[string]int) error {
	total, first := 0, ""
	for _, f := range fs.all {
		f.mu.Lock()
		for _, tl := range f.follows() {
			if n := accepted[tl] - f.count[tl]; n > 0 {
				total += n
				if first == "" {
					first = fmt.Sprintf("%s has %d of %d of %s, %d connections, joined %v", f.name, f.count[tl], accepted[tl], tl, f.connects, f.joined)
				}
			}
		}
		f.mu.Unlock()
	}
	if total > 0 {
		return fmt.Errorf("%d messages are missing: %s", total, first)
	}
	return nil
}

// random picks one of a list.
func random[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }
