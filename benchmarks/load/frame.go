package load

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/perseid-im/perseid/pkg/wire"
)

// maxPacket is the largest packet or control frame a connection takes.
const maxPacket = 512 << 10

// WebSocket frame bytes.
const (
	wsFinBinary = 0x82
	wsMasked    = 0x80
	wsClose     = 0x8
	wsPing      = 0x9
)

// KeyOf is the key of a user's connection where connections name their own.
func KeyOf(mid int64) string { return "bench-" + strconv.FormatInt(mid, 10) }

// appendAuth appends an auth packet in goim's form; without a key the server
// makes one.
func appendAuth(dst []byte, mid int64, key, room string) []byte {
	body := make([]byte, 0, 128)
	body = append(body, `{"mid":`...)
	body = strconv.AppendInt(body, mid, 10)
	body = append(body, `,"key":`...)
	body = strconv.AppendQuote(body, key)
	body = append(body, `,"room_id":`...)
	body = strconv.AppendQuote(body, room)
	body = append(body, `,"platform":"bench","accepts":[1000,1001,1002]}`...)
	return wire.AppendPacket(dst, wire.Header{Ver: 1, Op: wire.OpAuth, Seq: 1}, body)
}

// appendHeartbeat appends a heartbeat packet.
func appendHeartbeat(dst []byte) []byte {
	return wire.AppendPacket(dst, wire.Header{Ver: 1, Op: wire.OpHeartbeat, Seq: 2}, nil)
}

// appendMasked appends payload as a client's WebSocket frame. The key is fixed:
// masking protects proxies, and there is none on the way.
func appendMasked(dst []byte, opcode byte, payload []byte) []byte {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	dst = append(dst, 0x80|opcode)
	if len(payload) < 126 {
		dst = append(dst, wsMasked|byte(len(payload)))
	} else {
		dst = append(dst, wsMasked|126, byte(len(payload)>>8), byte(len(payload)))
	}
	dst = append(dst, key[:]...)
	for i, b := range payload {
		dst = append(dst, b^key[i&3])
	}
	return dst
}

// wsHeader reads the header of a server's frame; n is 0 when it is not whole.
func wsHeader(b []byte) (opcode byte, length int64, n int, err error) {
	if len(b) < 2 {
		return 0, 0, 0, nil
	}
	if b[1]&wsMasked != 0 || b[0]&0x70 != 0 {
		return 0, 0, 0, fmt.Errorf("load: WebSocket frame starts with %#x %#x", b[0], b[1])
	}
	opcode, length, n = b[0]&0xf, int64(b[1]), 2
	switch length {
	case 126:
		if len(b) < 4 {
			return 0, 0, 0, nil
		}
		length, n = int64(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, 0, 0, nil
		}
		length, n = int64(binary.BigEndian.Uint64(b[2:])), 10
	}
	if opcode >= wsClose && length > 125 || length < 0 {
		return 0, 0, 0, fmt.Errorf("load: WebSocket frame of type %d with %d bytes", opcode, length)
	}
	return opcode, length, n, nil
}
