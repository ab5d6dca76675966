package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// httpConn is one keep-alive connection to the push API. net/http would take
// a large part of the machine at the rates that are asked for here.
type httpConn struct {
	addr    string
	timeout time.Duration
	nc      net.Conn
	r       *bufio.Reader
	answer  []byte
	used    time.Time // when the last answer came
	unused  bool      // none came; then used is when the connection was made
}

// How long a connection may lie idle before it is made anew. Servers close
// those that do for longer: Perseid and nginx after 75 s, Perseid after 5 s one
// on which no request has come.
const (
	maxIdle   = 30 * time.Second
	maxUnused = 3 * time.Second
)

// connect does nothing when there is a connection.
func (h *httpConn) connect(ctx context.Context) error {
	idle := maxIdle
	if h.unused {
		idle = maxUnused
	}
	if h.nc != nil && time.Since(h.used) > idle {
		h.close()
	}
	if h.nc != nil {
		return nil
	}
	d := net.Dialer{Timeout: h.timeout}
	nc, err := d.DialContext(ctx, "tcp", h.addr)
	if err != nil {
		return err
	}
	h.nc, h.used, h.unused = nc, time.Now(), true
	if h.r == nil {
		h.r = bufio.NewReaderSize(nc, 8<<10)
	} else {
		h.r.Reset(nc)
	}
	return nil
}

// post sends a whole request and reads the answer. accepted says whether the
// push was: status 202, or 200 with goim's code 0. After an error the next
// call connects anew.
func (h *httpConn) post(ctx context.Context, request []byte) (accepted bool, why string) {
	if err := h.connect(ctx); err != nil {
		return false, "connect: " + lastWord(err)
	}
	_ = h.nc.SetDeadline(time.Now().Add(h.timeout))
	if _, err := h.nc.Write(request); err != nil {
		h.close()
		return false, "write: " + lastWord(err)
	}
	status, keep, err := h.read()
	if err != nil {
		h.close()
		return false, "answer: " + lastWord(err)
	}
	h.used, h.unused = time.Now(), false
	if !keep {
		h.close()
	}
	if acceptedStatus(status, h.answer) {
		return true, ""
	}
	return false, fmt.Sprintf("status %d: %.60s", status, h.answer)
}

func acceptedStatus(status int, answer []byte) bool {
	return status == 202 || status == 200 && bytes.Contains(answer, []byte(`"code":0`))
}

// read reads one answer; its body goes to h.answer.
func (h *httpConn) read() (status int, keep bool, err error) {
	line, err := h.r.ReadSlice('\n')
	if err != nil {
		return 0, false, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, false, fmt.Errorf("%.40q is no answer", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, false, fmt.Errorf("%.40q is no answer", line)
	}
	length, chunked, keep := -1, false, true
	for {
		if line, err = h.r.ReadSlice('\n'); err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > 16<<20 {
				return 0, false, fmt.Errorf("content length %.20q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			keep = !bytes.EqualFold(value, []byte("close"))
		}
	}
	if chunked {
		return status, keep, h.readChunks()
	}
	if length < 0 {
		return 0, false, fmt.Errorf("an answer without length")
	}
	if cap(h.answer) < length {
		h.answer = make([]byte, length)
	}
	h.answer = h.answer[:length]
	_, err = io.ReadFull(h.r, h.answer)
	return status, keep, err
}

// readChunks reads a body in chunks, without trailers.
func (h *httpConn) readChunks() error {
	h.answer = h.answer[:0]
	for {
		line, err := h.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(";"))
		n, err := strconv.ParseUint(string(size), 16, 32)
		if err != nil || len(h.answer)+int(n) > 16<<20 {
			return fmt.Errorf("chunk of %.20q bytes", size)
		}
		at := len(h.answer)
		h.answer = append(h.answer, make([]byte, n)...)
		if _, err := io.ReadFull(h.r, h.answer[at:]); err != nil {
			return err
		}
		if line, err = h.r.ReadSlice('\n'); err != nil || len(bytes.TrimSpace(line)) > 0 {
			return fmt.Errorf("a chunk has no end: %w", err)
		}
		if n == 0 {
			return nil
		}
	}
}

func (h *httpConn) close() {
	if h.nc != nil {
		_ = h.nc.Close()
		h.nc = nil
	}
}

// lastWord keeps the counts of errors few: no addresses in them.
func lastWord(err error) string {
	text := err.Error()
	for i := len(text) - 2; i > 0; i-- {
		if text[i] == ':' && text[i+1] == ' ' {
			return text[i+2:]
		}
	}
	return text
}
