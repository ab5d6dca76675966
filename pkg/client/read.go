package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

const (
	// readBlock is the least room for one read.
	readBlock = 4 << 10
	// keptBuffer is the largest buffer that an idle connection keeps.
	keptBuffer = 64 << 10
)

// Message is one push.
type Message struct {
	Op   wire.Op
	Body []byte // the receiver's own

	// What follows is set for stored messages (version 2): Seq is not 0 then.
	Timeline   string // "u:<mid>" is the inbox, "r:<type>://<id>" a room
	Seq        uint64 // position in the timeline
	Epoch      uint32 // of the position
	AcceptedMS int64  // when the server accepted it, in Unix milliseconds
	ID         [16]byte
	Sender     int64 // mid of the user who wrote it; 0 = a backend

	event *event // then it is no message
}

var errDropped = errors.New("nobody receives")

// readLoop is the reader: it takes what the server sends until the end.
func (c *Conn) readLoop() {
	in := newInbound(c)
	err := in.run()
	c.end(err)
	c.queue.finish()
}

// inbound turns the server's bytes into replies and messages. It belongs to
// the reader.
type inbound struct {
	c       *Conn
	decoder wire.Decoder
	wrapped wire.Decoder // of packets inside the wrapper of version 1
	frames  ws.Reader
	inflate ws.Inflater
	buf     []byte // buf[taken:] is not understood yet
	taken   int
}

func newInbound(c *Conn) *inbound {
	limit := min(c.cfg.MaxPacketBytes, math.MaxInt32-wire.HeaderLen)
	in := &inbound{
		c:       c,
		decoder: wire.Decoder{MaxBody: limit - wire.HeaderLen, Extensions: c.ver >= wire.V2},
		wrapped: wire.Decoder{MaxBody: limit - wire.HeaderLen},
	}
	if in.wrapper() {
		in.decoder.MaxBody = limit
	}
	in.frames.InitClient(in.maxMessage())
	if c.deflate {
		in.frames.AllowDeflate()
	}
	return in
}

// maxMessage bounds a WebSocket message.
func (in *inbound) maxMessage() int { return wire.HeaderLen + in.decoder.MaxBody }

// wrapper tells whether pushes come in packets of op 9, as goim sends them on
// WebSocket and nowhere else.
func (in *inbound) wrapper() bool { return in.c.ver < wire.V2 && in.c.framing == overWebSocket }

func (in *inbound) run() error {
	in.buf = in.c.early
	in.c.early = nil
	for {
		if err := in.take(); err != nil {
			return err
		}
		if err := in.read(); err != nil {
			return err
		}
	}
}

// read waits for more bytes. The buffer grows with what has arrived, never
// with what a length promises.
func (in *inbound) read() error {
	unread := in.buf[in.taken:]
	switch {
	case len(unread) == 0 && cap(in.buf) > keptBuffer:
		in.buf = nil
	case in.taken > 0:
		in.buf = in.buf[:copy(in.buf, unread)]
	}
	in.taken = 0
	if cap(in.buf)-len(in.buf) < readBlock {
		grown := make([]byte, len(in.buf), max(2*cap(in.buf), 2*readBlock))
		copy(grown, in.buf)
		in.buf = grown
	}
	if silence := in.c.silence(); silence > 0 {
		_ = in.c.nc.SetReadDeadline(time.Now().Add(silence)) // fails when closed, which the read tells better
	}
	n, err := in.c.nc.Read(in.buf[len(in.buf):cap(in.buf)])
	in.buf = in.buf[:len(in.buf)+n]
	switch {
	case n > 0: // an error comes again
		return nil
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the server closed the connection without a reason: %w", io.ErrUnexpectedEOF)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the server was silent for %s: %w", in.c.silence(), err)
	}
	return fmt.Errorf("read: %w", err)
}

// take handles everything that is complete.
func (in *inbound) take() error {
	if in.c.framing == overTCP {
		n, err := packets(in.decoder, in.buf[in.taken:], in.packet)
		in.taken += n
		return err
	}
	for {
		ev, n, err := in.frames.Next(in.buf[in.taken:])
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		in.taken += n
		if err := in.event(ev); err != nil {
			return err
		}
	}
}

func (in *inbound) event(ev ws.Event) error {
	switch ev.Kind {
	case ws.KindMessage:
		ev, err := in.inflate.Message(ev, in.maxMessage())
		if err == nil {
			err = whole(in.decoder, ev.Payload, in.packet)
		}
		if in.inflate.Held() > keptBuffer {
			in.inflate = ws.Inflater{}
		}
		return err
	case ws.KindPing:
		return in.c.pong(ev.Payload)
	case ws.KindClose:
		return closeFrameError(ev)
	}
	return nil
}

// packets handles the packets at the start of b and returns their length.
func packets(decoder wire.Decoder, b []byte, handle func(wire.Packet) error) (int, error) {
	taken := 0
	for {
		p, n, err := decoder.Next(b[taken:])
		if err != nil {
			return taken, err
		}
		if n == 0 {
			return taken, nil
		}
		taken += n
		if err := handle(p); err != nil {
			return taken, err
		}
	}
}

// whole handles packets that must fill b.
func whole(decoder wire.Decoder, b []byte, handle func(wire.Packet) error) error {
	n, err := packets(decoder, b, handle)
	if err == nil && n < len(b) {
		err = fmt.Errorf("the last packet of a message is cut short by its end, %d bytes in", len(b)-n)
	}
	return err
}

// packet handles one packet of the server.
func (in *inbound) packet(p wire.Packet) error {
	c := in.c
	switch {
	case p.Seq != 0:
		return c.answered(p)
	case p.Op == wire.OpBye && c.ver >= wire.V2:
		return byeError(p.Body)
	case p.Op == wire.OpRaw && in.wrapper():
		return whole(in.wrapped, p.Body, in.push)
	case p.Op == wire.OpSyncReply && c.ver >= wire.V2: // of what auth asked to resume
		e := syncEvent(p.Body)
		e.resume = true
		return c.tell(e)
	case p.Op == wire.OpHint && c.ver >= wire.V2:
		var hint top
		if err := json.Unmarshal(p.Body, &hint); err != nil {
			return fmt.Errorf("hint: %w", err)
		}
		return c.tell(&event{tops: []top{hint}})
	}
	return in.push(p)
}

// push hands a message to the receiver.
func (in *inbound) push(p wire.Packet) error {
	m := Message{Op: p.Op, Body: bytes.Clone(p.Body)}
	if in.c.ver >= wire.V2 {
		place(&m, p)
	}
	if !in.c.queue.put(m) {
		return errDropped
	}
	return nil
}

// tell puts an event among the messages, for who follows timelines.
func (c *Conn) tell(e *event) error {
	if c.follows && !c.queue.put(Message{event: e}) {
		return errDropped
	}
	return nil
}
