package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
)

const (
	pressureBytes = 1 << 20 // backlog_bytes of the tests
	pushBytes     = 64 << 10
)

func smallBacklog(c *comet.Config) {
	c.BacklogBytes, c.OutboxBytes = pressureBytes, 64<<20
}

// pump sends numbered room pushes until the stream ends, and counts them.
func pump(stream dispatchStream, from int, sent chan<- int) {
	for i := from; ; i++ {
		body := make([]byte, pushBytes)
		copy(body, fmt.Sprintf("%08d", i))
		if stream.Send(batch(&cometv1.Push{Offset: int64(i), Op: 1, Body: body, Room: "live://1"})) != nil {
			close(sent)
			return
		}
		sent <- i
	}
}

// stalls waits until a mailbox is full and nothing was sent for a while, and
// returns the last number.
func stalls(t *testing.T, sent <-chan int) (last int) {
	t.Helper()
	end := time.After(patience)
	for last = -1; ; {
		select {
		case i, ok := <-sent:
			if !ok {
				t.Fatal("the stream has ended")
			}
			last = i
		case <-time.After(500 * time.Millisecond):
			if (last+1)*pushBytes >= pressureBytes { // else the sender was only held up
				return last
			}
		case <-end:
			t.Fatalf("the sender stops after %d, no mailbox is full", last)
		}
	}
}

// A loop that does not get on stops the sender; what waits is bounded, and
// everything is delivered in order when the loop goes on.
func TestBackPressure(t *testing.T) {
	f := serve(t, smallBacklog)
	c := f.loops[0].Open(t, 1, `{"key":"a","room_id":"live://1"}`)
	release := f.loops[0].Block()
	defer release()
	stream, _ := f.lane()
	sent := make(chan int)
	go pump(stream, 0, sent)
	last := stalls(t, sent)
	// The mailbox, one batch at its door, and what gRPC holds: its windows and
	// its buffers of both ends.
	if waiting := (last + 1) * pushBytes; waiting > 4*pressureBytes {
		t.Errorf("%d bytes wait, the bound of a mailbox is %d", waiting, pressureBytes)
	}
	release()
	results := make(chan int)
	go func() {
		defer close(results)
		for n := 0; ; n++ {
			if _, err := stream.Recv(); err != nil {
				return
			}
			results <- n
		}
	}()
	for n := 0; n < 4*last; {
		select {
		case n = <-results:
		case <-sent:
		case <-time.After(patience):
			t.Fatalf("stuck after %d results", n)
		}
	}
	release = f.loops[0].Block()
	defer release()
	for i, body := range c.Bodies(1) {
		if body[:8] != fmt.Sprintf("%08d", i) {
			t.Fatalf("message %d is %s", i, body[:8])
		}
	}
	go func() { // the pump and the reader end with the stream
		for range sent {
		}
	}()
	go func() {
		for range results {
		}
	}()
}

// Neither the end of a stream nor the stop of the server waits for a loop that
// is stuck. What was sent on the broken stream is sent again on the next one,
// and nobody gets it twice.
func TestStreamsEndAlthoughALoopIsStuck(t *testing.T) {
	for _, how := range []string{"cancel", "close"} {
		t.Run(how, func(t *testing.T) {
			f := serve(t, smallBacklog)
			stuck := f.loops[0].Open(t, 1, `{"key":"a","room_id":"live://1"}`)
			free := f.loops[1].Open(t, 1, `{"key":"b","room_id":"live://1"}`)
			release := f.loops[0].Block()
			defer release()
			stream, cancel := f.lane()
			sent := make(chan int)
			go pump(stream, 0, sent)
			last := stalls(t, sent)
			if how == "cancel" {
				cancel()
			} else {
				f.api.Close()
				stopped := make(chan struct{})
				go func() { f.rpc.GracefulStop(); close(stopped) }()
				select {
				case <-stopped:
				case <-time.After(patience):
					t.Fatal("the server does not stop")
				}
			}
			if code := ends(t, stream); (how == "cancel" && code != codes.Canceled) || (how == "close" && code != codes.Unavailable) {
				t.Errorf("the stream ends with %s", code)
			}
			for range sent {
			}
			if how == "close" {
				return
			}
			again, cancel2 := f.lane() // is not held up by the one that broke
			resent := make(chan int)
			go pump(again, 0, resent)
			stalls(t, resent)
			release()
			go func() {
				for range resent {
				}
			}()
			for n := range last + 10 {
				if _, err := again.Recv(); err != nil {
					t.Fatalf("after %d results: %v", n, err)
				}
			}
			cancel2()
			for {
				if _, err := again.Recv(); err != nil {
					break
				}
			}
			for name, c := range map[string]*comettest.Conn{"stuck": stuck, "free": free} {
				for i, body := range c.Bodies(1) {
					if body[:8] != fmt.Sprintf("%08d", i) {
						t.Fatalf("%s: message %d is %s", name, i, body[:8])
					}
				}
			}
		})
	}
}

// A job that hangs up while its pushes wait gets their results all the same.
func TestHalfCloseAnswersEverything(t *testing.T) {
	f := serve(t, nil)
	c := f.loops[0].Open(t, 1, `{"key":"a","accepts":[1]}`)
	release := f.loops[0].Block()
	defer release()
	stream, _ := f.lane()
	for range 10 {
		send(t, stream, f.next(&cometv1.Push{Op: 1, Sessions: []uint64{c.Session()}})...)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	release()
	for range 10 {
		recv(t, stream)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

type roomsStream interface {
	Send(*cometv1.RoomsAck) error
	Recv() (*cometv1.RoomsUpdate, error)
}

func (f *fixture) rooms(job string) (roomsStream, context.CancelFunc) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	f.t.Cleanup(cancel)
	stream, err := f.client.Rooms(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := stream.Send(&cometv1.RoomsAck{Job: job}); err != nil {
		f.t.Fatal(err)
	}
	return stream, cancel
}

func update(t *testing.T, stream roomsStream) *cometv1.RoomsUpdate {
	t.Helper()
	u, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if u.Node != comettest.Node().Name || u.Incarnation != comettest.Node().Incarnation {
		t.Fatalf("the update is of %s/%d", u.Node, u.Incarnation)
	}
	return u
}
