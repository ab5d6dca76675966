package gnetio

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// goim's example token (goim-compat 1.1).
const token = `{"mid":1,"room_id":"live://1000","platform":"web","accepts":[1000]}`

// Golden bytes of goim-compat 1.1.
const (
	authHex      = "00000053 0010 0001 00000007 00000001"
	authReplyHex = "00000010 0010 0001 00000008 00000001"
	online7Hex   = "00000014 0010 0001 00000003 00000005 00000007"
	roomHex      = "00000012 0010 0001 000003e8 00000000 6869" + "00000013 0010 0001 000003e9 00000000 796f21"
	roomRawHex   = "00000035 0010 0001 00000009 00000000" + roomHex
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sevenOnline makes logic say that the room of the token has 7 sessions.
func sevenOnline(f *fixture) {
	f.cfg.LeaseInterval, f.cfg.OnlineInterval = 100*time.Millisecond, 100*time.Millisecond
	f.logic.Rooms = map[string]int32{"live://1000": 7}
}

// awaitSeven asks until the count has arrived.
func awaitSeven(t *testing.T, f *fixture, dial func() *client) {
	t.Helper()
	c := dial()
	c.auth(1, token)
	comettest.WaitFor(t, "the cluster's count", func() bool {
		c.send(1, wire.OpHeartbeat, 2, "")
		return string(c.packet().Body) == "\x00\x00\x00\x07"
	})
}

func TestGoimBytesOnTCP(t *testing.T) {
	f := serve(t, sevenOnline)
	awaitSeven(t, f, f.tcp)
	c := f.tcp()
	c.write(append(unhex(t, authHex), token...))
	c.bytes(authReplyHex)
	c.write(unhex(t, "00000010 0010 0001 00000002 00000005"))
	c.bytes(online7Hex)
	f.push(toRoom("live://1000", 1000, "hi"), toRoom("live://1000", 1001, "yo!"))
	c.bytes(roomHex)
	// Replies echo ver and seq; Sub, Unsub and ChangeRoom the body as well.
	c.write(unhex(t, "00000019 0010 0001 0000000e 00000006"+hex.EncodeToString([]byte("1001,1002"))))
	c.bytes("00000019 0010 0001 0000000f 00000006" + hex.EncodeToString([]byte("1001,1002")))
	c.write(unhex(t, "00000014 0010 0001 00000010 00000007"+hex.EncodeToString([]byte("1002"))))
	c.bytes("00000014 0010 0001 00000011 00000007" + hex.EncodeToString([]byte("1002")))
	c.write(unhex(t, "00000018 0010 0001 0000000c 00000008"+hex.EncodeToString([]byte("live://2"))))
	c.bytes("00000018 0010 0001 0000000d 00000008" + hex.EncodeToString([]byte("live://2")))
	// Any other op comes back with an empty body, op 3 with the count, op 9 not
	// at all, a second op 7 like any other.
	c.write(unhex(t, "00000012 0010 0003 00000004 00000009 abcd"))
	c.bytes("00000010 0010 0003 00000004 00000009")
	c.write(unhex(t, "00000010 0010 0001 00000003 0000000a"))
	c.bytes("00000014 0010 0001 00000003 0000000a 00000001") // of live://2 logic knows nothing: what is here counts
}

func TestGoimBytesOnWebSocket(t *testing.T) {
	f := serve(t, sevenOnline)
	awaitSeven(t, f, f.websocket)
	c := f.websocket()
	send := func(s string) { c.write(c.frame(unhex(t, s))) }
	send(authHex + hex.EncodeToString([]byte(token)))
	c.bytes("82 10" + authReplyHex)
	send("00000010 0010 0001 00000002 00000005")
	c.bytes("82 14" + online7Hex)
	// Two messages of a room that meet are one WebSocket message.
	f.push(toRoom("live://1000", 1000, "hi"), toRoom("live://1000", 1001, "yo!"))
	c.bytes("82 35" + roomRawHex)
	// Replies are not wrapped.
	send("00000018 0010 0001 0000000c 00000008" + hex.EncodeToString([]byte("live://2")))
	c.bytes("82 18 00000018 0010 0001 0000000d 00000008" + hex.EncodeToString([]byte("live://2")))
	send("00000012 0010 0001 00000004 00000009 abcd")
	c.bytes("82 10 00000010 0010 0001 00000004 00000009")
	send("00000010 0010 0001 00000009 0000000b") // op 9: nothing on TCP, 16 bytes here
	c.bytes("82 10 00000010 0010 0001 00000009 0000000b")
	// goim ignores what follows the packet in a message.
	send("00000010 0010 0001 00000004 0000000c" + "ffffffff")
	c.bytes("82 10 00000010 0010 0001 00000004 0000000c")
	// Text messages are as good as binary ones.
	c.write(ws.AppendMaskedFrame(nil, ws.OpText, packet(1, 4, 13, ""), [4]byte{9, 8, 7, 6}))
	c.bytes("82 10 00000010 0010 0001 00000004 0000000d")
}

func TestOpNineAnswersNothingOnTCP(t *testing.T) {
	f := serve(t, nil)
	c := f.tcp()
	c.auth(1, token)
	c.send(1, wire.OpRaw, 2, "")
	c.send(1, wire.OpAuth, 3, token) // a second auth is any other op
	c.expect(reply(1, wire.OpAuth, 3, ""))
}

// A key push is one inner packet; it passes the filter of accepted ops, which
// Sub and Unsub change. A room push does not ask for it.
func TestUnicastAndFilter(t *testing.T) {
	transports(t, nil, func(t *testing.T, f *fixture, dial func() *client) {
		c := dial()
		c.auth(1, `{"mid":9,"key":"me","room_id":"live://1","accepts":[1000]}`)
		id := f.logic.Session("me")
		if r := f.push(comet.Push{Sessions: []uint64{id}, Op: 1000, Body: []byte("one")})[0]; r.Delivered != 1 {
			t.Fatalf("%+v", r)
		}
		if c.isWS {
			c.bytes("82 23 00000023 0010 0001 00000009 00000000" + "00000013 0010 0001 000003e8 00000000 6f6e65")
		} else {
			c.bytes("00000013 0010 0001 000003e8 00000000 6f6e65")
		}
		if r := f.push(comet.Push{Sessions: []uint64{id}, Op: 1001, Body: []byte("no")})[0]; r.Filtered != 1 {
			t.Errorf("an op that is not accepted: %+v", r)
		}
		c.send(1, wire.OpSub, 2, "1001")
		c.expect(reply(1, wire.OpSubReply, 2, "1001"))
		c.send(1, wire.OpUnsub, 3, "1000")
		c.expect(reply(1, wire.OpUnsubReply, 3, "1000"))
		f.push(
			comet.Push{Sessions: []uint64{id}, Op: 1000, Body: []byte("no")},
			comet.Push{Sessions: []uint64{id}, Op: 1001, Body: []byte("yes")},
			toRoom("live://1", 7777, "room"),
			comet.Push{All: true, Op: 1001, Body: []byte("all")})
		var got []string
		for _, p := range c.pushed(3) {
			got = append(got, fmt.Sprintf("%d %d %d %s", p.Ver, p.Op, p.Seq, p.Body))
		}
		if fmt.Sprint(got) != "[1 1001 0 yes 1 7777 0 room 1 1001 0 all]" {
			t.Errorf("got %q", got)
		}
	})
}

// Version 2: replies have bodies, and no push is ever wrapped.
func TestVersion2(t *testing.T) {
	transports(t, nil, func(t *testing.T, f *fixture, dial func() *client) {
		c := dial()
		p := c.auth(7, `{"mid":9,"key":"me","room_id":"live://1","accepts":[1000]}`) // 7: the highest known one is named
		var auth struct {
			Session, Key, Node  string
			Mid, Ver, Heartbeat int64
		}
		if err := json.Unmarshal(p.Body, &auth); err != nil || p.Ver != 2 || auth.Ver != 2 || auth.Mid != 9 || auth.Key != "me" ||
			auth.Heartbeat != 3600 || auth.Node != "comet-1" || auth.Session != fmt.Sprintf("%x", f.logic.Session("me")) {
			t.Errorf("auth reply %s, %v", p.Body, err)
		}
		f.push(toRoom("live://1", 1000, "hi"), toRoom("live://1", 1001, "yo!"))
		if c.isWS {
			c.bytes("82 25" + roomHex) // one message, two packets, nothing around them
		} else {
			c.bytes(roomHex)
		}
		c.send(2, wire.OpHeartbeat, 5, "")
		c.expect(reply(2, wire.OpHeartbeatReply, 5, `{"online":1}`))
		c.send(2, wire.OpJoin, 6, `{"rooms":["live://2","live://3","nonsense"]}`)
		if p := c.packet(); p.Op != wire.OpJoinReply || p.Seq != 6 || !strings.HasPrefix(string(p.Body),
			`{"rooms":[{"room":"live://2","ok":true},{"room":"live://3","ok":true},{"room":"nonsense","ok":false,"code":400`) {
			t.Errorf("join: %+v %s", p.Header, p.Body)
		}
		f.push(toRoom("live://2", 1000, "two"))
		f.push(toRoom("live://3", 1000, "three"))
		c.expect(reply(1, 1000, 0, "two"), reply(1, 1000, 0, "three"))
		c.send(2, wire.OpLeave, 7, `{"rooms":["live://2","live://1"]}`)
		c.expect(reply(2, wire.OpLeaveReply, 7, `{"rooms":[{"room":"live://2","ok":true},{"room":"live://1","ok":true}]}`))
		f.push(toRoom("live://2", 1000, "left"))
		f.push(toRoom("live://3", 1000, "still here"))
		c.expect(reply(1, 1000, 0, "still here"))
		c.send(2, wire.OpSync, 8, "{}")
		if p := c.packet(); p.Op != wire.OpSyncReply || !strings.Contains(string(p.Body), "not_supported") {
			t.Errorf("an op of later: %+v %s", p.Header, p.Body)
		}
	})
}

// Several packets in one WebSocket message are answered in order, also when
// one of them waits for the jobs to learn of a room.
func TestSeveralPacketsInOneMessage(t *testing.T) {
	f := serve(t, nil)
	c := f.websocket()
	message := packet(2, wire.OpAuth, 1, `{"key":"me"}`)
	message = append(message, packet(2, wire.OpHeartbeat, 2, "")...)
	message = append(message, packet(2, wire.OpSub, 3, "1000")...)
	c.write(c.frame(message)) // the rest waits behind auth
	if p := c.packet(); p.Op != wire.OpAuthReply {
		t.Fatalf("%+v", p)
	}
	c.expect(reply(2, wire.OpHeartbeatReply, 2, `{"online":0}`), reply(2, wire.OpSubReply, 3, "1000"))

	w := f.gateway.Rooms().Watch("job") // a job that has not confirmed
	defer w.Close()
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	message = packet(2, wire.OpHeartbeat, 4, "")
	message = append(message, packet(2, wire.OpJoin, 5, `{"rooms":["live://1"]}`)...)
	message = append(message, packet(2, wire.OpHeartbeat, 6, "")...)
	message = append(message, packet(2, wire.OpJoin, 7, `{"rooms":["live://2"]}`)...)
	message = append(message, packet(2, wire.OpHeartbeat, 8, "")...)
	c.write(c.frame(message))
	c.write(c.frame(packet(2, wire.OpHeartbeat, 9, "")))
	c.expect(reply(2, wire.OpHeartbeatReply, 4, `{"online":0}`))
	for range 2 {
		u, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.Ack(u.Version)
	}
	c.expect(
		reply(2, wire.OpJoinReply, 5, `{"rooms":[{"room":"live://1","ok":true}]}`),
		reply(2, wire.OpHeartbeatReply, 6, `{"online":1}`),
		reply(2, wire.OpJoinReply, 7, `{"rooms":[{"room":"live://2","ok":true}]}`),
		reply(2, wire.OpHeartbeatReply, 8, `{"online":1}`),
		reply(2, wire.OpHeartbeatReply, 9, `{"online":1}`))
	if n := f.count("perseid_join_unconfirmed_total", ""); n != 0 {
		t.Errorf("%v joins were told too early", n)
	}
}

// Bye packets and close frames carry the reason.
func TestByeAndCloseCodes(t *testing.T) {
	transports(t, nil, func(t *testing.T, f *fixture, dial func() *client) {
		for _, ver := range []int16{1, 2} {
			var token string
			for why, end := range map[comet.Reason]func(c *client, id uint64){
				comet.Kicked:   func(_ *client, id uint64) { f.gateway.Kick([]uint64{id}, comet.Kicked) },
				comet.BadFrame: func(c *client, _ uint64) { c.write(c.frame([]byte("garbage with at least 16 bytes"))) },
				comet.Replaced: func(_ *client, _ uint64) { dial().auth(1, token) },
			} {
				// A key of its own: who replaced the last one is not replaced, which
				// would be counted too, some time later.
				key := fmt.Sprintf("%s-%d", why, ver)
				token = fmt.Sprintf(`{"key":%q}`, key)
				c := dial()
				c.auth(ver, token)
				count := f.ended(why)
				end(c, f.logic.Session(key))
				before, how := c.end()
				if want := fmt.Sprintf("close %d %s", why.Code(), why); c.isWS && how != want || !c.isWS && how == want {
					t.Errorf("version %d, %s: %s", ver, why, how)
				}
				var bye struct {
					Code      uint16
					Reason    string
					Reconnect bool
					RetryMS   int64 `json:"retry_ms"`
				}
				switch {
				case ver == 1 && len(before) != 0:
					t.Errorf("%s: version 1 got %+v", why, before)
				case ver == 2 && (len(before) != 1 || before[0].Op != wire.OpBye || json.Unmarshal(before[0].Body, &bye) != nil ||
					bye.Code != why.Code() || bye.Reason != why.String() || bye.Reconnect || bye.RetryMS != 0):
					t.Errorf("%s: version 2 got %+v %+v", why, before, bye)
				}
				comettest.WaitFor(t, "the count of "+why.String(), func() bool { return f.ended(why) == count+1 })
			}
		}
	})
}

// The answer to a close frame is a close frame with the same code.
func TestClientCloses(t *testing.T) {
	f := serve(t, nil)
	for _, ver := range []int16{1, 2} {
		c := f.websocket()
		c.auth(ver, token)
		c.write(ws.AppendMaskedFrame(nil, ws.OpPing, []byte("?"), [4]byte{1}))
		if ev, err := c.event(); err != nil || ev.Kind != ws.KindPong || string(ev.Payload) != "?" {
			t.Errorf("pong %+v %v", ev, err)
		}
		c.write(ws.AppendMaskedFrame(nil, ws.OpClose, []byte{0x03, 0xe9}, [4]byte{1}))
		if before, how := c.end(); len(before) != 0 || how != "close 1001 " {
			t.Errorf("%+v %s", before, how)
		}
	}
	comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.PeerClosed) == 2 })
	comettest.WaitFor(t, "logic to hear of it", func() bool { return f.logic.Disconnected() == 2 })
}
