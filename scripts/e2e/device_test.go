package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/wire"
)

// device is the SDK with a store of cursors that outlives it, as an application
// uses it, and what it handed out.
type device struct {
	*client.Client
	t       *testing.T
	cursors *client.MemoryCursors
	wire    *tap
	stop    func()

	mu     sync.Mutex
	got    map[string][]client.Message // by timeline
	last   map[string]client.Cursor
	resets map[string]int // told, and not followed by their first message
	skips  []client.Skip
	fault  error
}

// newDevice connects; with the cursors of another device it goes on where that was.
func newDevice(t *testing.T, comet *daemon, mid int64, cursors *client.MemoryCursors, rooms ...string) *device {
	t.Helper()
	return newDeviceBeating(t, 10*time.Second, comet, mid, cursors, rooms...)
}

// newDeviceBeating is newDevice with another interval of heartbeats, whose answers
// may tell of what is still on its way to the device.
func newDeviceBeating(t *testing.T, every time.Duration, comet *daemon, mid int64, cursors *client.MemoryCursors, rooms ...string) *device {
	t.Helper()
	d := &device{t: t, cursors: cursors, wire: &tap{}, got: map[string][]client.Message{}, last: map[string]client.Cursor{}, resets: map[string]int{}}
	var err error
	d.Client, err = client.New(client.Config{
		Address: "tcp://" + comet.addrs["tcp"], Auth: client.Auth{Mid: mid}, Cursors: cursors, Heartbeat: every, DialTimeout: patience,
		Backoff: client.Backoff{Min: 20 * time.Millisecond, Max: time.Second},
		NetDial: d.wire.dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	entered := make(chan struct{}, 1)
	go func() {
		done <- d.Run(ctx, client.Handler{
			Connected: func(ctx context.Context, c *client.Conn) error {
				if len(rooms) > 0 {
					if _, err := c.Join(ctx, rooms...); err != nil {
						return err
					}
				}
				select {
				case entered <- struct{}{}:
				default:
				}
				return nil
			},
			Message: d.message,
			Skipped: d.skipped,
		})
	}()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(d.stop)
	select {
	case <-entered:
	case <-time.After(patience):
		t.Fatalf("user %d does not get in", mid)
	}
	return d
}

// message checks the promise of Run: once, in order, dense from where this
// device was, and each new epoch told before its first message.
func (d *device) message(m client.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, here := d.last[m.Timeline]
	if !here {
		last = d.at(m.Timeline) // a reset may have saved the new epoch already
	}
	switch {
	case m.Seq == 0:
		d.fault = errors.Join(d.fault, fmt.Errorf("%q is not stored", m.Body))
	case last == client.Cursor{} && m.Seq == 1: // the begin
	case m.Epoch == last.Epoch && m.Seq == last.Seq+1:
	case m.Epoch != last.Epoch && m.Seq == 1 && d.resets[m.Timeline] > 0:
		d.resets[m.Timeline]--
	default:
		d.fault = errors.Join(d.fault, fmt.Errorf("%s: %d/%d %q came after %+v, %d resets", m.Timeline, m.Epoch, m.Seq, m.Body, last, d.resets[m.Timeline]))
	}
	d.last[m.Timeline] = client.Cursor{Epoch: m.Epoch, Seq: m.Seq}
	d.got[m.Timeline] = append(d.got[m.Timeline], m)
}

func (d *device) skipped(s client.Skip) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.Reset {
		d.resets[s.Timeline]++
	}
	d.skips = append(d.skips, s)
}

// bodies are those of one timeline, and whether something went wrong.
func (d *device) bodies(timeline string) (list []string, skips []client.Skip, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.got[timeline] {
		list = append(list, string(m.Body))
	}
	return list, slices.Clone(d.skips), d.fault
}

// expect waits for exactly these bodies and no skip.
func (d *device) expect(timeline string, want []string) {
	d.t.Helper()
	waitFor(d.t, time.Minute, func() error {
		got, skips, err := d.bodies(timeline)
		if err != nil || len(skips) > 0 || len(got) > len(want) {
			d.t.Fatalf("%s: %d of %d, skips %v: %v", timeline, len(got), len(want), skips, err)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s: %d of %d: %.300q", timeline, len(got), len(want), got)
		}
		return nil
	})
}

// at is where the device is in a timeline.
func (d *device) at(timeline string) client.Cursor {
	c, _, _ := d.cursors.Load(context.Background(), timeline)
	return c
}

// tap counts what passes on the connections of a device.
type tap struct {
	mu    sync.Mutex
	syncs int   // asked for, beside the one of the auth packet
	pages []int // messages before each answer, from the last one on
	since int
}

func (p *tap) counts() (syncs int, pages []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.syncs, slices.Clone(p.pages)
}

func (p *tap) packet(op wire.Op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case op == wire.OpSync:
		p.syncs++
	case op == wire.OpSyncReply:
		p.pages = append(p.pages, p.since)
		p.since = 0
	case op >= 1000:
		p.since++
	}
}

func (p *tap) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: conn, in: stream{seen: p.packet}, out: stream{seen: p.packet}}, nil
}

// tapped is a connection that shows its packets. As with any net.Conn of the
// client, one goroutine reads and one writes at a time.
type tapped struct {
	net.Conn
	in, out stream
}

func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.add(b[:n])
	return n, err
}

func (c *tapped) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.add(b[:n])
	return n, err
}

// stream finds the packets of one direction.
type stream struct {
	buf  []byte
	seen func(op wire.Op)
}

func (s *stream) add(b []byte) {
	s.buf = append(s.buf, b...)
	for {
		p, n, err := wire.Decoder{MaxBody: -1, Extensions: true}.Next(s.buf)
		if err != nil || n == 0 {
			return
		}
		s.seen(p.Op)
		s.buf = s.buf[n:]
	}
}
