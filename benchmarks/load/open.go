package load

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wsKey is a nonce, and its answer is checked: RFC 6455's own example.
const (
	wsKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	wsAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// open starts connections as the ramp allows. It says whether it could go on
// at once.
func (l *loop) open(now int64) bool {
	allowed := min(dialChunk, len(l.toOpen), l.ramp.InFlight-l.inFlight)
	if l.ramp.PerSecond > 0 {
		allowed = min(allowed, int(float64(now-l.rampBegan)/1e9*l.ramp.PerSecond-l.dialled))
	}
	for range allowed {
		ci := l.toOpen[0]
		l.toOpen = l.toOpen[1:]
		l.dialled++
		l.dial(&l.conns[ci], int(ci))
	}
	return allowed == dialChunk
}

func (l *loop) dial(c *conn, ci int) {
	class := &l.cfg.Classes[c.class]
	// Members of each room are spread over the servers.
	spread := int(c.number) / max(1, class.Rooms)
	server := l.servers[spread%len(l.servers)]
	l.inFlight++
	c.state = stateDialing
	c.opened = l.clock.Now()
	c.rest, c.wsLeft, c.gaps, c.missing = nil, 0, nil, 0
	fd, err := dial(server, l.cfg.source(int(c.number), server.Addr()), class.RecvBuffer)
	if err != nil {
		l.fail(c, err.Error())
		return
	}
	c.fd = int32(fd)
	c.gen++
	l.expect(c, l.eat.next[ci*l.cfg.Streams:(ci+1)*l.cfg.Streams])
	l.greet(c, ci, false)
}

// source is where connection number connects from; invalid = the system's
// choice. Only loopback of IPv4 has more than one address.
func (c *Config) source(number int, server netip.Addr) netip.Addr {
	if c.Sources == 0 || !server.Is4() || !server.IsLoopback() {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + number%c.Sources)})
}

// expect sets the next numbers of a new connection: those of the latest
// account, or unknown while messages are on their way.
func (l *loop) expect(c *conn, next []uint32) {
	for i := range next {
		next[i] = 0
		if l.eat.inStep {
			next[i] = unknownSeq
		}
	}
	for i := range l.account {
		if e := &l.account[i]; e.Class == int(c.class) && !l.eat.inStep {
			next[e.Stream] = e.of(c)
		}
	}
}

// greet sends the first bytes. On loopback the connection is there when dial
// returns, mostly; else the loop is told when it is.
func (l *loop) greet(c *conn, ci int, watched bool) {
	next := stateAuth
	l.scratch = l.scratch[:0]
	if l.cfg.WebSocket {
		next = stateUpgrading
		l.scratch = fmt.Appendf(l.scratch, "GET %s HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", l.cfg.Path, wsKey)
	} else {
		l.scratch = l.authPacket(l.scratch, c)
	}
	n, errno := writeFD(c.fd, l.scratch)
	op := unix.EPOLL_CTL_ADD
	if watched {
		op = unix.EPOLL_CTL_MOD
	}
	switch {
	case !watched && (errno == unix.EAGAIN || errno == unix.ENOTCONN || errno == unix.EINPROGRESS):
		l.watch(c, ci, op, unix.EPOLLOUT)
	case errno != 0:
		l.fail(c, "connect: "+errno.Error())
	case n < len(l.scratch):
		l.fail(c, "the first bytes do not fit into the send buffer")
	default:
		c.state = next
		l.watch(c, ci, op, unix.EPOLLIN)
	}
}

func (l *loop) authPacket(dst []byte, c *conn) []byte {
	class := &l.cfg.Classes[c.class]
	room := ""
	if c.room >= 0 {
		room = RoomType + "://" + class.Room(int(c.room))
	}
	mid, key := l.mid(c), ""
	if l.cfg.Keys {
		key = KeyOf(mid)
	}
	return appendAuth(dst, mid, key, room)
}

// mid is the user id of a connection: classes follow each other.
func (l *loop) mid(c *conn) int64 {
	if l.cfg.FirstMid == 0 {
		return 0
	}
	mid := l.cfg.FirstMid + int64(c.number)
	for i := range int(c.class) {
		mid += int64(l.cfg.Classes[i].Conns)
	}
	return mid
}

// upgraded reads the answer to the WebSocket handshake and sends auth.
func (l *loop) upgraded(c *conn, b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > 8192 {
			return 0, fmt.Errorf("load: the answer to the WebSocket handshake has no end")
		}
		return 0, nil
	}
	head := string(b[:end])
	status, _, _ := strings.Cut(head, "\r\n")
	if !strings.HasPrefix(status, "HTTP/1.1 101") || !strings.Contains(head, wsAccept) {
		return 0, fmt.Errorf("load: WebSocket handshake answered with %.80q", status)
	}
	packet := l.authPacket(make([]byte, 0, 256), c)
	l.scratch = appendMasked(l.scratch[:0], 2, packet)
	if n, errno := writeFD(c.fd, l.scratch); errno != 0 || n < len(l.scratch) {
		return 0, fmt.Errorf("load: auth does not fit into the send buffer: %w", errno)
	}
	c.state = stateAuth
	return end + 4, nil
}

// onAuth is the answer to auth: the connection is ready.
func (l *loop) onAuth(ci int) {
	c := &l.conns[ci]
	l.inFlight--
	c.state = stateReady
	l.lastAuth = l.clock.Now()
	l.auth.Record(l.lastAuth - c.opened)
	l.eat.classes[c.class].Ready++
	if c.mode != readAtOnce {
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(c.fd), nil); err != nil {
			l.failures["epoll: "+err.Error()]++
		}
	}
}

// timeOut gives up connections that do not get ready.
func (l *loop) timeOut(now int64) {
	if l.inFlight == 0 {
		return
	}
	for i := range l.conns {
		c := &l.conns[i]
		if c.state >= stateDialing && c.state <= stateAuth && now-c.opened > int64(l.cfg.AuthTimeout) {
			l.fail(c, "no answer to auth in time")
		}
	}
}

// churning closes and opens the connections of a class again and again.
type churning struct {
	perSecond float64
	class     int
	began     int64
	done      float64
	list      []int32
	cursor    int
}

func (l *loop) churnSome(now int64) {
	ch := &l.churn
	if ch.perSecond <= 0 || len(ch.list) == 0 {
		return
	}
	due := int(float64(now-ch.began)/float64(time.Second)*ch.perSecond - ch.done)
	for range min(due, dialChunk) {
		ch.done++
		ci := ch.list[ch.cursor]
		ch.cursor = (ch.cursor + 1) % len(ch.list)
		c := &l.conns[ci]
		switch c.state {
		case stateReady:
			st := &l.eat.classes[c.class]
			st.LostCut += uint64(max(0, c.missing))
			st.Ready--
			st.Churned++
			l.shut(c)
		case stateClosed, stateFailed:
		default:
			continue // on its way
		}
		c.state = stateIdle
		l.toOpen = append(l.toOpen, ci)
	}
}
