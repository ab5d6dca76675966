package client_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/pkg/client/clienttest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

func packet(op wire.Op, body string) []byte {
	return wire.AppendPacket(nil, wire.Header{Ver: 1, Op: op}, []byte(body))
}

// after accepts the client and then writes raw bytes.
func after(t *testing.T, raw []byte) *clienttest.Server {
	return script(t, func(p *clienttest.Peer) error { return errors.Join(accept(p, 60), p.WriteRaw(raw), untilClosed(p)) })
}

func TestLimitOfPackets(t *testing.T) {
	const limit = 8192
	fits, above := strings.Repeat("x", limit-wire.HeaderLen), strings.Repeat("x", limit-wire.HeaderLen+1)
	eachWay(t, func(t *testing.T, w way) {
		s := script(t, func(p *clienttest.Peer) error {
			// Above the limit, the client may be gone before it was written.
			err := errors.Join(accept(p, 60), p.Push(1000, fits))
			_ = p.Push(1000, above)
			return errors.Join(err, untilClosed(p))
		})
		c := dial(t, client.Config{Address: w.address(s), Version: w.ver, MaxPacketBytes: limit})
		expect(t, c, 1000, fits)
		err := expectEnd(t, c)
		_, frame := errors.AsType[*wire.Error](err)
		_, message := errors.AsType[*ws.ProtocolError](err)
		if !frame && !message {
			t.Errorf("got %v", err)
		}
	})
}

// Whatever cannot be read ends the connection, after what could.
func TestBrokenStreams(t *testing.T) {
	badHeader := packet(1000, "x")
	binary.BigEndian.PutUint16(badHeader[4:], 15)
	beyond := packet(1000, "x")
	binary.BigEndian.PutUint16(beyond[4:], 18)
	negative := packet(1000, "x")
	binary.BigEndian.PutUint32(negative, 1<<31)
	extended := packet(1000, "12345body")
	binary.BigEndian.PutUint16(extended[4:], 16+5)
	binaryFrame := func(b []byte) []byte { return ws.AppendFrame(nil, ws.OpBinary, b) }
	badBye := wire.AppendPacket(nil, wire.Header{Ver: 2, Op: wire.OpBye}, []byte("{"))

	tests := []struct {
		name  string
		way   way
		raw   []byte
		first string // delivered before the end
		end   string
	}{
		{"short header", way{false, 2}, badHeader, "", "headerLen is 15"},
		{"header beyond the packet", way{false, 2}, beyond, "", "headerLen is 18"},
		{"negative length", way{false, 1}, negative, "", "packLen is -2147483648"},
		{"extension in version 1", way{false, 1}, extended, "", "headerLen is 21"},
		{"a whole packet first", way{false, 1}, append(packet(1000, "ok"), badHeader...), "ok", "headerLen is 15"},
		{"cut message", way{true, 2}, binaryFrame(append(packet(1000, "ok"), 0, 0, 0)), "ok", "cut short"},
		{"cut wrapper", way{true, 1}, binaryFrame(packet(wire.OpRaw, string(packet(1000, "ok"))+"\x00")), "ok", "cut short"},
		{"masked frame", way{true, 2}, ws.AppendMaskedFrame(nil, ws.OpBinary, packet(1000, "x"), [4]byte{1}), "", "masked server frame"},
		{"unreadable bye", way{false, 2}, badBye, "", "bye: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := after(t, test.raw)
			c := dial(t, client.Config{Address: test.way.address(s), Version: test.way.ver})
			if test.first != "" {
				expect(t, c, 1000, test.first)
			}
			mention(t, expectEnd(t, c), test.end)
		})
	}
}

func TestUnusualButLegal(t *testing.T) {
	extended := packet(1000, "12345body")
	binary.BigEndian.PutUint16(extended[4:], 16+5)
	fragments := ws.AppendHeader(nil, ws.OpBinary, false, 20)
	fragments = append(fragments, packet(1000, "fragments")[:20]...)
	fragments = append(fragments, ws.AppendFrame(nil, ws.OpPing, []byte("in between"))...)
	fragments = append(fragments, ws.AppendFrame(nil, ws.OpContinuation, packet(1000, "fragments")[20:])...)
	bye := packet(wire.OpBye, `{"code":3500}`)
	tests := []struct {
		name string
		way  way
		raw  []byte
		want client.Message
	}{
		{"extension in version 2", way{false, 2}, extended, client.Message{Op: 1000, Body: []byte("body")}},
		{"fragments", way{true, 2}, fragments, client.Message{Op: 1000, Body: []byte("fragments")}},
		{"text", way{true, 2}, ws.AppendFrame(nil, ws.OpText, packet(100, "text")), client.Message{Op: 100, Body: []byte("text")}},
		{"empty message", way{true, 2}, ws.AppendFrame(ws.AppendFrame(nil, ws.OpBinary, nil), ws.OpBinary, packet(1, "")), client.Message{Op: 1}},
		{"wrapped wrapper", way{true, 1}, ws.AppendFrame(nil, ws.OpBinary, packet(wire.OpRaw, string(packet(wire.OpRaw, "inner")))),
			client.Message{Op: wire.OpRaw, Body: []byte("inner")}},
		{"op 9 on TCP", way{false, 1}, packet(wire.OpRaw, "plain"), client.Message{Op: wire.OpRaw, Body: []byte("plain")}},
		{"op 9 in version 2", way{true, 2}, ws.AppendFrame(nil, ws.OpBinary, packet(wire.OpRaw, "plain")), client.Message{Op: wire.OpRaw, Body: []byte("plain")}},
		{"op 6 in version 1", way{false, 1}, bye, client.Message{Op: wire.OpBye, Body: []byte(`{"code":3500}`)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := after(t, append(test.raw, func() []byte {
				if test.way.webSocket && test.way.ver == 1 {
					return ws.AppendFrame(nil, ws.OpBinary, packet(wire.OpRaw, string(packet(1000, "next"))))
				}
				if test.way.webSocket {
					return ws.AppendFrame(nil, ws.OpBinary, packet(1000, "next"))
				}
				return packet(1000, "next")
			}()...))
			c := dial(t, client.Config{Address: test.way.address(s), Version: test.way.ver})
			expect(t, c, test.want.Op, string(test.want.Body))
			expect(t, c, 1000, "next")
		})
	}
}

func TestPingIsAnswered(t *testing.T) {
	pinged := make(chan struct{})
	s := script(t, func(p *clienttest.Peer) error {
		err := errors.Join(accept(p, 60), p.WriteRaw(ws.AppendFrame(nil, ws.OpPing, []byte("are you there"))))
		p.OnPong = func(payload string) {
			if payload == "are you there" {
				close(pinged)
			}
		}
		return errors.Join(err, untilClosed(p))
	})
	dial(t, client.Config{Address: s.WebSocket})
	select {
	case <-pinged:
	case <-time.After(patience):
		t.Error("no pong")
	}
}

// A third of what the server allows, and the end when it says nothing for two.
func TestHeartbeats(t *testing.T) {
	tests := []struct {
		name     string
		cfg      client.Config
		told     int64 // by the server, seconds
		interval time.Duration
		answered int // heartbeats
	}{
		{"version 2", client.Config{}, 480, 160 * time.Second, 5},
		{"version 2, silent from the start", client.Config{}, 480, 160 * time.Second, 0},
		{"version 2, not told", client.Config{}, 0, 4 * time.Minute, 2},
		{"version 2, nonsense", client.Config{}, -5, 4 * time.Minute, 1},
		{"version 2, own", client.Config{Heartbeat: time.Second}, 480, time.Second, 5},
		{"version 1", client.Config{Version: 1}, 0, 4 * time.Minute, 3},
		{"version 1, own", client.Config{Version: 1, Heartbeat: time.Minute}, 0, time.Minute, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := test.cfg
				cfg.Address = "tcp://in.memory:1"
				cfg.NetDial = pipes(t, func(_ int, p *clienttest.Peer) error {
					if err := accept(p, test.told); err != nil {
						return err
					}
					for i := range test.answered + 2 {
						before := time.Now()
						beat, err := p.Next()
						if err != nil {
							// The read deadline and the second unanswered heartbeat fall
							// on the same moment.
							return nil
						}
						if waited := time.Since(before); beat.Op != wire.OpHeartbeat || waited != test.interval {
							t.Errorf("op %d after %s, want a heartbeat after %s", beat.Op, waited, test.interval)
						}
						if i < test.answered {
							if err := p.ReplyJSON(beat, map[string]int{"online": 1}); err != nil {
								return err
							}
						}
					}
					return untilClosed(p)
				})
				start := time.Now()
				c, err := client.Dial(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, err = c.Recv(t.Context())
				mention(t, err, "silent for")
				if lived := time.Since(start); lived != time.Duration(test.answered+2)*test.interval {
					t.Errorf("gave up after %s", lived)
				}
			})
		})
	}
}

// A server that takes nothing, not even a heartbeat.
func TestStuckServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		defer close(end)
		cfg := client.Config{Address: "tcp://in.memory:1", Heartbeat: time.Minute}
		cfg.NetDial = pipes(t, func(_ int, p *clienttest.Peer) error {
			err := accept(p, 60)
			<-end
			return err
		})
		c, err := client.Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := time.Now()
		_, err = c.Recv(t.Context())
		mention(t, err, "write: ")
		if lived := time.Since(start); lived != time.Minute+10*time.Second {
			t.Errorf("gave up after %s", lived)
		}
	})
}

// A receiver that does nothing stops the server, and not its own calls: their
// replies stand behind the pushes.
func TestSlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			body  = 1000
			limit = 10 * (body + 64)
			total = 100
		)
		pushed, dialed := 0, make(chan struct{})
		text := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), body) }
		cfg := client.Config{Address: "tcp://in.memory:1", QueueBytes: limit, MaxPacketBytes: total * (body + 64)}
		cfg.NetDial = pipes(t, func(_ int, p *clienttest.Peer) error {
			if err := accept(p, 60); err != nil {
				return err
			}
			joins := make(chan wire.Packet)
			go func() {
				for request, err := p.Next(); err == nil; request, err = p.Next() {
					joins <- request
				}
				close(joins)
			}()
			<-dialed // before, the auth reply is waited for, and what stands in front of a reply is taken
			for pushed < total {
				if err := p.Push(1000, text(pushed)); err != nil {
					return err
				}
				pushed++
			}
			for join := range joins { // answered behind all pushes
				if err := p.ReplyJSON(join, map[string]any{"rooms": []any{map[string]any{"room": "a://b", "ok": true}}}); err != nil {
					return err
				}
			}
			return nil
		})
		c, err := client.Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		close(dialed)
		synctest.Wait()
		// What waits in the queue, one packet that waits for room, and what the
		// reader holds in its buffer.
		if pushed < 10 || pushed > 30 {
			t.Errorf("%d messages were taken from the server", pushed)
		}
		if got, err := c.Join(t.Context(), "a://b"); err != nil || len(got) != 1 {
			t.Errorf("join: %v, %v", got, err)
		}
		for i := range total {
			if m, err := c.Recv(t.Context()); err != nil || string(m.Body) != text(i) {
				t.Fatalf("message %d: %.5q, %v", i, m.Body, err)
			}
		}
	})
}
