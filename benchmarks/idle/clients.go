package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// clients connects everybody, says "ready", and waits for the end of its
// standard input.
func clients(o *options) error {
	tcp, websocket, ok := strings.Cut(o.addrs, ",")
	if !ok {
		return errors.New("-addrs names two addresses")
	}
	const workers = 64
	conns := make([]net.Conn, o.Conns) // keeps them
	errs := make(chan error, workers)
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := w; i < o.Conns; i += workers {
				addr, isWS := tcp, false
				if float64(i%100) < o.WebSocket*100 {
					addr, isWS = websocket, true
				}
				var err error
				if conns[i], err = connect(o, i, addr, isWS); err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
		})
	}
	running.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		_ = c.Close()
	}
	return err
}

// connect authenticates connection i.
func connect(o *options, i int, addr string, isWS bool) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%o.Sources))}, KeepAlive: -1}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	token := fmt.Sprintf(`{"mid":%d,"room_id":"live://%d","platform":"web","accepts":[1000,1001,1002]}`, i+1, i%o.Rooms)
	out := wire.AppendPacket(nil, wire.Header{Ver: int16(o.Version), Op: wire.OpAuth, Seq: 1}, []byte(token))
	if isWS {
		const head = "GET /sub HTTP/1.1\r\nHost: idle\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: Mozilla/5.0\r\n\r\n"
		if _, err := conn.Write([]byte(head)); err != nil {
			return nil, err
		}
		if err := readHead(conn); err != nil {
			return nil, err
		}
		out = ws.AppendMaskedFrame(nil, ws.OpBinary, out, [4]byte{1, 2, 3, 4})
	}
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	if err := readReply(conn, isWS); err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// readReply reads the auth reply; it is below 64 KiB.
func readReply(conn net.Conn, isWS bool) error {
	head := make([]byte, wire.HeaderLen)
	if isWS {
		if _, err := io.ReadFull(conn, head[:2]); err != nil {
			return err
		}
		if head[1] == 126 { // the length is in two more bytes
			if _, err := io.ReadFull(conn, head[:2]); err != nil {
				return err
			}
		}
	}
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if op := head[11]; op != byte(wire.OpAuthReply) {
		return fmt.Errorf("not an auth reply: %x", head)
	}
	_, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head))-wire.HeaderLen)
	return err
}

// readHead reads up to the blank line.
func readHead(conn net.Conn) error {
	head := make([]byte, 0, 256)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		var b [1]byte
		if _, err := conn.Read(b[:]); err != nil {
			return err
		}
		head = append(head, b[0])
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 101 ") {
		return fmt.Errorf("handshake: %q", head)
	}
	return nil
}
