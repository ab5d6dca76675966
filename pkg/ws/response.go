package ws

import (
	"crypto/sha1" // the RFC's choice; it proves understanding, not identity
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
)

const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// AppendUpgrade appends the answer that opens the connection. Frames may be
// appended right behind it.
func AppendUpgrade(dst []byte, h Handshake) []byte { return AppendUpgradeWith(dst, h, "") }

// AppendUpgradeWith is AppendUpgrade with the extensions that are in use, as
// [AcceptDeflate] answers; "" = none.
func AppendUpgradeWith(dst []byte, h Handshake, extensions string) []byte {
	dst = append(dst, "HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: websocket\r\n"+
		"Connection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "...)
	dst = appendAccept(dst, h.Key)
	if extensions != "" {
		dst = append(append(dst, "\r\nSec-WebSocket-Extensions: "...), extensions...)
	}
	return append(dst, "\r\n\r\n"...)
}

func appendAccept(dst []byte, key string) []byte {
	var challenge [64]byte // 24 + 36, without a trip to the heap
	sum := sha1.Sum(append(append(challenge[:0], key...), acceptGUID...))
	return base64.StdEncoding.AppendEncode(dst, sum[:])
}

// AppendHandshakeError appends the answer to a refused request; the connection
// is to be closed when it has been written. An error that is no
// *[HandshakeError] becomes a 500 that says nothing about it.
func AppendHandshakeError(dst []byte, err error) []byte {
	status, body := http.StatusInternalServerError, ""
	if he, ok := errors.AsType[*HandshakeError](err); ok {
		status, body = he.Status, he.Reason
	}
	if body == "" {
		body = http.StatusText(status)
	}

	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(status)...)
	dst = append(dst, "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)+1), 10)
	switch status {
	case http.StatusUpgradeRequired:
		// RFC 9110, section 15.5.22 wants Upgrade, section 7.8 its connection
		// option, RFC 6455, section 4.4 the version.
		dst = append(dst, "\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: "+protocolVersion...)
	case http.StatusMethodNotAllowed:
		dst = append(dst, "\r\nConnection: close\r\nAllow: GET"...)
	default:
		dst = append(dst, "\r\nConnection: close"...)
	}
	dst = append(dst, "\r\n\r\n"...)
	dst = append(dst, body...)
	return append(dst, '\n')
}
