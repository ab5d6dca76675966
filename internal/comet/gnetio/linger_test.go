package gnetio

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// Symptom: browsers said that a close with a code was not clean, and a client
// that was sending could lose the bye. Cause: the socket was closed right behind
// the close frame, so the client's answer met a reset.
func TestToldClientsGetTime(t *testing.T) {
	var step func(time.Duration)
	f := serve(t, func(f *fixture) { step = f.stopClock() })
	kick := func(key string) { f.gateway.Kick([]uint64{f.logic.Session(key)}, comet.Kicked) }

	// One that answers ends at once.
	polite := f.websocket()
	polite.auth(1, `{"key":"polite"}`)
	kick("polite")
	if before, how := polite.end(); len(before) != 0 || how != "close 3501 kicked" {
		t.Errorf("%+v %s", before, how)
	}
	polite.write(ws.AppendMaskedFrame(nil, ws.OpPing, []byte("late"), [4]byte{1}))
	polite.write(ws.AppendMaskedFrame(nil, ws.OpClose, []byte{0x0d, 0xad}, [4]byte{1}))
	if _, how := polite.end(); how != "eof" {
		t.Errorf("after its answer: %s", how)
	}

	// One that never answers counts until its connection is gone: it holds a
	// file descriptor.
	mute := f.websocket()
	mute.auth(1, `{"key":"mute"}`)
	comettest.WaitFor(t, "the other to be gone", func() bool { return f.gateway.Sessions() == 1 })
	kick("mute")
	if _, how := mute.end(); how != "close 3501 kicked" {
		t.Error(how)
	}
	comettest.WaitFor(t, "the end to be counted", func() bool { return f.ended(comet.Kicked) == 2 })
	if n := f.gateway.Sessions(); n != 1 {
		t.Errorf("%d connections, the mute one is still there", n)
	}
	step(3 * time.Second)
	comettest.WaitFor(t, "the mute one to be gone", func() bool { return f.gateway.Sessions() == 0 })
	if _, how := mute.end(); how != "reset" {
		t.Error(how)
	}

	// One that is sending gets the bye and a clean end of the stream. It sends no
	// more than 1,000 requests ahead of the answers: if those are read late they
	// must still find room in the sockets.
	busy := f.tcp()
	busy.auth(2, `{"key":"busy"}`)
	ahead, over := make(chan struct{}, 1000), make(chan struct{})
	defer close(over)
	go func() {
		for request := packet(2, wire.OpSub, 1, "1"); ; {
			select {
			case ahead <- struct{}{}:
			case <-over:
				return
			}
			if _, err := busy.conn.Write(request); err != nil {
				return
			}
		}
	}()
	last := busy.packet()
	kick("busy")
	for {
		p, err := busy.next()
		if err != nil {
			if !errors.Is(err, io.EOF) || last.Op != wire.OpBye {
				t.Errorf("ended with %+v %v", last, err)
			}
			break
		}
		last = p
		select {
		case <-ahead:
		default: // it was not asked for
		}
	}
}
