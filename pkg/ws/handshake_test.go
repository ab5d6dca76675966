package ws

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const sampleKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455, section 1.3

const sampleHead = "GET /sub HTTP/1.1\r\n" +
	"Host: example.com\r\n" +
	"Upgrade: websocket\r\n" +
	"Connection: Upgrade\r\n" +
	"Sec-WebSocket-Key: " + sampleKey + "\r\n" +
	"Sec-WebSocket-Version: 13\r\n" +
	"\r\n"

func sampleHandshake() Handshake {
	return Handshake{Path: "/sub", Host: "example.com", Key: sampleKey}
}

// with puts another line for, or behind, the sample's line that begins with
// prefix; "" takes it out.
func with(prefix, line string) string {
	i := strings.Index(sampleHead, prefix)
	end := i + strings.Index(sampleHead[i:], "\r\n") + 2
	if line != "" {
		line += "\r\n"
	}
	return sampleHead[:i] + line + sampleHead[end:]
}

func plus(line string) string { return with("Host", "Host: example.com\r\n"+line) }

func TestParseHandshake(t *testing.T) {
	sample := func(change func(h *Handshake)) Handshake {
		h := sampleHandshake()
		change(&h)
		return h
	}
	for _, c := range []struct {
		name, head string
		want       Handshake
	}{
		{"sample", sampleHead, sampleHandshake()},
		{"query", with("GET", "GET /sub?a=1&b=?2 HTTP/1.1"), sample(func(h *Handshake) { h.Query = "a=1&b=?2" })},
		{"empty query", with("GET", "GET /sub? HTTP/1.1"), sampleHandshake()},
		{"root", with("GET", "GET / HTTP/1.1"), sample(func(h *Handshake) { h.Path = "/" })},
		{"escapes stay", with("GET", "GET /s%75b%2f HTTP/1.1"), sample(func(h *Handshake) { h.Path = "/s%75b%2f" })},
		{"absolute target", with("GET", "GET http://other:81/sub?q HTTP/1.1"), sample(func(h *Handshake) { h.Host, h.Query = "other:81", "q" })},
		{"absolute target without path", with("GET", "GET WSS://other?q HTTP/1.1"), sample(func(h *Handshake) { h.Host, h.Path, h.Query = "other", "/", "q" })},
		{"absolute target, nothing else", with("GET", "GET https://other HTTP/1.1"), sample(func(h *Handshake) { h.Host, h.Path = "other", "/" })},
		{"URL in the query", with("GET", "GET /sub?to=http://x/ HTTP/1.1"), sample(func(h *Handshake) { h.Query = "to=http://x/" })},
		{"names without case", strings.NewReplacer("Host", "hOST", "Upgrade:", "UPGRADE:", "Sec-WebSocket", "sec-websocket", "Connection", "connection").Replace(sampleHead), sampleHandshake()},
		{"values without case", strings.NewReplacer(" websocket", " WebSocket", ": Upgrade", ": uPGRADE").Replace(sampleHead), sampleHandshake()},
		{"Firefox's Connection", with("Connection", "Connection: keep-alive, Upgrade"), sampleHandshake()},
		{"Connection in two lines", with("Connection", "Connection: keep-alive\r\nConnection: upgrade"), sampleHandshake()},
		{"untidy lists", with("Connection", "Connection: ,, \tupgrade ,"), sampleHandshake()},
		{"several upgrades offered", with("Upgrade", "Upgrade: h2c, websocket"), sampleHandshake()},
		{"no blank behind the colon", strings.ReplaceAll(sampleHead, ": ", ":"), sampleHandshake()},
		{"blanks around values", strings.ReplaceAll(strings.ReplaceAll(sampleHead, ": ", ": \t "), "13\r\n", "13 \t\r\n"), sampleHandshake()},
		{"origin", plus("Origin: https://a.example"), sample(func(h *Handshake) { h.Origin = "https://a.example" })},
		{"cookie", plus("Cookie: a=1; b=2"), sample(func(h *Handshake) { h.Cookie = "a=1; b=2" })},
		{"cookies", plus("Cookie: a=1\r\nCookie: b=2\r\ncookie: c=3"), sample(func(h *Handshake) { h.Cookie = "a=1; b=2; c=3" })},
		{"a protocol we do not speak", plus("Sec-WebSocket-Protocol: chat"), sampleHandshake()},
		{"extensions", plus("Sec-WebSocket-Extensions: a; b=c, d\r\nX: y\r\nsec-websocket-extensions: e"), sample(func(h *Handshake) { h.Extensions = "a; b=c, d, e" })},
		{"other fields, Latin-1", plus("User-Agent: caf\xe9\r\nEmpty:"), sampleHandshake()},
		{"no body, said aloud", plus("Content-Length: 0"), sampleHandshake()},
		{"IPv6", with("Host", "Host: [::1]:3102"), sample(func(h *Handshake) { h.Host = "[::1]:3102" })},
		{"empty host", with("Host", "Host:"), sample(func(h *Handshake) { h.Host = "" })},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, behind := range []string{"", "\x81\x80", "\r\n\r\n", sampleHead} {
				buf := []byte(c.head + behind)
				h, n, err := ParseHandshake(buf, len(c.head))
				if err != nil || n != len(c.head) || h != c.want {
					t.Errorf("with %q behind:\n got %+v, %d, %v\nwant %+v, %d", behind, h, n, err, c.want, len(c.head))
				}
				if string(buf) != c.head+behind {
					t.Error("the buffer was changed")
				}
			}
			for i := range c.head {
				if h, n, err := ParseHandshake([]byte(c.head[:i]), len(c.head)); h != (Handshake{}) || n != 0 || err != nil {
					t.Fatalf("first %d bytes: %+v, %d, %v", i, h, n, err)
				}
			}
		})
	}
}

func TestParseHandshakeRefuses(t *testing.T) {
	for _, c := range []struct {
		name, head string
		status     int
	}{
		{"POST", with("GET", "POST /sub HTTP/1.1"), 405},
		{"CONNECT", with("GET", "CONNECT example.com:443 HTTP/1.1"), 405},
		{"method without case", with("GET", "get /sub HTTP/1.1"), 405},
		{"HTTP/1.0", with("GET", "GET /sub HTTP/1.0"), 505},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"HTTP/0.9", with("GET", "GET /sub"), 400},
		{"version nonsense", with("GET", "GET /sub HTTP/1.x"), 400},
		{"version too long", with("GET", "GET /sub HTTP/1.10"), 400},
		{"other protocol", with("GET", "GET /sub ICAP/1.1"), 400},
		{"no target", with("GET", "GET  HTTP/1.1"), 400},
		{"two blanks", with("GET", "GET  /sub HTTP/1.1"), 400},
		{"blank in the target", with("GET", "GET /su b HTTP/1.1"), 400},
		{"blank at the end", with("GET", "GET /sub HTTP/1.1 "), 400},
		{"empty method", with("GET", " /sub HTTP/1.1"), 400},
		{"method no token", with("GET", "G(T /sub HTTP/1.1"), 400},
		{"relative target", with("GET", "GET sub HTTP/1.1"), 400},
		{"asterisk", with("GET", "GET * HTTP/1.1"), 400},
		{"fragment", with("GET", "GET /sub#x HTTP/1.1"), 400},
		{"absolute target without host", with("GET", "GET http:///sub HTTP/1.1"), 400},
		{"absolute target, strange scheme", with("GET", "GET ftp://x/sub HTTP/1.1"), 400},
		{"target not ASCII", with("GET", "GET /\u00e9 HTTP/1.1"), 400},
		{"NUL in the target", with("GET", "GET /\x00 HTTP/1.1"), 400},
		{"empty line first", "\r\n" + sampleHead, 400},
		{"nothing but the end", "\r\n\r\n", 400},
		{"request line only", "GET /sub HTTP/1.1\r\n\r\n", 400},
		{"line feeds only", strings.ReplaceAll(sampleHead, "\r\n", "\n"), 400},
		{"a bare line feed", plus("A: b\nOrigin: evil"), 400},
		{"a bare carriage return", plus("A: b\rOrigin: evil"), 400},
		{"a carriage return in the request line", with("GET", "GET /sub\r HTTP/1.1"), 400},
		{"folded line", plus("A: b\r\n c"), 400},
		{"field without colon", plus("nonsense"), 400},
		{"field without name", plus(": x"), 400},
		{"blank before the colon", plus("Origin : x"), 400},
		{"name not ASCII", plus("Or\u0131gin: x"), 400},
		{"NUL in a value", plus("A: \x00"), 400},
		{"DEL in a value", plus("A: \x7f"), 400},
		{"no host", with("Host", ""), 400},
		{"two hosts", plus("Host: other"), 400},
		{"two empty hosts", with("Host", "Host:\r\nHost:"), 400},
		{"two origins", plus("Origin: a\r\nOrigin: b"), 400},
		{"two keys", plus("Sec-WebSocket-Key: " + sampleKey), 400},
		{"two versions", plus("Sec-WebSocket-Version: 13"), 400},
		{"body", plus("Content-Length: 5"), 400},
		{"body in chunks", plus("Transfer-Encoding: chunked"), 400},
		{"two lengths", plus("Content-Length: 5\r\nContent-Length: 0"), 400},
		{"no upgrade", with("Upgrade", ""), 426},
		{"other upgrade", with("Upgrade", "Upgrade: h2c"), 426},
		{"upgrade with the long s", with("Upgrade", "Upgrade: web\u017focket"), 426},
		{"no connection", with("Connection", ""), 426},
		{"other connection", with("Connection", "Connection: keep-alive, upgraded"), 426},
		{"no version", with("Sec-WebSocket-Version", ""), 426},
		{"version 8", with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 426},
		{"version list", with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8"), 426},
		{"version 013", with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 013"), 426},
		{"no key", with("Sec-WebSocket-Key", ""), 400},
		{"empty key", with("Sec-WebSocket-Key", "Sec-WebSocket-Key:"), 400},
		{"key of 15 bytes", with("Sec-WebSocket-Key", "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1"), 400},
		{"key of 17 bytes", with("Sec-WebSocket-Key", "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc="), 400},
		{"key of 18 bytes", with("Sec-WebSocket-Key", "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc4"), 400},
		{"key without padding", with("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400},
		{"key no base64", with("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!=="), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, behind := range []string{"", "\x81\x80"} {
				h, n, err := ParseHandshake([]byte(c.head+behind), 8192)
				if statusOf(err) != c.status || n != 0 || h != (Handshake{}) {
					t.Errorf("got %+v, %d, %v, want status %d", h, n, err, c.status)
				}
			}
			// Earlier than at the end is fine, but it must be the same verdict.
			for i := range c.head {
				_, n, err := ParseHandshake([]byte(c.head[:i]), 8192)
				if err == nil && n == 0 {
					continue
				}
				if statusOf(err) != c.status {
					t.Errorf("first %d bytes: n=%d, %v, want status %d", i, n, err, c.status)
				}
				break
			}
		})
	}
}

func statusOf(err error) int {
	var he *HandshakeError
	if errors.As(err, &he) {
		return he.Status
	}
	return 0
}

// What is no HTTP at all is turned away by its first bytes and need not be
// waited for until the handshake's deadline.
func TestParseHandshakeTurnsAwayEarly(t *testing.T) {
	for name, first := range map[string]string{
		"goim over TCP":   "\x00",
		"TLS":             "\x16",
		"SSH's line feed": "SSH-2.0-x\n",
	} {
		if _, _, err := ParseHandshake([]byte(first), 8192); statusOf(err) != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseHandshakeLimit(t *testing.T) {
	size := len(sampleHead)
	for _, c := range []struct {
		name     string
		buf      string
		maxBytes int
		n        int
		status   int
	}{
		{"at the limit", sampleHead, size, size, 0},
		{"one over", sampleHead, size - 1, 0, 431},
		{"one over, frames behind", sampleHead + "\x81\x80", size - 1, 0, 431},
		{"frames do not count", sampleHead + strings.Repeat("x", 100), size, size, 0},
		{"unfinished, below", sampleHead[:size-1], size, 0, 0},
		{"unfinished, full", sampleHead[:size-1], size - 1, 0, 431},
		{"endless request line", "GET /" + strings.Repeat("a", 9000), 8192, 0, 431},
		{"nothing allowed", "G", 0, 0, 431},
		{"less than nothing", "G", -5, 0, 431},
	} {
		_, n, err := ParseHandshake([]byte(c.buf), c.maxBytes)
		if n != c.n || statusOf(err) != c.status {
			t.Errorf("%s: n=%d, %v, want %d, status %d", c.name, n, err, c.n, c.status)
		}
	}
}

// The answer as RFC 6455, section 1.3 and goim-compat.md 1.8 have it.
func TestAppendUpgrade(t *testing.T) {
	got := string(AppendUpgrade([]byte("before"), sampleHandshake()))
	want := "beforeHTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAppendHandshakeError(t *testing.T) {
	upgrade := http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Connection": {"close, Upgrade"}}
	for _, c := range []struct {
		err    error
		status int
		body   string
		header http.Header
	}{
		{&HandshakeError{400, "bad key"}, 400, "bad key\n", http.Header{"Connection": {"close"}}},
		{&HandshakeError{404, ""}, 404, "Not Found\n", nil},
		{&HandshakeError{405, "GET required"}, 405, "GET required\n", http.Header{"Allow": {"GET"}}},
		{&HandshakeError{426, "version"}, 426, "version\n", upgrade},
		{fmt.Errorf("open: %w", &HandshakeError{431, "too large"}), 431, "too large\n", nil},
		{&HandshakeError{503, "draining"}, 503, "draining\n", nil},
		{errors.New("password=secret"), 500, "Internal Server Error\n", nil},
	} {
		wire := AppendHandshakeError([]byte("before"), c.err)
		rest := bufio.NewReader(bytes.NewReader(wire[len("before"):]))
		resp, err := http.ReadResponse(rest, nil)
		if err != nil {
			t.Fatalf("%v: %v", c.err, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(body) != c.body || !resp.Close || rest.Buffered() != 0 {
			t.Errorf("%v: %q", c.err, wire)
		}
		for name, want := range c.header {
			// net/http takes Connection out of what it has understood.
			if name == "Connection" {
				if !bytes.Contains(wire, []byte("\r\nConnection: "+want[0]+"\r\n")) {
					t.Errorf("%v: %q lacks Connection: %s", c.err, wire, want[0])
				}
				continue
			}
			if resp.Header.Get(name) != want[0] {
				t.Errorf("%v: %s: %q, want %q", c.err, name, resp.Header.Get(name), want[0])
			}
		}
	}
}
