package gnetio

import (
	"errors"
	"net"
	"net/http"
	"net/netip"

	"github.com/panjf2000/gnet/v2"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// maxHandshakeBytes bounds the head of a WebSocket handshake.
const maxHandshakeBytes = 8 << 10

// connection ties a gnet connection to its session. It belongs to the loop.
// There is one for each client, so it is kept within 64 bytes.
type connection struct {
	gc        gnet.Conn
	server    *Server
	session   *comet.Session
	reader    ws.Reader // of a WebSocket
	waiting   *waiting  // nil when nothing waits
	websocket bool
	upgraded  bool // the handshake is done
	answered  bool // the peer has sent a close frame
	lingers   bool // the session has ended, the peer has been told and may answer
}

// waiting is what a WebSocket holds for a session that is not ready for it.
type waiting struct {
	cookie string // for the auth packet
	rest   []byte // packets of a message behind one that paused the session
}

func (c *connection) bucket() *comet.Bucket { return c.session.Bucket() }

// OnOpen starts a session, or refuses the connection.
func (s *Server) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	b, err := s.bucket(gc.EventLoop())
	if err != nil {
		s.log.Error("no bucket for an event loop", "error", err)
		return nil, gnet.Close
	}
	c := &connection{server: s, gc: gc, websocket: s.isWebSocket(gc)}
	framing := comet.Stream
	if c.websocket {
		framing = comet.WebSocket
		c.reader.Init(wire.HeaderLen + wire.MaxBodyV1)
	}
	c.session = b.Open(c, framing, remoteIP(gc))
	if c.session == nil {
		return nil, gnet.Close
	}
	gc.SetContext(c)
	return nil, gnet.None
}

// isWebSocket tells which listener accepted the connection: its address is
// the local address. The listeners may share a port on two addresses.
func (s *Server) isWebSocket(gc gnet.Conn) bool {
	a, ok := gc.LocalAddr().(*net.TCPAddr)
	if !ok || !s.ws.IsValid() || uint16(a.Port) != s.ws.Port() {
		return false
	}
	return s.tcp.Port() != s.ws.Port() || a.AddrPort().Addr().Unmap() == s.ws.Addr().Unmap()
}

func remoteIP(gc gnet.Conn) netip.Addr {
	if a, ok := gc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// OnClose ends the session.
func (s *Server) OnClose(gc gnet.Conn, _ error) gnet.Action {
	if c, ok := gc.Context().(*connection); ok {
		c.bucket().Protect(nil, func() { c.bucket().Closed(c.session) })
	}
	return gnet.None
}

// OnTraffic hands what came to the session.
func (s *Server) OnTraffic(gc gnet.Conn) gnet.Action {
	c, ok := gc.Context().(*connection)
	if !ok {
		return gnet.Close
	}
	s.read(c)
	c.bucket().Flush()
	return gnet.None
}

func (s *Server) read(c *connection) {
	if c.lingers {
		c.bucket().Protect(nil, c.farewell)
		return
	}
	c.bucket().Protect(c.session, func() {
		if c.websocket {
			s.readWebSocket(c)
			return
		}
		s.readStream(c)
	})
	if c.lingers {
		_, _ = c.gc.Discard(-1)
	}
	if c.session.Closed() || !c.session.Paused() {
		return
	}
	// A paused session answers later; a client that goes on sending meanwhile
	// is bounded by what one packet may be.
	if c.gc.InboundBuffered() > c.session.MaxMessage()+maxHandshakeBytes {
		c.bucket().Close(c.session, comet.Limits)
	}
}

// readStream takes every whole packet that is there.
func (s *Server) readStream(c *connection) {
	buf, _ := c.gc.Peek(-1)
	taken := 0
	for !c.session.Paused() && !c.session.Closed() {
		p, n, err := c.session.Decoder().Next(buf[taken:])
		if err != nil {
			c.bucket().Malformed(c.session, err)
			return
		}
		if n == 0 {
			break
		}
		taken += n
		c.bucket().Packet(c.session, p, "")
	}
	c.discard(taken)
}

// readWebSocket takes the handshake, then every whole frame that is there.
func (s *Server) readWebSocket(c *connection) {
	buf, _ := c.gc.Peek(-1)
	taken := 0
	if !c.upgraded {
		n, ok := s.upgrade(c, buf)
		if !ok {
			return
		}
		taken = n
	}
	if c.waiting != nil && len(c.waiting.rest) > 0 && !c.session.Paused() {
		rest := c.waiting.rest
		c.waiting = nil
		c.message(rest)
	}
	for !c.session.Paused() && !c.session.Closed() {
		ev, n, err := c.reader.Next(buf[taken:])
		if err != nil {
			c.failed(err)
			return
		}
		if n == 0 {
			break
		}
		taken += n
		switch ev.Kind {
		case ws.KindMessage:
			if ev.Deflated {
				if !s.inflated(c, ev) {
					return
				}
				continue
			}
			c.message(ev.Payload)
		case ws.KindPing:
			c.bucket().Control(c.session, ws.OpPong, ev.Payload)
		case ws.KindClose:
			c.answered = true
			c.bucket().PeerClosing(c.session, ev.Code)
		}
	}
	c.discard(taken)
}

// maxKeptInflater is the largest buffer, in bytes, with which an inflater waits
// for the next message.
const maxKeptInflater = 64 << 10

// inflated handles a compressed message; false means that the session is
// closed for it. Inflaters are shared by all connections, and the pool gives
// them back to the system when nobody sends.
func (s *Server) inflated(c *connection, ev ws.Event) bool {
	inflater, _ := s.inflaters.Get().(*ws.Inflater)
	if inflater == nil {
		inflater = new(ws.Inflater)
	}
	ev, err := inflater.Message(ev, c.session.MaxMessage())
	if err == nil {
		c.message(ev.Payload)
	}
	if inflater.Held() <= maxKeptInflater {
		s.inflaters.Put(inflater)
	}
	if err != nil {
		c.failed(err)
	}
	return err == nil
}

// failed ends a session whose frames could not be read.
func (c *connection) failed(err error) {
	if pe, ok := errors.AsType[*ws.ProtocolError](err); ok {
		c.bucket().FailWebSocket(c.session, pe.Code, pe.Reason)
		return
	}
	c.bucket().Malformed(c.session, err)
}

// discard gives consumed bytes back, unless the connection is gone.
func (c *connection) discard(n int) {
	if n > 0 && !c.session.Closed() {
		_, _ = c.gc.Discard(n)
	}
}

// upgrade answers the handshake; n is the length of the request.
func (s *Server) upgrade(c *connection, buf []byte) (n int, ok bool) {
	h, n, err := ws.ParseHandshake(buf, maxHandshakeBytes)
	if err == nil && n == 0 {
		return 0, false
	}
	if err == nil && h.Path != s.cfg.WebSocketPath {
		err = &ws.HandshakeError{Status: http.StatusNotFound, Reason: "the WebSocket path of this server is " + s.cfg.WebSocketPath}
	}
	extensions := ""
	if err == nil && s.gateway.Deflates() {
		extensions, err = ws.AcceptDeflate(h.Extensions)
	}
	if err != nil {
		c.Write(ws.AppendHandshakeError(nil, err))
		c.bucket().Malformed(c.session, err)
		return 0, false
	}
	c.upgraded = true
	if h.Cookie != "" {
		c.waiting = &waiting{cookie: h.Cookie}
	}
	if extensions != "" {
		c.reader.AllowDeflate()
	}
	c.bucket().Upgraded(c.session, ws.AppendUpgradeWith(nil, h, extensions), extensions != "")
	return n, true
}

// message hands the packets of one WebSocket message to the session: exactly
// one in version 1, where goim ignores what follows it, and any number in
// version 2.
func (c *connection) message(payload []byte) {
	cookie := ""
	if c.waiting != nil {
		cookie = c.waiting.cookie
	}
	for {
		p, n, err := c.session.Decoder().Next(payload)
		if err == nil && n == 0 {
			err = errShortMessage
		}
		if err != nil {
			c.bucket().Malformed(c.session, err)
			return
		}
		c.bucket().Packet(c.session, p, cookie)
		payload = payload[n:]
		switch {
		case len(payload) == 0 || c.session.Closed() || c.session.Ver() < wire.V2:
			return
		case c.session.Paused():
			c.waiting = &waiting{rest: append([]byte(nil), payload...)}
			return
		}
	}
}

var errShortMessage = errors.New("gnetio: a WebSocket message ends before its packet does")

// Write implements comet.Conn. gnet buffers what the socket does not take,
// and closes the connection itself when the write fails.
func (c *connection) Write(p []byte) { _, _ = c.gc.Write(p) }

// Buffered implements comet.Conn.
func (c *connection) Buffered() int { return c.gc.OutboundBuffered() }

// Close implements comet.Conn. A client that was told why (by a bye packet, a
// close frame or an HTTP status) gets time to read it: closing the socket while
// the client sends would answer with a reset, which overtakes what it has not
// read. A WebSocket client owes a close frame in return (RFC 6455, 7.1.1).
func (c *connection) Close() {
	told := c.session.Ver() >= wire.V2
	if c.websocket {
		told = !c.answered
	}
	if !told {
		_ = c.gc.EventLoop().Close(c.gc)
		return
	}
	c.lingers = true
	if !c.upgraded && c.Buffered() == 0 {
		closeWrite(c.gc.Fd())
	}
	c.bucket().Linger(c.session)
}

// farewell takes what a client sends that was told to go, until its answer.
func (c *connection) farewell() {
	buf, _ := c.gc.Peek(-1)
	for c.upgraded && len(buf) > 0 {
		ev, n, err := c.reader.Next(buf)
		if n == 0 || err != nil {
			break // the rest of a frame is of no interest either
		}
		if ev.Kind == ws.KindClose {
			_ = c.gc.EventLoop().Close(c.gc)
			return
		}
		buf = buf[n:]
	}
	_, _ = c.gc.Discard(-1)
}

// Reset implements comet.Conn: with linger 0 the kernel drops what is unsent.
func (c *connection) Reset() {
	_ = c.gc.SetLinger(0)
	_ = c.gc.EventLoop().Close(c.gc)
}

// Resume implements comet.Conn. It runs on the loop, outside of a read event.
func (c *connection) Resume() {
	if c.websocket {
		c.reader.SetMaxMessage(c.session.MaxMessage())
		if c.waiting != nil && len(c.waiting.rest) == 0 {
			c.waiting = nil // the cookie was for auth
		}
	}
	if c.gc.InboundBuffered() > 0 || c.waiting != nil {
		c.server.read(c)
	}
}
