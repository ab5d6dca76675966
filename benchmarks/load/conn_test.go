package load

import (
	"errors"
	"testing"

	"github.com/perseid-im/perseid/pkg/wire"
)

func testConsumer(streams int) *consumer {
	return &consumer{streams: streams, next: make([]uint32, streams), classes: make([]ClassStats, 1), samples: make([]samples, 1), onAuth: func(int) {}}
}

func pushBytes(n int) []byte {
	var b []byte
	body := make([]byte, StampLen)
	for i := range n {
		PutStamp(body, Stamp{DueNS: 1, Seq: uint32(i)})
		b = wire.AppendPacket(b, wire.Header{Ver: 1, Op: OpRoom}, body)
	}
	return b
}

// Input may be cut anywhere: what is not whole stays, and nothing is counted
// twice.
func TestInputMayBeCutAnywhere(t *testing.T) {
	packets := pushBytes(5)
	packets = append(packets, wire.AppendPacket(nil, wire.Header{Ver: 1, Op: wire.OpHeartbeatReply}, []byte{0, 0, 0, 9})...)
	raw := append(wire.AppendHeader(nil, wire.Header{Ver: 1, Op: wire.OpRaw}, len(packets)), packets...)
	var frames []byte
	for range 2 {
		frames = append(frames, wsFinBinary, 126, byte(len(raw)>>8), byte(len(raw)))
		frames = append(frames, raw...)
	}
	for cut := range len(frames) + 1 {
		k, c := testConsumer(1), &conn{}
		rest := []byte{}
		for _, part := range [][]byte{frames[:cut], frames[cut:]} {
			b := append(rest, part...)
			used, err := k.consumeWS(c, 0, b, 0)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			rest = append([]byte{}, b[used:]...)
		}
		if st := k.classes[0]; len(rest) != 0 || st.Received != 10 || st.Duplicates != 5 || k.echoes != 2 {
			t.Fatalf("cut at %d: %d left, %+v", cut, len(rest), st)
		}
	}
	for cut := range len(packets) + 1 {
		k, c := testConsumer(1), &conn{}
		used, err := k.consume(c, 0, packets[:cut], 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = k.consume(c, 0, packets[used:], 0); err != nil || k.classes[0].Received != 5 || k.echoes != 1 {
			t.Fatalf("cut at %d: %v, %+v", cut, err, k.classes[0])
		}
	}
}

func TestBadInput(t *testing.T) {
	for name, b := range map[string][]byte{
		"short packet":           {0, 0, 0, 15, 0, 16, 0, 1, 0, 0, 3, 232, 0, 0, 0, 0},
		"huge packet":            {127, 0, 0, 0, 0, 16, 0, 1, 0, 0, 3, 232, 0, 0, 0, 0},
		"masked frame":           {0x82, 0x81, 0, 0, 0, 0, 0},
		"reserved bit":           {0xC2, 0x01, 0},
		"frame ends in a packet": append([]byte{0x82, 20}, pushBytes(1)[:20]...),
		"long ping":              {0x89, 126, 1, 0},
	} {
		k, c := testConsumer(1), &conn{}
		var err error
		if b[0] >= 0x80 {
			_, err = k.consumeWS(c, 0, b, 0)
		} else {
			_, err = k.consume(c, 0, b, 0)
		}
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	var code errClosing
	k, c := testConsumer(1), &conn{}
	if _, err := k.consumeWS(c, 0, []byte{0x88, 2, 0x0b, 0xc0}, 0); !errors.As(err, &code) || code != 3008 {
		t.Errorf("close: %v", err)
	}
	var ping errPing
	if n, err := k.consumeWS(c, 0, []byte{0x89, 2, 'h', 'i', 0x82}, 0); !errors.As(err, &ping) || string(ping) != "hi" || n != 4 {
		t.Errorf("ping: %d, %v", n, err)
	}
	// A stream that nobody was told of, and a body without a stamp.
	body := make([]byte, StampLen)
	PutStamp(body, Stamp{Stream: 3})
	b := wire.AppendPacket(nil, wire.Header{Op: OpAll}, body)
	b = wire.AppendPacket(b, wire.Header{Op: OpAll}, []byte("hello"))
	if _, err := k.consume(c, 0, b, 0); err != nil || k.classes[0].Unknown != 2 {
		t.Errorf("%v, %+v", err, k.classes[0])
	}
}

func TestConsumeDoesNotAllocate(t *testing.T) {
	b := pushBytes(100)
	k := testConsumer(1)
	c := &conn{timed: true}
	k.classes[0].Latency.Record(1 << 40)
	if n := testing.AllocsPerRun(100, func() {
		k.next[0] = 0
		if used, err := k.consume(c, 0, b, 1000); err != nil || used != len(b) {
			t.Fatal(used, err)
		}
	}); n > 0 {
		t.Errorf("%g allocations", n)
	}
}

// A WebSocket message of several pushes begins with the header of a raw packet;
// it must not cost what follows the quick way.
func BenchmarkConsume(b *testing.B) {
	const n = 1000
	pushes := pushBytes(n)
	for name, input := range map[string][]byte{
		"stream": pushes, "raw": append(wire.AppendHeader(nil, wire.Header{Ver: wire.V1, Op: wire.OpRaw}, len(pushes)), pushes...),
	} {
		b.Run(name, func(b *testing.B) {
			k := testConsumer(16)
			c := &conn{}
			b.SetBytes(int64(len(input)))
			b.ReportAllocs()
			for b.Loop() {
				k.next[0] = 0
				if used, err := k.consume(c, 0, input, 0); err != nil || used != len(input) {
					b.Fatal(used, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/message")
		})
	}
}
