package ws

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

const interopLimit = 256 << 10

// echoServer serves /sub on loopback and gives its address: messages and pings
// are answered, everything else follows the RFC. It ends with the test.
func echoServer(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				if err := serveEcho(conn); err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("server: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

// serveEcho reads as an event loop does: what was not consumed stays in front
// of what comes next.
func serveEcho(conn net.Conn) error {
	var (
		r      Reader
		unread []byte
		out    []byte
		open   bool
		block  = make([]byte, 4096)
	)
	r.Init(interopLimit)
	for {
		n, err := conn.Read(block)
		if err != nil {
			return err
		}
		unread = append(unread, block[:n]...)
		used, done := 0, false
		if !open {
			if used, out, done = answerHandshake(out, unread); used == 0 && !done {
				continue
			}
			open = !done
		}
		for open && !done {
			ev, n, err := r.Next(unread[used:])
			if pe := (*ProtocolError)(nil); errors.As(err, &pe) {
				out, done = AppendClose(out, pe.Code, pe.Reason), true
			}
			if n == 0 {
				break
			}
			used += n
			switch ev.Kind {
			case KindMessage:
				out = AppendFrame(out, ev.Op, ev.Payload)
			case KindPing:
				out = AppendFrame(out, OpPong, ev.Payload)
			case KindClose:
				out, done = AppendClose(out, ev.Code, ev.Reason), true
			}
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if done {
			return nil
		}
		unread, out = append(unread[:0], unread[used:]...), out[:0]
	}
}

func answerHandshake(out, buf []byte) (n int, answer []byte, refused bool) {
	h, n, err := ParseHandshake(buf, 4096)
	if err == nil && n > 0 && h.Path != "/sub" {
		err = &HandshakeError{Status: http.StatusNotFound, Reason: "no such path"}
	}
	switch {
	case err != nil:
		return 0, AppendHandshakeError(out, err), true
	case n > 0:
		out = AppendUpgrade(out, h)
	}
	return n, out, false
}

func dialGobwas(t *testing.T, url string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, buffered, _, err := gobwas.Dial(ctx, url)
	if err != nil {
		return nil, err
	}
	if buffered != nil {
		t.Error("the server spoke first")
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { _ = conn.Close() })
	return conn, nil
}

func TestInteropGobwasEcho(t *testing.T) {
	conn, err := dialGobwas(t, "ws://"+echoServer(t)+"/sub?token=1")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 125, 126, 4096, 65535, 65536, 200_000, interopLimit} {
		sent := randomBytes(size)
		if err := wsutil.WriteClientBinary(conn, bytes.Clone(sent)); err != nil {
			t.Fatal(err)
		}
		got, op, err := wsutil.ReadServerData(conn)
		if err != nil || op != gobwas.OpBinary || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes: got %d of op %d, %v", size, len(got), op, err)
		}
	}
	if err := wsutil.WriteClientText(conn, []byte("gr\u00fc\u00dfe")); err != nil {
		t.Fatal(err)
	}
	if got, op, err := wsutil.ReadServerData(conn); err != nil || op != gobwas.OpText || string(got) != "gr\u00fc\u00dfe" {
		t.Fatalf("got %q of op %d, %v", got, op, err)
	}
}

func TestInteropGobwasFragmentsAndPing(t *testing.T) {
	conn, err := dialGobwas(t, "ws://"+echoServer(t)+"/sub")
	if err != nil {
		t.Fatal(err)
	}
	sent := strings.Repeat("\u20ac", 1000)
	w := wsutil.NewWriterSize(conn, gobwas.StateClientSide, gobwas.OpText, 64)
	if _, err := io.WriteString(w, sent[:1501]); err != nil {
		t.Fatal(err)
	}
	if err := w.FlushFragment(); err != nil {
		t.Fatal(err)
	}
	if err := wsutil.WriteClientMessage(conn, gobwas.OpPing, []byte("between")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, sent[1501:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		op      gobwas.OpCode
		payload string
	}{{gobwas.OpPong, "between"}, {gobwas.OpText, sent}} {
		frame, err := gobwas.ReadFrame(conn)
		if err != nil || frame.Header.OpCode != want.op || string(frame.Payload) != want.payload || frame.Header.Masked {
			t.Fatalf("got %+v, %v, want op %d", frame.Header, err, want.op)
		}
	}
}

func TestInteropGobwasClose(t *testing.T) {
	addr := echoServer(t)
	for _, c := range []struct {
		name  string
		frame gobwas.Frame
		code  gobwas.StatusCode
	}{
		{"close is echoed", gobwas.NewCloseFrame(gobwas.NewCloseFrameBody(4001, "bye")), 4001},
		{"too big", gobwas.NewBinaryFrame(make([]byte, interopLimit+1)), 1009},
		{"not UTF-8", gobwas.NewTextFrame([]byte("\xff")), 1007},
		{"reserved opcode", gobwas.NewFrame(5, true, nil), 1002},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := dialGobwas(t, "ws://"+addr+"/sub")
			if err != nil {
				t.Fatal(err)
			}
			frame := gobwas.MaskFrameInPlace(c.frame)
			if frame.Header.Length > interopLimit {
				// The header is enough. More would meet a closed socket, whose
				// reset can overtake the answer.
				frame.Payload = nil
			}
			if err := gobwas.WriteFrame(conn, frame); err != nil {
				t.Fatal(err)
			}
			got, err := gobwas.ReadFrame(conn)
			if err != nil || got.Header.OpCode != gobwas.OpClose {
				t.Fatalf("got %+v, %v", got.Header, err)
			}
			if code, _ := gobwas.ParseCloseFrameData(got.Payload); code != c.code {
				t.Errorf("closed with %d, want %d", code, c.code)
			}
		})
	}
}

func TestInteropGobwasRefused(t *testing.T) {
	_, err := dialGobwas(t, "ws://"+echoServer(t)+"/other")
	var status gobwas.StatusError
	if !errors.As(err, &status) || int(status) != http.StatusNotFound {
		t.Errorf("got %v, want 404", err)
	}
}

// net/http's client does the upgrade; this package's own client side the rest.
func TestInteropNetHTTP(t *testing.T) {
	addr := echoServer(t)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request := func(path, version string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {version}, "Sec-Websocket-Key": {sampleKey},
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}

	for _, c := range []struct {
		path, version string
		status        int
	}{{"/other", "13", 404}, {"/sub", "8", 426}} {
		resp := request(c.path, c.version)
		if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != c.status {
			t.Errorf("%s, version %s: %s, %v", c.path, c.version, resp.Status, err)
		}
		_ = resp.Body.Close()
	}

	resp := request("/sub", "13")
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %s, %v", resp.Status, resp.Header)
	}
	conn := resp.Body.(io.ReadWriter)
	out := AppendMaskedFrame(nil, OpText, []byte("hello"), testMask)
	out = AppendMaskedFrame(out, OpPing, []byte("p"), testMask)
	out = AppendMaskedFrame(out, OpClose, []byte(closeBody(1000, "done")), testMask)
	if _, err := conn.Write(out); err != nil {
		t.Fatal(err)
	}
	wire, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	got := deliver(t, readerCase{server: true}.reader(), wire, byteByByte)
	want := []string{text("hello"), pong("p"), closed(1000, "done")}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Frames that a client sends right behind its handshake, in the same segment,
// belong to the Reader.
func TestInteropFramesBehindTheHandshake(t *testing.T) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write(append([]byte(sampleHead), cf(fin|opText, "eager")...)); err != nil {
		t.Fatal(err)
	}
	answer := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answer, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	frame, err := gobwas.ReadFrame(answer)
	if err != nil || string(frame.Payload) != "eager" {
		t.Fatalf("got %+v, %v", frame, err)
	}
}
