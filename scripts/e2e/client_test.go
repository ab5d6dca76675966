package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/perseid-im/perseid/pkg/wire"
)

// goim is a client over TCP, of version 1 if not said otherwise. It is written by the bytes and not
// with pkg/client, so that a fault of both ends does not hide itself.
type goim struct {
	conn net.Conn
	ver  int16
	push func(op wire.Op, body []byte) // called by the reader

	mu      sync.Mutex
	replies map[int32]chan wire.Packet
	seq     int32
	err     error
	bye     []byte // of version 2; valid when done is closed
	done    chan struct{}
}

// connect dials and authenticates.
func connect(ctx context.Context, addr, token string, push func(op wire.Op, body []byte)) (*goim, error) {
	return connectAs(ctx, wire.V1, addr, token, push)
}

// connectAs is connect in a version of the protocol.
func connectAs(ctx context.Context, ver int16, addr, token string, push func(op wire.Op, body []byte)) (*goim, error) {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &goim{conn: conn, ver: ver, push: push, replies: map[int32]chan wire.Packet{}, done: make(chan struct{})}
	go c.read()
	if _, err := c.call(ctx, wire.OpAuth, token); err != nil {
		c.close()
		return nil, fmt.Errorf("auth: %w", err)
	}
	return c, nil
}

// call sends a request and waits for the reply with its seq.
func (c *goim) call(ctx context.Context, op wire.Op, body string) (wire.Packet, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ch := make(chan wire.Packet, 1)
	c.mu.Lock()
	c.seq++
	seq := c.seq
	c.replies[seq] = ch
	c.mu.Unlock()
	if _, err := c.conn.Write(wire.AppendPacket(nil, wire.Header{Ver: c.ver, Op: op, Seq: seq}, []byte(body))); err != nil {
		return wire.Packet{}, err
	}
	select {
	case p := <-ch:
		if p.Op != op+1 {
			return p, fmt.Errorf("op %d was answered by op %d", op, p.Op)
		}
		return p, nil
	case <-c.done:
		return wire.Packet{}, fmt.Errorf("connection ended: %w", c.err)
	case <-ctx.Done():
		return wire.Packet{}, ctx.Err()
	}
}

func (c *goim) read() {
	defer close(c.done)
	buf := make([]byte, 0, 4096)
	for {
		for {
			p, n, err := wire.Decoder{MaxBody: -1}.Next(buf)
			if err != nil {
				c.err = err
				return
			}
			if n == 0 {
				break
			}
			if p.Op == wire.OpBye {
				c.bye = append([]byte(nil), p.Body...)
			} else if p.Op < 1000 {
				body := append([]byte(nil), p.Body...)
				c.mu.Lock()
				ch := c.replies[p.Seq]
				delete(c.replies, p.Seq)
				c.mu.Unlock()
				if ch != nil {
					ch <- wire.Packet{Header: p.Header, Body: body}
				}
			} else {
				c.push(p.Op, p.Body)
			}
			buf = buf[n:]
		}
		if cap(buf)-len(buf) < 2048 {
			buf = append(make([]byte, 0, 2*len(buf)+4096), buf...)
		}
		n, err := c.conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.err = err
			} else {
				c.err = io.EOF
			}
			return
		}
	}
}

// close ends the connection and waits for the reader.
func (c *goim) close() {
	_ = c.conn.Close()
	<-c.done
}
