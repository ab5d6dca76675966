package clienttest

import (
	"fmt"
	"net"
	"sync"
)

// Server accepts connections on two loopback ports.
type Server struct {
	TCP       string // tcp://127.0.0.1:port
	WebSocket string // ws://127.0.0.1:port/sub

	listeners  []net.Listener
	goroutines sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// Serve starts a server that gives each connection to handle and closes it
// when handle returns. It panics if loopback has no port, as httptest does.
func Serve(handle func(*Peer)) *Server {
	s := &Server{conns: map[net.Conn]struct{}{}}
	s.TCP = "tcp://" + s.listen(handle, false)
	s.WebSocket = "ws://" + s.listen(handle, true) + "/sub"
	return s
}

func (s *Server) listen(handle func(*Peer), webSocket bool) string {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		panic(fmt.Sprintf("clienttest: %v", err))
	}
	s.listeners = append(s.listeners, l)
	s.goroutines.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			s.goroutines.Go(func() { s.serve(conn, handle, webSocket) })
		}
	})
	return l.Addr().String()
}

func (s *Server) serve(conn net.Conn, handle func(*Peer), webSocket bool) {
	defer func() { _ = conn.Close() }() // the script may have
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.conns[conn] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	if p, err := NewPeer(conn, webSocket); err == nil {
		handle(p)
	}
}

// Close ends everything and waits for it.
func (s *Server) Close() {
	for _, l := range s.listeners {
		_ = l.Close() // only once
	}
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close() // the script may have
	}
	s.mu.Unlock()
	s.goroutines.Wait()
}
