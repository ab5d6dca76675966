package gnetio

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/pkg/wire"
)

// check reads a member's stream with nothing of the product's decoders and
// returns the numbers in the bodies of the pushes, up to the last one. wrapped
// is a WebSocket of version 1: frames with op 9 around the pushes.
func check(r io.Reader, wrapped bool, last uint32) (numbers []uint32, err error) {
	br := bufio.NewReaderSize(r, 16<<10)
	read := func(n int) []byte {
		p := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(br, p)
		}
		return p
	}
	packets := func(p []byte) {
		for len(p) > 0 && err == nil {
			n := int(binary.BigEndian.Uint32(p))
			if n < 20 || n > len(p) || binary.BigEndian.Uint32(p[8:]) != 1000 {
				err = fmt.Errorf("not a push: %x", p)
				return
			}
			numbers = append(numbers, binary.BigEndian.Uint32(p[16:]))
			p = p[n:]
		}
	}
	for err == nil && (len(numbers) == 0 || numbers[len(numbers)-1] != last) {
		if !wrapped {
			head := read(4)
			packets(append(head, read(int(binary.BigEndian.Uint32(head))-4)...))
			continue
		}
		head := read(2)
		n := int(head[1])
		if n == 126 {
			n = int(binary.BigEndian.Uint16(read(2)))
		} else if n == 127 {
			n = int(binary.BigEndian.Uint64(read(8)))
		}
		p := read(n)
		if err == nil && (head[0] != 0x82 || n < 16 || binary.BigEndian.Uint32(p[8:]) != 9) {
			err = fmt.Errorf("not an op 9: %x %x", head, p)
		}
		if err == nil {
			packets(p[16:])
		}
	}
	return numbers, err
}

// Every member that stays gets every message of the room once and in order,
// on both loops and both transports, while others join, leave and vanish.
func TestBroadcastReachesEveryStableMember(t *testing.T) {
	const members, messages, churners = 300, 3000, 12
	f := serve(t, func(f *fixture) { f.cfg.TurnWrites, f.cfg.OutboxBytes = 64, 4<<20 })
	type outcome struct {
		who     string
		numbers []uint32
		err     error
	}
	outcomes := make(chan outcome, members)
	var leaving sync.WaitGroup
	for i := range members {
		if i%3 == 2 { // between those that stay, so that the places of the list move
			c := f.tcp()
			c.auth(1, `{"room_id":"live://1"}`)
			leaving.Go(func() {
				_, _ = check(c.br, false, uint32(rand.IntN(messages)))
				if rand.IntN(2) == 0 {
					_ = c.conn.SetLinger(0) // RST
				}
				_ = c.conn.Close()
			})
		}
		c, who := f.tcp(), fmt.Sprintf("tcp %d", i)
		if i%3 == 0 {
			c, who = f.websocket(), fmt.Sprintf("websocket %d", i)
		}
		c.auth(1, fmt.Sprintf(`{"key":"%s","room_id":"live://1"}`, who))
		if len(c.in)+len(c.rest)+c.br.Buffered() > 0 {
			t.Fatal("something follows the auth reply")
		}
		go func() {
			numbers, err := check(c.br, c.isWS, messages-1)
			outcomes <- outcome{who, numbers, err}
		}()
	}

	stop, churned := make(chan struct{}), atomic.Int64{}
	var churn sync.WaitGroup
	for i := range churners {
		churn.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := visit(f.server.TCPAddr(), rnd); err != nil {
					t.Error(err)
					return
				}
				churned.Add(1)
			}
		})
	}

	start := time.Now()
	var deliveries []*comet.Delivery
	for n := uint32(0); n < messages; {
		var batch []comet.Push
		for range 1 + rand.IntN(20) {
			if n < messages {
				batch = append(batch, comet.Push{Room: "live://1", Op: 1000, Body: binary.BigEndian.AppendUint32(nil, n)})
				n++
			}
		}
		deliveries = append(deliveries, f.dispatch(batch...))
		if len(deliveries)%16 == 0 { // a window of batches, as a job has
			<-deliveries[len(deliveries)-16].Done()
		}
	}
	for _, d := range deliveries {
		select {
		case <-d.Done():
		case <-time.After(patience):
			t.Fatal("a push has no result")
		}
		for _, r := range d.Results {
			if r.Delivered < members || r.Slow != 0 {
				t.Fatalf("%+v", r)
			}
		}
	}
	took := time.Since(start)
	want := make([]uint32, messages)
	for i := range want {
		want[i] = uint32(i)
	}
	for range members {
		o := <-outcomes
		if o.err != nil || !slices.Equal(o.numbers, want) {
			t.Errorf("%s: %d messages, %v", o.who, len(o.numbers), o.err)
		}
	}
	close(stop)
	churn.Wait()
	leaving.Wait()
	t.Logf("%d messages to %d members in %s beside %d visits", messages, members, took, churned.Load())
}

// visit joins the room, leaves it in some way and looks at what it got: a
// contiguous part of the stream for each stay.
func visit(addr string, rnd *rand.Rand) error {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	first := `{"room_id":"live://1"}`
	if rnd.IntN(2) == 0 {
		first = `{"room_id":"live://2"}`
	}
	if _, err := conn.Write(packet(2, wire.OpAuth, 1, first)); err != nil {
		return err
	}
	var last int64 = -1
	var in []byte
	buf := make([]byte, 16<<10)
	for range 20 + rnd.IntN(200) {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("a visitor lost its connection: %w", err)
		}
		in = append(in, buf[:n]...)
		for len(in) >= 4 && len(in) >= int(binary.BigEndian.Uint32(in)) {
			p := in[:binary.BigEndian.Uint32(in)]
			in = in[len(p):]
			switch op := binary.BigEndian.Uint32(p[8:]); {
			case op == 1000:
				number := int64(binary.BigEndian.Uint32(p[16:]))
				if number <= last || (last >= 0 && number != last+1) {
					return fmt.Errorf("a visitor got %d after %d", number, last)
				}
				last = number
			case op == uint32(wire.OpJoinReply), op == uint32(wire.OpLeaveReply):
				last = -1
			}
		}
		switch rnd.IntN(12) {
		case 0:
			last = -1
			_, err = conn.Write(packet(2, wire.OpJoin, 2, `{"rooms":["live://1","live://3"]}`))
		case 1:
			_, err = conn.Write(packet(2, wire.OpLeave, 3, `{"rooms":["live://1"]}`))
		case 2:
			_ = conn.(*net.TCPConn).SetLinger(0)
			return nil
		case 3:
			return nil
		default:
			_, err = conn.Write(packet(2, wire.OpHeartbeat, 4, "")) // something to read next
		}
		if err != nil {
			return err
		}
	}
	return nil
}
