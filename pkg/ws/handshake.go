package ws

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
)

// Handshake is what a client's opening request said. All strings are copies.
type Handshake struct {
	Path   string // as sent, without query, not percent-decoded; begins with "/"
	Query  string // behind the first "?", without it
	Host   string
	Origin string // empty if the client is no browser
	Cookie string // several Cookie headers are joined by "; "
	Key    string // Sec-WebSocket-Key, checked

	// Extensions is what the client offers, several header fields joined by
	// ", ". Nobody has looked at it: see AcceptDeflate.
	Extensions string
}

// HandshakeError is a refused request, and what to tell the peer. Callers make
// their own for what this package cannot know, such as a 404 for a path or a
// 403 for an origin. Reason must not repeat the peer's input.
type HandshakeError struct {
	Status int
	Reason string
}

func (e *HandshakeError) Error() string {
	return fmt.Sprintf("ws: handshake refused with status %d: %s", e.Status, e.Reason)
}

func refuse(status int, reason string) error {
	return &HandshakeError{Status: status, Reason: reason}
}

func badRequest(reason string) error { return refuse(http.StatusBadRequest, reason) }

const (
	protocolVersion = "13"
	keyBytes        = 16

	crlf      = "\r\n"
	endOfHead = "\r\n\r\n"
)

// ParseHandshake reads the opening request at the front of buf. n is its length;
// what stands behind it in buf are the client's first frames. n == 0 without an
// error means that more bytes are needed. Errors are *[HandshakeError]: at once
// if the request line contains what no HTTP request line can (a TLS client, a
// goim TCP client, a port scan), 431 if the head has no end within maxBytes, and
// otherwise when the head is complete.
//
// It scans buf from its start, so the work for a peer that sends byte by byte
// is bounded by maxBytes squared; keep maxBytes at a few KiB.
func ParseHandshake(buf []byte, maxBytes int) (h Handshake, n int, err error) {
	window := buf[:min(len(buf), max(maxBytes, 0))]
	if err := scanRequestLine(window); err != nil {
		return Handshake{}, 0, err
	}
	end := bytes.Index(window, []byte(endOfHead))
	if end < 0 {
		if len(buf) >= maxBytes {
			return Handshake{}, 0, refuse(http.StatusRequestHeaderFieldsTooLarge, "request head too large")
		}
		return Handshake{}, 0, nil
	}

	line, fields, _ := bytes.Cut(window[:end], []byte(crlf))
	path, query, authority, err := parseRequestLine(line)
	if err != nil {
		return Handshake{}, 0, err
	}
	var req request
	for len(fields) > 0 {
		line, fields, _ = bytes.Cut(fields, []byte(crlf))
		if err := req.field(line); err != nil {
			return Handshake{}, 0, err
		}
	}
	if err := req.check(); err != nil {
		return Handshake{}, 0, err
	}
	if authority != nil {
		req.host.value = authority // RFC 9112, section 3.2.2
	}
	return Handshake{
		Path:   string(path),
		Query:  string(query),
		Host:   string(req.host.value),
		Origin: string(req.origin.value),
		Cookie: string(req.cookie),
		Key:    string(req.key.value),

		Extensions: string(req.extensions),
	}, end + len(endOfHead), nil
}

// scanRequestLine looks at as much of the request line as is there. Its verdict
// on a part is also the verdict on the whole.
func scanRequestLine(buf []byte) error {
	for i, c := range buf {
		switch {
		case c == '\r':
			if i+1 < len(buf) && buf[i+1] != '\n' {
				return badRequest("carriage return in the request line")
			}
			return nil
		case c < ' ' || c > '~':
			return badRequest("not an HTTP request")
		}
	}
	return nil
}

func parseRequestLine(line []byte) (path, query, authority []byte, err error) {
	method, rest, ok1 := bytes.Cut(line, []byte{' '})
	target, version, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 || !isToken(method) || !isHTTPVersion(version) {
		return nil, nil, nil, badRequest("malformed request line")
	}
	if string(version) != "HTTP/1.1" {
		return nil, nil, nil, refuse(http.StatusHTTPVersionNotSupported, "HTTP/1.1 required")
	}
	if string(method) != http.MethodGet {
		return nil, nil, nil, refuse(http.StatusMethodNotAllowed, "GET required")
	}

	if scheme, rest, ok := bytes.Cut(target, []byte("://")); ok && isHTTPScheme(scheme) {
		at := bytes.IndexAny(rest, "/?")
		if at < 0 {
			at = len(rest)
		}
		authority, target = rest[:at], rest[at:]
		if len(authority) == 0 {
			return nil, nil, nil, badRequest("malformed request target")
		}
		if len(target) == 0 || target[0] == '?' {
			target = append([]byte{'/'}, target...)
		}
	}
	if len(target) == 0 || target[0] != '/' || bytes.IndexByte(target, '#') >= 0 {
		return nil, nil, nil, badRequest("malformed request target")
	}
	path, query, _ = bytes.Cut(target, []byte{'?'})
	return path, query, authority, nil
}

func isHTTPVersion(v []byte) bool {
	return len(v) == len("HTTP/1.1") && string(v[:5]) == "HTTP/" &&
		isDigit(v[5]) && v[6] == '.' && isDigit(v[7])
}

func isHTTPScheme(s []byte) bool {
	return equalFold(s, "http") || equalFold(s, "https") || equalFold(s, "ws") || equalFold(s, "wss")
}

// request collects the header fields that matter. The values alias the head.
type request struct {
	host, origin, key, version single

	upgrade    bool // Upgrade names websocket
	connection bool // Connection names upgrade
	body       bool
	cookie     []byte
	extensions []byte
}

// single is a field that must not be repeated: two readers of the same request,
// a proxy and this server, must not be able to pick different ones.
type single struct {
	value []byte
	seen  bool
}

func (s *single) set(value []byte) error {
	if s.seen {
		return badRequest("repeated header field")
	}
	s.value, s.seen = value, true
	return nil
}

func (q *request) field(line []byte) error {
	name, value, ok := bytes.Cut(line, []byte{':'})
	// A folded line begins with a blank, which is no token either.
	if !ok || !isToken(name) {
		return badRequest("malformed header field")
	}
	value = bytes.Trim(value, " \t")
	if !isFieldValue(value) {
		return badRequest("control character in a header field")
	}
	switch {
	case equalFold(name, "host"):
		return q.host.set(value)
	case equalFold(name, "origin"):
		return q.origin.set(value)
	case equalFold(name, "sec-websocket-key"):
		return q.key.set(value)
	case equalFold(name, "sec-websocket-version"):
		return q.version.set(value)
	case equalFold(name, "upgrade"):
		q.upgrade = q.upgrade || listHas(value, "websocket")
	case equalFold(name, "connection"):
		q.connection = q.connection || listHas(value, "upgrade")
	case equalFold(name, "transfer-encoding"):
		q.body = true
	case equalFold(name, "content-length"):
		q.body = q.body || string(value) != "0"
	case equalFold(name, "cookie"):
		q.cookie = join(q.cookie, "; ", value)
	case equalFold(name, "sec-websocket-extensions"):
		q.extensions = join(q.extensions, ", ", value)
	}
	return nil
}

// join adds the value of a field to those of the same name before it.
func join(values []byte, separator string, value []byte) []byte {
	if values == nil {
		return value[:len(value):len(value)] // the next one copies
	}
	return append(append(values, separator...), value...)
}

func (q *request) check() error {
	switch {
	case q.body:
		// Its bytes would be taken for frames.
		return badRequest("request body not allowed")
	case !q.host.seen:
		return badRequest("Host missing")
	case !q.upgrade || !q.connection:
		return refuse(http.StatusUpgradeRequired, "this is a WebSocket endpoint")
	case string(q.version.value) != protocolVersion:
		return refuse(http.StatusUpgradeRequired, "Sec-WebSocket-Version 13 required")
	case !validKey(q.key.value):
		return badRequest("Sec-WebSocket-Key missing or malformed")
	}
	return nil
}

func validKey(key []byte) bool {
	if len(key) != base64.StdEncoding.EncodedLen(keyBytes) {
		return false
	}
	var nonce [keyBytes + 2]byte // room for what 24 characters without padding decode to
	n, err := base64.StdEncoding.Decode(nonce[:], key)
	return err == nil && n == keyBytes
}

// listHas tells whether a comma-separated list of tokens contains one.
func listHas(list []byte, lower string) bool {
	for len(list) > 0 {
		var item []byte
		item, list, _ = bytes.Cut(list, []byte{','})
		if equalFold(bytes.Trim(item, " \t"), lower) {
			return true
		}
	}
	return false
}

// equalFold compares ASCII letters without case. bytes.EqualFold would also
// fold characters outside ASCII (the long s) into it.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !isTokenByte(c) {
			return false
		}
	}
	return len(b) > 0
}

func isTokenByte(c byte) bool {
	letter := 'a' <= c|0x20 && c|0x20 <= 'z'
	return letter || isDigit(c) || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isFieldValue(b []byte) bool {
	for _, c := range b {
		if (c < ' ' && c != '\t') || c == 0x7F {
			return false
		}
	}
	return true
}
