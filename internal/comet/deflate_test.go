package comet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// deflating is a fixture of a comet that compresses.
func deflating(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	return newFixture(t, 1, func(c *Config) {
		c.Deflate = true
		if change != nil {
			change(c)
		}
	})
}

// member is a WebSocket session in a room.
func (f *fixture) member(ver int16, deflate bool, room string) *testConn {
	f.t.Helper()
	c := f.open(f.buckets[0], WebSocket)
	f.on(c.bucket, func() { c.bucket.Upgraded(c.session, nil, deflate) })
	f.send(c, ver, wire.OpAuth, 1, fmt.Sprintf(`{"room_id":%q,"accepts":[1000]}`, room))
	waitFor(f.t, "the auth reply", func() bool { return len(c.take()) > 0 })
	return c
}

// take is what was written since the last call.
func (c *testConn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := bytes.Clone(c.written.Bytes())
	c.written.Reset()
	return out
}

// run is the packets of pushes.
func run(bodies ...string) (out []byte) {
	for _, body := range bodies {
		out = wire.AppendPacket(out, wire.Header{Ver: wire.V1, Op: 1000}, []byte(body))
	}
	return out
}

// content checks that wire is one message, compressed or not, and returns it.
func content(t testing.TB, wire []byte, compressed bool) []byte {
	t.Helper()
	var r ws.Reader
	r.InitClient(1 << 20)
	r.AllowDeflate()
	ev, n, err := r.Next(bytes.Clone(wire))
	if err != nil || n != len(wire) || ev.Kind != ws.KindMessage || ev.Op != ws.OpBinary || ev.Deflated != compressed {
		t.Fatalf("%+v, %d of %d bytes, %v; compressed is to be %v", ev, n, len(wire), err, compressed)
	}
	var i ws.Inflater
	if ev, err = i.Message(ev, 1<<20); err != nil {
		t.Fatal(err)
	}
	return ev.Payload
}

func chat(n int) string { return strings.Repeat(`{"type":"chat","text":"hello"}`, n) }

// Every session of a room gets the same packets in the form it agreed on, and
// each compressed form is made once.
func TestRoomWithCompressingSessions(t *testing.T) {
	f := deflating(t, nil)
	const room = "live://1"
	tcp := []*testConn{f.connect(f.buckets[0], 1, `{"room_id":"live://1"}`), f.connect(f.buckets[0], 2, `{"room_id":"live://1"}`)}
	for _, c := range tcp {
		c.take()
	}
	var sessions []*testConn
	for i := range 12 {
		sessions = append(sessions, f.member(int16(1+i%2), i%4 >= 2, room))
	}
	if n := f.g.deflation.sessions.Value(); n != 6 {
		t.Errorf("%d sessions agreed, want 6", n)
	}
	noise := make([]byte, 300)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, c := range []struct {
		what, body      string
		compressed      bool
		deflated, plain uint64 // counted
	}{
		{"large", chat(20), true, 2, 0},
		{"at the bound", strings.Repeat("x", 128-wire.HeaderLen), true, 2, 0},
		{"below the bound", strings.Repeat("x", 127-wire.HeaderLen), false, 0, 0},
		{"noise", string(noise), false, 0, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := &f.g.deflation
			deflated, plain, before, after := d.runs.Value(0), d.runs.Value(1), d.bytes.Value(0), d.bytes.Value(1)
			if r := f.push(Push{Room: room, Op: 1000, Body: []byte(c.body)}); r.Delivered != 14 {
				t.Fatalf("%+v", r)
			}
			packets := run(c.body)
			for _, conn := range tcp {
				if got := conn.take(); !bytes.Equal(got, packets) {
					t.Errorf("TCP: %q", got)
				}
			}
			sizes := 0
			for i, conn := range sessions {
				want := packets
				if i%2 == 0 {
					want = append(wire.AppendHeader(nil, wire.Header{Ver: wire.V1, Op: wire.OpRaw}, len(packets)), packets...)
				}
				got := conn.take()
				if message := content(t, got, c.compressed && i%4 >= 2); !bytes.Equal(message, want) {
					t.Errorf("session %d: %q", i, message)
				}
				if i == 2 || i == 3 {
					sizes += len(got)
				}
			}
			if n, m := d.runs.Value(0)-deflated, d.runs.Value(1)-plain; n != c.deflated || m != c.plain {
				t.Errorf("%d compressed, %d given up; want %d and %d", n, m, c.deflated, c.plain)
			}
			if c.compressed {
				if n, m := d.bytes.Value(0)-before, d.bytes.Value(1)-after; n != uint64(2*len(packets)+wire.HeaderLen) || m != uint64(sizes) {
					t.Errorf("%d bytes became %d, want %d and %d", n, m, 2*len(packets)+wire.HeaderLen, sizes)
				}
			}
		})
	}
}

// The rest of what a session gets: pushes to it alone and to all are compressed
// too, replies are not.
func TestCompressingSession(t *testing.T) {
	f := deflating(t, nil)
	c := f.member(2, true, "live://1")
	id := c.session.ID()
	for _, p := range []Push{{Sessions: []uint64{id}}, {All: true}, {Room: "live://1"}} {
		p.Op, p.Body = 1000, []byte(chat(10))
		if r := f.push(p); r.Delivered != 1 {
			t.Fatalf("%+v", r)
		}
		if got := content(t, c.take(), true); !bytes.Equal(got, run(chat(10))) {
			t.Errorf("%q", got)
		}
	}
	f.send(c, 2, wire.OpSub, 7, strings.Repeat("1,", 200)+"1")
	content(t, c.take(), false)
}

// A run that grows after a form of it was made is made again.
func TestPacketsAfterEncoding(t *testing.T) {
	f := deflating(t, nil)
	var p *packets
	f.on(f.buckets[0], func() { p = f.buckets[0].takePackets() })
	for _, form := range []form{formWrappedDeflated, formMessageDeflated} {
		strip := 0
		if form == formWrappedDeflated {
			strip = wire.HeaderLen
		}
		p.add(1000, []byte("short"), nil)
		if got := content(t, p.encoded(form), false)[strip:]; !bytes.Equal(got, run("short")) {
			t.Errorf("%q", got)
		}
		p.add(1000, []byte(chat(10)), nil)
		if got := content(t, p.encoded(form), true)[strip:]; !bytes.Equal(got, run("short", chat(10))) {
			t.Errorf("%q", got)
		}
		p.reset()
		if got := p.encoded(form); len(got) != 0 {
			t.Errorf("an empty run is %x", got)
		}
	}
}

// nullConn takes everything and keeps nothing.
type nullConn struct{ writes int }

func (c *nullConn) Write([]byte)  { c.writes++ }
func (c *nullConn) Buffered() int { return 0 }
func (c *nullConn) Close()        {}
func (c *nullConn) Reset()        {}
func (c *nullConn) Resume()       {}

// What a broadcast allocates does not depend on how many get it, compressed
// or not.
func TestBroadcastAllocations(t *testing.T) {
	const members = 1000
	f := deflating(t, nil)
	b := f.buckets[0]
	conn := &nullConn{}
	for i := range members {
		c := f.member(int16(1+i%2), i%4 >= 2, "live://1")
		f.on(b, func() { c.session.conn = conn })
	}
	body := []byte(chat(10))
	got := testing.AllocsPerRun(50, func() { f.push(Push{Room: "live://1", Op: 1000, Body: body}) })
	if conn.writes != 51*members {
		t.Errorf("%d writes", conn.writes)
	}
	if got > members/10 {
		t.Errorf("%v allocations for %d receivers", got, members)
	}
}

// BenchmarkEncode is what the first receiver of a run costs, by form.
func BenchmarkEncode(b *testing.B) {
	f := deflating(b, nil)
	var p *packets
	f.on(f.buckets[0], func() { p = f.buckets[0].takePackets() })
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, messages := range []int{1, 10, 100} {
		var bodies [][]byte
		for range messages {
			bodies = append(bodies, fmt.Appendf(nil, `{"type":"chat","room":"live://17","from":{"id":%d,"name":"user%d","level":%d},"ts":%d,"text":"number %d of the evening"}`,
				rnd.IntN(1e7), rnd.IntN(1e5), rnd.IntN(60), 1_700_000_000_000+rnd.IntN(1e6), rnd.IntN(1e4)))
		}
		for i, form := range []form{formWrapped, formWrappedDeflated} {
			b.Run(fmt.Sprintf("%s/messages=%d", []string{"plain", "deflate"}[i], messages), func(b *testing.B) {
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					p.reset()
					for _, body := range bodies {
						p.add(1000, body, nil)
					}
					n = len(p.encoded(form))
				}
				b.ReportMetric(float64(n), "wire-bytes")
			})
		}
	}
}
