package gnetio

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
)

// countedPages count how often they are used. Where odd is set the places are
// such that no socket can refer to them.
type countedPages struct {
	*pages
	odd                 bool
	puts, writes, drops *atomic.Int64
}

func (p countedPages) Put(b []byte) (at int, ok bool) {
	if at, ok = p.pages.Put(b); ok && p.odd {
		_ = unix.Close(at)
		at, _ = unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if ok {
		p.puts.Add(1)
	}
	return at, ok
}

func (p countedPages) Write(c comet.Conn, b []byte, at int) {
	p.writes.Add(1)
	p.pages.Write(c, b, at)
}

func (p countedPages) Drop(at int) {
	p.drops.Add(1)
	p.pages.Drop(at)
}

// Members that read when all is sent, and the pages have been given back, get
// every byte: from the send queue, which refers to the pages, and from gnet's
// buffer, which has what the send queue did not take. It is the same where the
// system refuses: then it is asked once.
func TestSharedPagesReachEverybody(t *testing.T) {
	const each, pushes, size = 24, 12, 12 << 10
	for _, odd := range []bool{false, true} {
		t.Run(fmt.Sprintf("odd=%t", odd), func(t *testing.T) {
			var puts, writes, drops atomic.Int64
			f := serve(t, func(f *fixture) {
				f.net.Loops, f.net.SendBuffer, f.cfg.OutboxBytes = 1, 32<<10, 4<<20
				f.pages = func() comet.Pages { return countedPages{&pages{files: new(atomic.Int32)}, odd, &puts, &writes, &drops} }
			})
			var members []*client
			for i := range each {
				for kind, dial := range []func() *client{f.tcp, f.websocket, func() *client { return f.narrow(f.server.TCPAddr()) }} {
					c := dial()
					c.auth(1, fmt.Sprintf(`{"key":"%d-%d","room_id":"live://1"}`, kind, i))
					members = append(members, c)
				}
			}
			random := rand.NewChaCha8([32]byte{})
			var sent []string
			for range pushes {
				body := make([]byte, size)
				_, _ = random.Read(body)
				sent = append(sent, string(body))
				if r := f.push(toRoom("live://1", 1000, string(body))); r[0].Delivered != uint32(len(members)) {
					t.Fatalf("%+v of %d members", r, len(members))
				}
			}
			comettest.WaitFor(t, "all pages are given back", func() bool { return drops.Load() == puts.Load() })
			for m, c := range members {
				for i, p := range c.pushed(pushes) {
					if string(p.Body) != sent[i] {
						t.Fatalf("member %d: push %d is not what was sent", m, i)
					}
				}
			}
			// Two forms, one of them for twice as many.
			if n := puts.Load(); !odd && n != 2*pushes || odd && n != 1 && n != 2 {
				t.Errorf("put %d times", n)
			}
			if n := writes.Load(); !odd && n < 2*pushes*(each-20) || odd && n == 0 {
				t.Errorf("written %d times", n)
			}
		})
	}
}

// A comet that has as many clients as files allow, and many rooms that are busy,
// must not run out of files: gnet ends when it cannot accept.
func TestPagesTakeFewFiles(t *testing.T) {
	var files atomic.Int32
	loops := []comet.Pages{kernelPages(&files), kernelPages(&files)}
	var places []int
	for len(places) < maxPagesFiles {
		at, ok := loops[len(places)%2].Put([]byte{1})
		if !ok {
			t.Fatalf("put %d times", len(places))
		}
		places = append(places, at)
	}
	for _, l := range loops {
		if _, ok := l.Put([]byte{1}); ok {
			t.Error("put once more")
		}
	}
	for _, at := range places {
		loops[0].Drop(at)
	}
	at, ok := loops[1].Put([]byte{1})
	if !ok {
		t.Fatal("no place after all were given back")
	}
	loops[1].Drop(at)
	if n := files.Load(); n != 0 {
		t.Errorf("%d files", n)
	}
}

// To 2,000 clients that read: what is copied for each of them, and what is not.
func BenchmarkLargeRoomPush(b *testing.B) {
	const members = 2000
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10} {
		for _, shared := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/shared=%t", size, shared), func(b *testing.B) {
				f := serve(b, func(f *fixture) {
					f.net.Loops, f.cfg.OutboxBytes = 1, 4<<20
					f.pages = func() comet.Pages { return &pages{files: new(atomic.Int32), refused: !shared} }
				})
				var reading sync.WaitGroup
				for i := range members {
					c := f.tcp()
					c.auth(1, fmt.Sprintf(`{"key":"%d","room_id":"live://1"}`, i))
					reading.Go(func() { _, _ = io.Copy(io.Discard, c.conn) })
				}
				push := toRoom("live://1", 1000, strings.Repeat("x", size))
				b.ReportAllocs()
				for b.Loop() {
					f.push(push)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/members, "ns/delivery")
				f.stop()
				reading.Wait()
			})
		}
	}
}
