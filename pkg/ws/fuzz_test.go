package ws

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	gobwas "github.com/gobwas/ws"
)

var fuzzLimits = []int{0, 125, 1000, 70_000}

// FuzzFrames: the Reader says the same as the model, however the wire is cut,
// and deliver checks that it keeps to its bytes. The lowest bit of mode chooses
// whose frames they are, the next two the message limit, the fourth whether
// messages may be compressed.
func FuzzFrames(f *testing.F) {
	for _, c := range append(readerCases(), deflateCases()...) {
		wire := bytes.Join(c.frames, nil)
		if len(wire) > 4096 {
			continue
		}
		mode := byte(2 << 1)
		if c.max != 0 {
			mode = 1 << 1
		}
		if c.server {
			mode |= 1
		}
		if c.deflate {
			mode |= 1 << 3
		}
		f.Add(wire, []byte{1, 7, 3}, mode)
	}
	f.Fuzz(func(t *testing.T, wire, cuts []byte, mode byte) {
		server, maxMessage, deflate := mode&1 != 0, fuzzLimits[mode>>1&3], mode&8 != 0
		c := readerCase{server: server, deflate: deflate}
		read := func(piece func() int) []string {
			r := c.reader()
			r.SetMaxMessage(maxMessage)
			return blur(deliver(t, r, wire, piece), deflate)
		}

		want := blur(model(wire, maxMessage, server, deflate), deflate)
		if got := read(whole); !slices.Equal(got, want) {
			t.Errorf("whole:\n got %q\nwant %q", got, want)
		}
		if len(cuts) > 0 {
			// Every piece is copied with all that is unread: at most 512 pieces.
			var sizes []int
			for _, b := range cuts {
				sizes = append(sizes, max(int(b), len(wire)/512))
			}
			if got := read(pieces(sizes...)); !slices.Equal(got, want) {
				t.Errorf("in pieces of %d:\n got %q\nwant %q", sizes, got, want)
			}
		}
		if len(wire) <= 512 {
			if got := read(byteByByte); !slices.Equal(got, want) {
				t.Errorf("byte by byte:\n got %q\nwant %q", got, want)
			}
		}
	})
}

// blur makes damaged and too big one: how much comes out of a compressed
// message in front of the damage is up to the library.
func blur(trace []string, deflate bool) []string {
	if last := len(trace) - 1; deflate && last >= 0 && (trace[last] == failed(1007) || trace[last] == failed(1009)) {
		trace[last] = "error 1007 or 1009"
	}
	return trace
}

// FuzzHandshake: the verdict depends neither on how the head was cut nor on
// what stands behind it; what is accepted reads the same to net/http; what is
// answered is HTTP, and an accepted key satisfies gobwas' server too.
func FuzzHandshake(f *testing.F) {
	for _, head := range []string{
		sampleHead,
		with("GET", "GET http://other:81/sub?q HTTP/1.1"),
		with("GET", "POST /sub HTTP/1.1"),
		with("GET", "GET /sub HTTP/1.0"),
		with("Host", ""),
		with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"),
		with("Connection", "Connection: keep-alive, Upgrade"),
		plus("Cookie: a=1\r\nCookie: b=2"),
		plus("Origin: https://a.example\r\nContent-Length: 0"),
		plus("A: b\r\n c"),
		strings.ReplaceAll(sampleHead, "\r\n", "\n"),
		sampleHead + "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x16\x03\x01\x02\x00",
	} {
		f.Add([]byte(head), uint16(1024))
		f.Add([]byte(head), uint16(180))
	}
	f.Fuzz(func(t *testing.T, buf []byte, limit uint16) {
		maxBytes := int(limit % 2048)
		before := bytes.Clone(buf)
		h, n, err := ParseHandshake(buf, maxBytes)
		if !bytes.Equal(buf, before) {
			t.Fatal("the buffer was changed")
		}
		for i := 0; i < len(buf) && i <= maxBytes; i++ {
			ph, pn, perr := ParseHandshake(slices.Clip(bytes.Clone(buf[:i])), maxBytes)
			if pn == 0 && perr == nil {
				continue
			}
			if ph != h || pn != n || statusOf(perr) != statusOf(err) {
				t.Fatalf("first %d bytes: %+v, %d, %v; all: %+v, %d, %v", i, ph, pn, perr, h, n, err)
			}
			break
		}

		switch {
		case err != nil:
			checkRefusal(t, h, n, err)
		case n == 0:
			if len(buf) >= maxBytes || h != (Handshake{}) {
				t.Fatalf("waits for more than %d bytes, %+v", maxBytes, h)
			}
		default:
			if n > len(buf) || n > maxBytes || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				t.Fatalf("a head of %d bytes", n)
			}
			checkAccepted(t, buf[:n], h)
		}
	})
}

func checkRefusal(t *testing.T, h Handshake, n int, err error) {
	t.Helper()
	wire := AppendHandshakeError(nil, err)
	rest := bufio.NewReader(bytes.NewReader(wire))
	resp, rerr := http.ReadResponse(rest, nil)
	if rerr != nil || h != (Handshake{}) || n != 0 {
		t.Fatalf("%+v, %d, %v: %v", h, n, err, rerr)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, rerr = io.Copy(io.Discard, resp.Body); rerr != nil || rest.Buffered() != 0 || !resp.Close || resp.StatusCode != statusOf(err) {
		t.Fatalf("%v is answered by %q", err, wire)
	}
}

func checkAccepted(t *testing.T, head []byte, h Handshake) {
	t.Helper()
	answer := AppendUpgrade(nil, h)
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%q: %v", answer, err)
	}
	_ = resp.Body.Close()

	// net/http refuses some that the RFC's grammar lets pass: bad escapes and
	// odd characters in URL or Host.
	if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head))); err == nil {
		uri := req.RequestURI
		if i := strings.Index(uri, "://"); i > 0 && uri[0] != '/' {
			uri = strings.TrimPrefix(uri[i+3:], h.Host)
		}
		path, query, _ := strings.Cut(uri, "?")
		if path == "" {
			path = "/"
		}
		if req.Method != http.MethodGet || path != h.Path || query != h.Query ||
			req.Header.Get("Origin") != h.Origin || strings.Join(req.Header["Cookie"], "; ") != h.Cookie ||
			req.Header.Get("Sec-Websocket-Key") != h.Key || req.ContentLength != 0 {
			t.Fatalf("net/http: %+v\nhere: %+v", req, h)
		}
	}

	out := &bytes.Buffer{}
	if _, err := gobwas.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(head), out}); err == nil && !bytes.Equal(out.Bytes(), answer) {
		t.Fatalf("gobwas answers %q, here %q", out, answer)
	}
}
