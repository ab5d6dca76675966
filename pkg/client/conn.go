package client

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

const (
	// writeTimeout is how long the network may take nothing before the
	// connection is given up.
	writeTimeout = 10 * time.Second
	// closeTimeout bounds the farewell of Close.
	closeTimeout = time.Second
	// minHeartbeat and maxSilence bound what a server or a Config may ask for.
	minHeartbeat = 100 * time.Millisecond
	maxSilence   = 24 * time.Hour
	// minPacketLimit: what goim's clients may send, servers may too.
	minPacketLimit = wire.HeaderLen + wire.MaxBodyV1
	// maxCalls is how many requests may be unanswered. goim closes a connection
	// with eight of them; half is left to heartbeats.
	maxCalls = 4
)

// Conn is one authenticated connection.
type Conn struct {
	cfg     Config
	framing framing
	nc      net.Conn
	session Session       // written before Dial returns
	queue   *queue        // from the reader to Recv
	early   []byte        // for the reader
	deflate bool          // permessage-deflate is in use
	ver     int16         // spoken
	follows bool          // events are wanted
	tops    []top         // of the auth reply
	calls   chan struct{} // one element per unanswered request

	// interval of heartbeats in nanoseconds; 0 until authenticated.
	interval atomic.Int64

	writing sync.Mutex // held while a frame is written
	packet  []byte     // scratch of the writer
	frame   []byte

	mu      sync.Mutex
	seq     int32 // last one given to a request
	pending map[int32]*call
	err     error // why the connection ended

	done       chan struct{} // closed when err is set
	closing    sync.Once
	goroutines sync.WaitGroup
}

// call is a request that waits for its reply.
type call struct {
	op       wire.Op // of the reply
	reply    chan []byte
	messages []Message           // of a history, which come before its reply
	event    func([]byte) *event // not nil: nobody waits, the reply becomes an event
}

// maxHistory bounds the messages of one reply.
const maxHistory = 256

func newConn(cfg Config, f framing, l link) *Conn {
	return &Conn{
		cfg: cfg, framing: f, nc: l.nc, early: l.early, deflate: l.deflate, ver: cfg.Version,
		queue:   newQueue(cfg.QueueBytes, cfg.MaxPacketBytes),
		calls:   make(chan struct{}, maxCalls),
		pending: map[int32]*call{},
		done:    make(chan struct{}),
	}
}

// Session tells what the server said about this connection.
func (c *Conn) Session() Session { return c.session }

// Recv waits for the next message. Its error is ctx's, after which the
// connection still works, or the reason why the connection ended: a
// [CloseError] from the server, [ErrClosed], or a failure of the network.
// Somebody must keep calling it; see Config.QueueBytes.
func (c *Conn) Recv(ctx context.Context) (Message, error) {
	for {
		m, err := c.next(ctx)
		if err != nil || m.event == nil {
			return m, err
		}
	}
}

// next is Recv with the events.
func (c *Conn) next(ctx context.Context) (Message, error) {
	m, ok, err := c.queue.get(ctx)
	if err != nil {
		return Message{}, err
	}
	if !ok {
		return Message{}, fmt.Errorf("client: %w", c.ended())
	}
	return c.named(m), nil
}

// named fills in the name of the own inbox.
func (c *Conn) named(m Message) Message {
	if m.Seq > 0 && m.Timeline == "" {
		m.Timeline = inboxOf(c.session.Mid)
	}
	return m
}

// Close ends the connection and waits for its goroutines. Messages that were
// not received are dropped. It may be called several times; the error is
// always nil.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		// Who ends first is the reason: a bye that has arrived stays it.
		first := c.setErr(ErrClosed)
		if first && c.framing == overWebSocket && c.writing.TryLock() {
			_ = c.writeMessage(closeTimeout, ws.OpClose, binary.BigEndian.AppendUint16(nil, ws.CodeNormal)) // a courtesy
			c.writing.Unlock()
		}
		_ = c.nc.Close() // nothing was promised to arrive
		c.queue.drop()
	})
	c.goroutines.Wait()
	return nil
}

// ended is why the connection ended, nil if it has not.
func (c *Conn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// setErr records the reason of the end; the first one counts.
func (c *Conn) setErr(err error) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.err = err
	close(c.done)
	return true
}

// end closes the socket for a reason. Whoever waits on it comes back.
func (c *Conn) end(err error) {
	c.setErr(err)
	_ = c.nc.Close() // err says more
}

// silence is how long the server may say nothing: a heartbeat is answered at
// once, so two intervals leave one for the network.
func (c *Conn) silence() time.Duration { return 2 * time.Duration(c.interval.Load()) }

// heartbeatLoop sends heartbeats; their replies keep the read deadline away
// and are otherwise ignored.
func (c *Conn) heartbeatLoop() {
	ticker := time.NewTicker(time.Duration(c.interval.Load()))
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
			if err := c.send(wire.Header{Ver: c.ver, Op: wire.OpHeartbeat, Seq: c.nextSeq()}, nil); err != nil {
				return // send has ended the connection
			}
		}
	}
}

func (c *Conn) nextSeq() int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.advance()
}

// advance is called with mu held. Pushes have seq 0, so requests never do.
func (c *Conn) advance() int32 {
	if c.seq == math.MaxInt32 {
		c.seq = 0
	}
	c.seq++
	return c.seq
}

// call sends a request and waits for its reply. A request whose context ends
// stays counted until its reply comes, as it does on the server.
func (c *Conn) call(ctx context.Context, op wire.Op, body []byte) ([]byte, error) {
	return c.callWith(ctx, op, body, &call{op: op + 1, reply: make(chan []byte, 1)})
}

func (c *Conn) callWith(ctx context.Context, op wire.Op, body []byte, waiting *call) ([]byte, error) {
	limit := wire.MaxBodyV2
	if c.ver < wire.V2 || op == wire.OpAuth {
		limit = wire.MaxBodyV1
	}
	if len(body) > limit {
		return nil, fmt.Errorf("%w: the body has %d bytes, allowed is %d", errTooLarge, len(body), limit)
	}
	select {
	case c.calls <- struct{}{}:
	case <-c.done:
		return nil, c.ended()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	seq := c.advance()
	c.pending[seq] = waiting
	c.mu.Unlock()

	c.queue.await(1)
	defer c.queue.await(-1)
	sendErr := c.send(wire.Header{Ver: c.ver, Op: op, Seq: seq}, body)
	if sendErr == nil {
		select {
		case reply := <-waiting.reply:
			return reply, nil
		case <-c.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	select {
	case reply := <-waiting.reply: // came before the end
		return reply, nil
	default:
		return nil, c.ended()
	}
}

// answered hands a reply to the request that waits for it, if there is one
// still.
func (c *Conn) answered(p wire.Packet) error {
	if p.Op == wire.OpHeartbeatReply && c.ver >= wire.V2 && c.follows {
		var reply struct {
			Tops []top `json:"tops"`
		}
		if err := json.Unmarshal(p.Body, &reply); err != nil {
			return fmt.Errorf("heartbeat reply: %w", err)
		}
		if err := c.tell(&event{tops: reply.Tops, heartbeat: true}); err != nil {
			return err
		}
	}
	c.mu.Lock()
	waiting := c.pending[p.Seq]
	if waiting == nil || waiting.op != p.Op {
		c.mu.Unlock()
		if waiting != nil && waiting.op == wire.OpHistoryReply && len(waiting.messages) < maxHistory {
			m := Message{Op: p.Op, Body: append([]byte{}, p.Body...)}
			place(&m, p)
			waiting.messages = append(waiting.messages, c.named(m)) // only the reader, until the reply is handed over
		}
		return nil
	}
	delete(c.pending, p.Seq)
	c.mu.Unlock()
	if waiting.event != nil {
		return c.tell(waiting.event(p.Body))
	}
	waiting.reply <- append([]byte{}, p.Body...)
	<-c.calls
	return nil
}

// send writes one packet. An error has ended the connection.
func (c *Conn) send(h wire.Header, body []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.packet = wire.AppendPacket(c.packet[:0], h, body)
	if c.framing == overWebSocket {
		return c.writeMessage(writeTimeout, ws.OpBinary, c.packet)
	}
	return c.write(writeTimeout, c.packet)
}

// pong answers a ping.
func (c *Conn) pong(payload []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.writeMessage(writeTimeout, ws.OpPong, payload)
}

// writeMessage writes a frame; writing is held.
func (c *Conn) writeMessage(timeout time.Duration, op ws.Opcode, payload []byte) error {
	var mask [4]byte
	_, _ = rand.Read(mask[:]) // never fails
	c.frame = ws.AppendMaskedFrame(c.frame[:0], op, payload, mask)
	return c.write(timeout, c.frame)
}

func (c *Conn) write(timeout time.Duration, b []byte) error {
	err := c.nc.SetWriteDeadline(time.Now().Add(timeout))
	if err == nil {
		_, err = c.nc.Write(b)
	}
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			c.end(ErrClosed) // if nobody had a better reason
		} else {
			c.end(fmt.Errorf("write: %w", err))
		}
	}
	return err
}
