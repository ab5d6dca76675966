package load

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perseid-im/perseid/pkg/wire"
)

// BareConfig describes the bare write loop.
type BareConfig struct {
	Conns     int
	Writers   int // threads, each with its share of the connections
	WebSocket bool
	Address   string // to listen at; "" = 127.0.0.1
}

// BareRun asks for rounds: in one round every connection gets one frame.
type BareRun struct {
	PerSecond float64 // rounds; 0 = one after the other
	Rounds    int
	FirstSeq  uint32
	BodyBytes int
	BeginNS   int64 // when the first round is due; 0 = now
	// UntilNS is when no further round begins, if that is before all are
	// written; 0 = never.
	UntilNS int64
}

// BareResult is what the rounds cost.
type BareResult struct {
	BeginNS int64
	Rounds  int // that were written
	Writes  uint64
	Full    uint64 // writes that found a full buffer: that frame is lost
	Broken  uint64 // writes to connections that are gone
	User    time.Duration
	Sys     time.Duration
	Took    time.Duration
	// RoundTime is from the time a round was due to the last write of the last
	// writer; without a rate each writer's own.
	RoundTime Hist
	LastSeq   uint32
	WriterNS  []int64 // CPU time of each writer
}

// Bare is the ceiling: threads that do nothing but write(2) the same frame to
// every connection. It answers WebSocket handshakes and auth, so the same
// client can be used.
type Bare struct {
	cfg     BareConfig
	clock   Clock
	listen  *net.TCPListener
	mu      sync.Mutex
	fds     [][]int32 // by writer
	files   []net.Conn
	closed  bool
	serving sync.WaitGroup
}

// NewBare listens on a loopback port.
func NewBare(cfg BareConfig) (*Bare, error) {
	if cfg.Writers < 1 || cfg.Conns < 1 {
		return nil, fmt.Errorf("load: %d writers for %d connections", cfg.Writers, cfg.Conns)
	}
	at := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if cfg.Address != "" {
		if at.IP = net.ParseIP(cfg.Address); !at.IP.IsLoopback() {
			return nil, fmt.Errorf("load: bare loop at %q: allowed is a loopback address", cfg.Address)
		}
	}
	l, err := net.ListenTCP("tcp", &at)
	if err != nil {
		return nil, fmt.Errorf("load: bare loop: %w", err)
	}
	b := &Bare{cfg: cfg, clock: NewClock(), listen: l, fds: make([][]int32, cfg.Writers)}
	b.serving.Go(b.accept)
	return b, nil
}

// Addr is where it listens.
func (b *Bare) Addr() string { return b.listen.Addr().String() }

// accept answers one connection after the other; the clients are ours and
// send at once.
func (b *Bare) accept() {
	buf := make([]byte, 4096)
	for {
		nc, err := b.listen.AcceptTCP()
		if err != nil {
			return
		}
		if err := b.greet(nc, buf); err != nil {
			_ = nc.Close()
		}
	}
}

func (b *Bare) greet(nc *net.TCPConn, buf []byte) error {
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	reply := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: wire.OpAuthReply, Seq: 1}, nil)
	have := 0
	more := func() error {
		n, err := nc.Read(buf[have:])
		have += n
		return err
	}
	if b.cfg.WebSocket {
		for !bytes.Contains(buf[:have], []byte("\r\n\r\n")) {
			if err := more(); err != nil {
				return err
			}
		}
		if _, err := nc.Write(acceptWebSocket(buf[:have])); err != nil {
			return err
		}
		have = 0
		reply = append([]byte{wsFinBinary, byte(len(reply))}, reply...)
	}
	if err := more(); err != nil { // one packet in one write
		return err
	}
	_ = nc.SetDeadline(time.Time{})
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	fd := int32(-1)
	if err := raw.Control(func(p uintptr) { fd = int32(p) }); err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return net.ErrClosed
	}
	w := len(b.files) % b.cfg.Writers
	b.files = append(b.files, nc)
	b.fds[w] = append(b.fds[w], fd)
	b.mu.Unlock()
	_, err = nc.Write(reply)
	return err
}

// acceptWebSocket answers a handshake.
func acceptWebSocket(request []byte) []byte {
	_, rest, _ := bytes.Cut(request, []byte("Sec-WebSocket-Key: "))
	key, _, _ := bytes.Cut(rest, []byte("\r\n"))
	sum := sha1.Sum(append(bytes.Clone(key), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
}

// frame is the push as comet writes it.
func (b *Bare) frame(body []byte) []byte {
	packet := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: OpRoom}, body)
	if !b.cfg.WebSocket {
		return packet
	}
	packet = append(wire.AppendHeader(nil, wire.Header{Ver: 1, Op: wire.OpRaw}, len(packet)), packet...)
	if len(packet) < 126 {
		return append([]byte{wsFinBinary, byte(len(packet))}, packet...)
	}
	return append([]byte{wsFinBinary, 126, byte(len(packet) >> 8), byte(len(packet))}, packet...)
}

// Run writes rounds.
func (b *Bare) Run(run BareRun) (BareResult, error) {
	b.mu.Lock()
	conns := len(b.files)
	b.mu.Unlock()
	if conns != b.cfg.Conns {
		return BareResult{}, fmt.Errorf("load: %d of %d connections are here", conns, b.cfg.Conns)
	}
	if run.Rounds < 1 || run.BodyBytes < StampLen || run.BodyBytes > 60_000 {
		return BareResult{}, fmt.Errorf("load: %d rounds of %d bytes", run.Rounds, run.BodyBytes)
	}
	gc := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(gc)
	var begun atomic.Int64 // rounds that some writer has begun
	res := BareResult{BeginNS: run.BeginNS, Rounds: run.Rounds}
	if res.BeginNS == 0 {
		res.BeginNS = b.clock.Now()
	}
	run.BeginNS = res.BeginNS
	writers := make([]bareWriter, b.cfg.Writers)
	user, sys := processCPU()
	var wait sync.WaitGroup
	for i := range writers {
		writers[i] = bareWriter{bare: b, fds: b.fds[i], run: run, begun: &begun, ends: make([]int64, run.Rounds), dues: make([]int64, run.Rounds)}
		wait.Go(writers[i].write)
	}
	wait.Wait()
	res.Took = time.Duration(b.clock.Now() - res.BeginNS)
	user1, sys1 := processCPU()
	res.User, res.Sys = time.Duration(user1-user), time.Duration(sys1-sys)
	res.Rounds = int(begun.Load() &^ noMore)
	res.LastSeq = run.FirstSeq + uint32(res.Rounds)
	for i := range writers {
		w := &writers[i]
		res.Writes += w.writes
		res.Full += w.full
		res.Broken += w.broken
		res.WriterNS = append(res.WriterNS, w.cpu)
	}
	for round := range res.Rounds {
		last := int64(0)
		for i := range writers {
			w := &writers[i]
			if run.PerSecond == 0 { // the writers do not wait for each other
				res.RoundTime.Record(w.ends[round] - w.dues[round])
			}
			last = max(last, w.ends[round]-w.dues[round])
		}
		if run.PerSecond > 0 {
			res.RoundTime.Record(last)
		}
	}
	return res, nil
}

// bareWriter is one thread.
type bareWriter struct {
	bare                 *Bare
	fds                  []int32
	run                  BareRun
	begun                *atomic.Int64
	dues, ends           []int64
	writes, full, broken uint64
	cpu                  int64
}

func (w *bareWriter) write() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadCPU()
	body := make([]byte, w.run.BodyBytes)
	frame := w.bare.frame(body)
	stamp := frame[len(frame)-len(body):]
	for round := range w.run.Rounds {
		due := max(w.run.BeginNS, w.bare.clock.Now())
		if w.run.PerSecond > 0 {
			due = w.run.BeginNS + int64(float64(round)/w.run.PerSecond*1e9)
		}
		for wait := due - w.bare.clock.Now(); wait > 0; wait = due - w.bare.clock.Now() {
			ts := unix.NsecToTimespec(wait)
			_ = unix.Nanosleep(&ts, nil)
		}
		if !w.begin(round) {
			break
		}
		PutStamp(stamp, Stamp{DueNS: due, Seq: w.run.FirstSeq + uint32(round)})
		for _, fd := range w.fds {
			n, errno := writeFD(fd, frame)
			switch {
			case errno == 0 && n == len(frame):
				w.writes++
			case errno == unix.EAGAIN || errno == 0:
				w.full++
			default:
				w.broken++
			}
		}
		w.dues[round], w.ends[round] = due, w.bare.clock.Now()
	}
	w.cpu = threadCPU() - began
}

// noMore is set in the count of begun rounds when no further one begins.
const noMore = 1 << 62

// begin says whether the round is written: all writers write the same rounds.
func (w *bareWriter) begin(round int) bool {
	late := w.run.UntilNS > 0 && w.bare.clock.Now() > w.run.UntilNS
	for {
		begun := w.begun.Load()
		count := begun &^ noMore
		next := count + 1
		switch {
		case int64(round) < count:
			return true
		case begun != count:
			return false
		case late:
			next = count | noMore
		}
		if w.begun.CompareAndSwap(begun, next) {
			return !late
		}
	}
}

// Close ends the connections.
func (b *Bare) Close() error {
	err := b.listen.Close()
	b.mu.Lock()
	b.closed = true
	for _, nc := range b.files {
		_ = nc.Close()
	}
	b.mu.Unlock()
	b.serving.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
