package scenario

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/perseid-im/perseid/internal/leakcheck"
	"github.com/perseid-im/perseid/pkg/wire"
)

// TestMain also is the child of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childArg {
		os.Exit(Command(nil, os.Args[1:], os.Stdout, os.Stderr)) //nolint:staticcheck // a child has no context
	}
	leakcheck.Main(m)
}

func testChild() *exec.Cmd { return exec.Command(os.Args[0], childArg) }

// goim is a server of one process: TCP clients and the push API. drop says
// which messages do not go to which connection.
type goim struct {
	t        *testing.T
	tcp, ws  net.Listener
	http     *httptest.Server
	handlers sync.WaitGroup
	silent   bool // auth gets no answer
	refuse   bool // pushes are answered with status 500
	drop     func(mid int64, message int) bool

	mu       sync.Mutex
	conns    map[int64]*client
	all      map[net.Conn]bool
	messages int
}

type client struct {
	nc        net.Conn
	key, room string
}

func newGoim(t *testing.T) *goim {
	t.Helper()
	g := &goim{t: t, conns: map[int64]*client{}, all: map[net.Conn]bool{}}
	g.tcp = g.listen(func(nc net.Conn) (net.Conn, error) { return nc, nil })
	g.ws = g.listen(func(nc net.Conn) (net.Conn, error) {
		_, err := ws.Upgrade(nc)
		return &wsConn{Conn: nc, frames: wsutil.Reader{Source: nc, State: ws.StateServerSide}}, err
	})
	g.http = httptest.NewServer(g)
	t.Cleanup(func() {
		_, _ = g.tcp.Close(), g.ws.Close()
		g.http.Close()
		g.mu.Lock()
		for nc := range g.all {
			_ = nc.Close()
		}
		g.mu.Unlock()
		g.handlers.Wait()
	})
	return g
}

func (g *goim) listen(open func(net.Conn) (net.Conn, error)) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.handlers.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.all[nc] = true
			g.mu.Unlock()
			g.handlers.Go(func() {
				defer nc.Close()
				if c, err := open(nc); err == nil {
					g.serve(c)
				}
			})
		}
	})
	return l
}

// wsConn reads and writes what is in binary frames.
type wsConn struct {
	net.Conn
	frames wsutil.Reader
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		n, err := c.frames.Read(p)
		if errors.Is(err, wsutil.ErrNoFrameAdvance) || errors.Is(err, io.EOF) && n == 0 {
			if _, err = c.frames.NextFrame(); err != nil {
				return 0, err
			}
			continue
		}
		if errors.Is(err, io.EOF) { // of the frame
			err = nil
		}
		return n, err
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	return len(p), wsutil.WriteServerBinary(c.Conn, p)
}

func (g *goim) serve(nc net.Conn) {
	mid := int64(0)
	for {
		packet := make([]byte, 4)
		if _, err := io.ReadFull(nc, packet); err != nil {
			break
		}
		packet = append(packet, make([]byte, int(packet[2])<<8+int(packet[3])-4)...)
		if _, err := io.ReadFull(nc, packet[4:]); err != nil {
			break
		}
		p, _, err := wire.Decoder{}.Next(packet)
		if err != nil {
			g.t.Errorf("%x: %v", packet, err)
			break
		}
		if p.Op == wire.OpAuth {
			body := string(p.Body)
			_, rest, _ := strings.Cut(body, `"mid":`)
			number, _, _ := strings.Cut(rest, ",")
			mid, _ = strconv.ParseInt(number, 10, 64)
			_, rest, _ = strings.Cut(body, `"key":"`)
			key, _, _ := strings.Cut(rest, `"`)
			_, rest, _ = strings.Cut(body, `"room_id":"`)
			room, _, _ := strings.Cut(rest, `"`)
			g.mu.Lock()
			g.conns[mid] = &client{nc, key, room}
			g.mu.Unlock()
		}
		if g.silent {
			continue
		}
		_, _ = nc.Write(wire.AppendPacket(nil, wire.Header{Ver: 1, Op: p.Op + 1, Seq: p.Seq}, nil))
	}
	g.mu.Lock()
	if c := g.conns[mid]; c != nil && c.nc == nc {
		delete(g.conns, mid)
	}
	g.mu.Unlock()
}

func (g *goim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if g.refuse {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	q := r.URL.Query()
	op, _ := strconv.Atoi(q.Get("operation"))
	frame := wire.AppendPacket(nil, wire.Header{Ver: 1, Op: int32(op)}, body)
	g.mu.Lock()
	message := g.messages
	g.messages++
	mids := map[int64]bool{}
	for _, m := range q["mids"] {
		mid, _ := strconv.ParseInt(m, 10, 64)
		mids[mid] = true
	}
	for mid, c := range g.conns {
		switch r.URL.Path {
		case "/goim/push/room":
			if c.room != q.Get("type")+"://"+q.Get("room") {
				continue
			}
		case "/goim/push/mids":
			if !mids[mid] {
				continue
			}
		case "/goim/push/keys":
			if !slices.Contains(q["keys"], c.key) {
				continue
			}
		}
		if g.drop != nil && g.drop(mid, message) {
			continue
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(time.Minute))
		_, _ = c.nc.Write(frame)
	}
	g.mu.Unlock()
	_, _ = io.WriteString(w, `{"code":0,"message":""}`)
}

// flags are those that every run needs.
func (g *goim) flags() []string {
	return []string{
		"-tcp", g.tcp.Addr().String(), "-ws", g.ws.Addr().String(), "-http", strings.TrimPrefix(g.http.URL, "http://"), "-quiet", "-o", "-", "-pid", "goim=" + strconv.Itoa(os.Getpid()),
		"-conns", "40", "-timed", "10", "-duration", "400ms", "-settle", "300ms", "-drain", "20ms", "-publishers", "4", "-commit", "c0ffee", "-timeout", "5m", "-calm", "0s", "-patience", "1m",
	}
}
