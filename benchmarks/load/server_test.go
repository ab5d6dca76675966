package load

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// server is a small goim: it answers WebSocket handshakes, auth and
// heartbeats, and writes what a test tells it to.
type server struct {
	t         *testing.T
	listener  net.Listener
	webSocket bool
	handlers  sync.WaitGroup

	mu     sync.Mutex
	conns  map[int64]net.Conn // by mid
	rooms  map[int64]string
	opened int
	beats  int
}

func newServer(t *testing.T, webSocket bool) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, listener: l, webSocket: webSocket, conns: map[int64]net.Conn{}, rooms: map[int64]string{}}
	s.handlers.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.handlers.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for _, nc := range s.conns {
			_ = nc.Close()
		}
		s.mu.Unlock()
		s.handlers.Wait()
	})
	return s
}

func (s *server) addr() string { return s.listener.Addr().String() }

func (s *server) serve(nc net.Conn) {
	defer nc.Close()
	if s.webSocket {
		var head []byte
		for !bytes.Contains(head, []byte("\r\n\r\n")) {
			b := make([]byte, 512)
			n, err := nc.Read(b)
			if err != nil {
				return
			}
			head = append(head, b[:n]...)
		}
		_, _ = nc.Write(acceptWebSocket(head))
	}
	mid := int64(0)
	for {
		packet, err := s.readPacket(nc)
		if err != nil {
			return
		}
		p, _, err := wire.Decoder{MaxBody: -1}.Next(packet)
		if err != nil {
			s.t.Errorf("a client sent %x: %v", packet, err)
			return
		}
		reply := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: p.Op + 1, Seq: p.Seq}, nil)
		s.mu.Lock()
		switch p.Op {
		case wire.OpAuth:
			var room string
			mid, room = parseAuth(s.t, p.Body)
			s.conns[mid], s.rooms[mid] = nc, room
			s.opened++
		case wire.OpHeartbeat:
			s.beats++
			reply = wire.AppendPacket(nil, wire.Header{Ver: 1, Op: p.Op + 1, Seq: p.Seq}, []byte{0, 0, 0, 1})
		}
		s.mu.Unlock()
		_ = s.write(nc, reply) // the client may have gone
	}
}

// readPacket reads one packet, out of its masked frame on a WebSocket.
func (s *server) readPacket(nc net.Conn) ([]byte, error) {
	if !s.webSocket {
		head := make([]byte, 4)
		if _, err := io.ReadFull(nc, head); err != nil {
			return nil, err
		}
		packet := make([]byte, int(head[2])<<8|int(head[3]))
		copy(packet, head)
		_, err := io.ReadFull(nc, packet[4:])
		return packet, err
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(nc, head); err != nil {
		return nil, err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		if _, err := io.ReadFull(nc, head); err != nil {
			return nil, err
		}
		n = int(head[0])<<8 | int(head[1])
	}
	masked := make([]byte, 4+n)
	if _, err := io.ReadFull(nc, masked); err != nil {
		return nil, err
	}
	packet := masked[4:]
	for i := range packet {
		packet[i] ^= masked[i&3]
	}
	return packet, nil
}

// write sends packets, in one frame on a WebSocket.
func (s *server) write(nc net.Conn, packets []byte) error {
	if s.webSocket {
		packets = append([]byte{wsFinBinary, 126, byte(len(packets) >> 8), byte(len(packets))}, packets...)
	}
	_ = nc.SetWriteDeadline(time.Now().Add(time.Minute))
	_, err := nc.Write(packets)
	return err
}

// push sends messages to one connection, as one merged write.
func (s *server) push(mid int64, stamps ...Stamp) {
	s.t.Helper()
	var inner []byte
	for _, st := range stamps {
		body := make([]byte, StampLen)
		PutStamp(body, st)
		inner = wire.AppendPacket(inner, wire.Header{Ver: 1, Op: OpRoom}, body)
	}
	if s.webSocket {
		inner = append(wire.AppendHeader(nil, wire.Header{Ver: 1, Op: wire.OpRaw}, len(inner)), inner...)
	}
	s.mu.Lock()
	nc := s.conns[mid]
	s.mu.Unlock()
	if nc == nil {
		s.t.Fatalf("no connection of user %d", mid)
	}
	if err := s.write(nc, inner); err != nil {
		s.t.Errorf("write: %v", err)
	}
}
