package clienttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

const (
	maxHead    = 8 << 10
	maxMessage = 1 << 20
	readBlock  = 4 << 10
)

// Peer is the server's side of one connection.
type Peer struct {
	WebSocket bool
	Handshake ws.Handshake // of WebSocket
	OnPong    func(payload string)

	conn    net.Conn
	frames  ws.Reader
	unread  []byte
	packets []byte // rest of a message

	mu  sync.Mutex
	ver int16 // of the auth packet
}

// NewPeer takes over a connection; on WebSocket it does the handshake, and
// refuses any path but /sub.
func NewPeer(conn net.Conn, webSocket bool) (*Peer, error) {
	p := &Peer{WebSocket: webSocket, conn: conn, ver: wire.V1}
	p.frames.Init(maxMessage)
	if !webSocket {
		return p, nil
	}
	for {
		h, n, err := ws.ParseHandshake(p.unread, maxHead)
		if err == nil && n > 0 && h.Path != "/sub" {
			err = &ws.HandshakeError{Status: http.StatusNotFound, Reason: "the path is /sub"}
		}
		if err != nil {
			_ = p.WriteRaw(ws.AppendHandshakeError(nil, err)) // err says more
			return nil, fmt.Errorf("clienttest: %w", err)
		}
		if n > 0 {
			p.Handshake, p.unread = h, p.unread[n:]
			return p, p.WriteRaw(ws.AppendUpgrade(nil, h))
		}
		if err := p.read(); err != nil {
			return nil, err
		}
	}
}

func (p *Peer) read() error {
	block := make([]byte, readBlock)
	n, err := p.conn.Read(block)
	p.unread = append(p.unread, block[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// Next waits for the next packet of the client, and answers pings meanwhile.
// The packet is the caller's own.
func (p *Peer) Next() (wire.Packet, error) {
	decoder := wire.Decoder{MaxBody: wire.MaxBodyV2}
	for {
		from := &p.packets
		if !p.WebSocket {
			from = &p.unread
		}
		packet, n, err := decoder.Next(*from)
		if err != nil {
			return wire.Packet{}, err
		}
		if n > 0 {
			*from = (*from)[n:]
			packet.Body = bytes.Clone(packet.Body)
			if packet.Op == wire.OpAuth {
				p.mu.Lock()
				p.ver = packet.Ver
				p.mu.Unlock()
			}
			return packet, nil
		}
		if err := p.more(); err != nil {
			return wire.Packet{}, err
		}
	}
}

// more reads one frame, or any number of bytes of TCP.
func (p *Peer) more() error {
	if !p.WebSocket {
		return p.read()
	}
	for {
		ev, n, err := p.frames.Next(p.unread)
		if err != nil {
			return err
		}
		p.unread = p.unread[n:]
		switch {
		case n == 0:
			if err := p.read(); err != nil {
				return err
			}
		case ev.Kind == ws.KindMessage:
			p.packets = append(p.packets, ev.Payload...)
			return nil
		case ev.Kind == ws.KindPing:
			if err := p.WriteRaw(ws.AppendFrame(nil, ws.OpPong, ev.Payload)); err != nil {
				return err
			}
		case ev.Kind == ws.KindPong && p.OnPong != nil:
			p.OnPong(string(ev.Payload))
		case ev.Kind == ws.KindClose:
			return fmt.Errorf("clienttest: the client closes with code %d", ev.Code)
		}
	}
}

// Ver is the version that the client's auth packet asked for.
func (p *Peer) Ver() int16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ver
}

// WriteRaw writes bytes to the socket as they are.
func (p *Peer) WriteRaw(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.conn.Write(b)
	return err
}

// Write writes packets, on WebSocket as one message.
func (p *Peer) Write(packets []byte) error {
	if p.WebSocket {
		packets = ws.AppendFrame(nil, ws.OpBinary, packets)
	}
	return p.WriteRaw(packets)
}

// Reply answers a request.
func (p *Peer) Reply(request wire.Packet, body []byte) error {
	return p.Write(wire.AppendPacket(nil, wire.Header{Ver: request.Ver, Op: request.Op + 1, Seq: request.Seq}, body))
}

// ReplyJSON answers a request of version 2.
func (p *Peer) ReplyJSON(request wire.Packet, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return p.Reply(request, b)
}

// Push sends bodies as pushes with one operation, together, in the form that
// the connection's version and transport have for it.
func (p *Peer) Push(op wire.Op, bodies ...string) error {
	var packets []byte
	for _, body := range bodies {
		packets = wire.AppendPacket(packets, wire.Header{Ver: wire.V1, Op: op}, []byte(body))
	}
	if p.WebSocket && p.Ver() < wire.V2 {
		packets = wire.AppendPacket(nil, wire.Header{Ver: wire.V1, Op: wire.OpRaw}, packets)
	}
	return p.Write(packets)
}

// Bye is the body of the packet that ends a session of version 2.
type Bye struct {
	Code      uint16 `json:"code"`
	Reason    string `json:"reason"`
	Reconnect bool   `json:"reconnect"`
	RetryMS   int64  `json:"retry_ms,omitempty"`
	Node      string `json:"node"`
}

// Bye says why the connection ends, as far as version and transport can say
// it, and ends it.
func (p *Peer) Bye(bye Bye) error {
	defer func() { _ = p.Close() }() // the client may have heard it and gone
	var farewell []byte
	if p.Ver() >= wire.V2 {
		body, err := json.Marshal(bye)
		if err != nil {
			return err
		}
		farewell = wire.AppendPacket(nil, wire.Header{Ver: wire.V2, Op: wire.OpBye}, body)
		if p.WebSocket {
			farewell = ws.AppendFrame(nil, ws.OpBinary, farewell)
		}
	}
	if p.WebSocket {
		farewell = append(farewell, ws.AppendClose(nil, bye.Code, bye.Reason)...)
	}
	return p.WriteRaw(farewell)
}

// Close closes the socket without a word.
func (p *Peer) Close() error { return p.conn.Close() }
