package gnetio

import (
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/comet/comettest"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// Where the network cuts the bytes changes nothing.
func TestBytewise(t *testing.T) {
	f := serve(t, nil)
	for _, dial := range []func() *client{f.tcp, func() *client {
		c := f.dial(f.server.WebSocketAddr())
		for _, b := range []byte(upgradeRequest("/sub", "Cookie: a=b")) {
			c.write([]byte{b})
		}
		c.upgraded()
		return c
	}} {
		c := dial()
		var all []byte
		all = append(all, c.frame(packet(1, wire.OpAuth, 1, `{"key":"bytewise"}`))...)
		all = append(all, c.frame(packet(1, wire.OpSub, 2, "1,2,3"))...)
		all = append(all, c.frame(packet(1, 4, 3, strings.Repeat("x", 300)))...)
		all = append(all, c.frame(packet(1, wire.OpUnsub, 4, "2"))...)
		for _, b := range all {
			c.write([]byte{b})
		}
		c.expect(reply(1, wire.OpAuthReply, 1, ""), reply(1, wire.OpSubReply, 2, "1,2,3"), reply(1, 4, 3, ""), reply(1, wire.OpUnsubReply, 4, "2"))
		if c.isWS {
			if cookie := f.logic.Item(f.logic.Session("bytewise")).Cookie; cookie != "a=b" {
				t.Errorf("cookie %q", cookie)
			}
		}
	}
}

// A message in many fragments with control frames between them is one message.
func TestFragments(t *testing.T) {
	f := serve(t, nil)
	c := f.websocket()
	p := packet(1, wire.OpAuth, 1, token)
	frame := func(first byte, payload []byte) []byte {
		out := ws.AppendMaskedFrame(nil, ws.OpBinary, payload, [4]byte{5, 6, 7, 8})
		out[0] = first
		return out
	}
	out := frame(0x02, p[:10])
	out = append(out, frame(0x00, p[10:40])...)
	out = append(out, ws.AppendMaskedFrame(nil, ws.OpPing, []byte("ping"), [4]byte{1})...)
	out = append(out, frame(0x80, p[40:])...)
	c.write(out)
	if ev, err := c.event(); err != nil || ev.Kind != ws.KindPong || string(ev.Payload) != "ping" {
		t.Errorf("%+v %v", ev, err)
	}
	c.expect(reply(1, wire.OpAuthReply, 1, ""))
}

// goim closes a connection with 8 requests that it has not answered yet; here
// any number is answered, in order.
func TestPipelining(t *testing.T) {
	transports(t, nil, func(t *testing.T, f *fixture, dial func() *client) {
		c := dial()
		c.auth(1, token)
		const n = 5000
		var all []byte
		for i := range n {
			all = append(all, c.frame(packet(1, 4, int32(i), "request"))...)
		}
		go func() { _, _ = c.conn.Write(all) }()
		for i := range n {
			c.expect(reply(1, 4, int32(i), ""))
		}
	})
}

// What a client sends right behind the auth packet is answered after it, in
// order, and under the limits that hold then.
func TestPacketsBehindAuth(t *testing.T) {
	transports(t, nil, func(t *testing.T, f *fixture, dial func() *client) {
		for _, ver := range []int16{1, 2} {
			c := dial()
			all := c.frame(packet(ver, wire.OpAuth, 1, token))
			for i := range 300 {
				all = append(all, c.frame(packet(ver, wire.OpSub, int32(i), "7"))...)
			}
			c.write(all)
			if p := c.packet(); p.Op != wire.OpAuthReply {
				t.Fatalf("%+v", p)
			}
			for i := range 300 {
				c.expect(reply(ver, wire.OpSubReply, int32(i), "7"))
			}
			// A body of 64 KiB is for version 2 only, and only after auth.
			c.send(ver, wire.OpSub, 1, strings.Repeat("7", wire.MaxBodyV1))
			c.expect(reply(ver, wire.OpSubReply, 1, strings.Repeat("7", wire.MaxBodyV1)))
			c.send(ver, wire.OpSub, 2, strings.Repeat("7", f.cfg.MaxBodyBytes))
			if ver == 2 {
				c.expect(reply(ver, wire.OpSubReply, 2, strings.Repeat("7", f.cfg.MaxBodyBytes)))
			} else if before, _ := c.end(); len(before) != 0 {
				t.Errorf("got %+v", before)
			}
		}
		comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.BadFrame) == 1 })
	})
}

// A client that floods while its auth is under way is bounded by what one
// packet may be, and costs nobody else anything.
func TestFloodDuringAuth(t *testing.T) {
	block := make(chan struct{})
	transports(t, func(f *fixture) {
		f.logic.OnConnect = func(items []comet.ConnectItem) error {
			if strings.Contains(string(items[0].Token), "flood") {
				<-block
			}
			return nil
		}
		f.cfg.ConnectBatch = 1
	}, func(t *testing.T, f *fixture, dial func() *client) {
		t.Cleanup(func() { block <- struct{}{} }) // before the gateway's end
		neighbour := dial()
		neighbour.auth(1, `{"key":"neighbour"}`)
		c := dial()
		all := c.frame(packet(1, wire.OpAuth, 1, `{"key":"flood"}`))
		for len(all) < 1<<20 {
			all = append(all, c.frame(packet(1, wire.OpHeartbeat, 1, ""))...)
		}
		go func() { _, _ = c.conn.Write(all) }()
		before, how := c.end()
		if len(before) != 0 || (c.isWS && how != "close 3502 limits" && how != "reset") {
			t.Errorf("%+v %s", before, how)
		}
		comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.Limits) == 1 })
		neighbour.alive(1)
		dial().auth(1, `{"key":"next"}`)
	})
}

// A version 2 client may use what is received while it waits, but not more.
func TestFloodDuringJoin(t *testing.T) {
	f := serve(t, nil)
	w := f.gateway.Rooms().Watch("job") // confirms nothing
	defer w.Close()
	c := f.tcp()
	c.auth(2, `{"key":"me"}`)
	all := packet(2, wire.OpJoin, 1, `{"rooms":["live://1"]}`)
	for len(all) < 4<<20 {
		all = append(all, packet(2, wire.OpHeartbeat, 1, "")...)
	}
	go func() { _, _ = c.conn.Write(all) }()
	c.end()
	comettest.WaitFor(t, "the count", func() bool { return f.ended(comet.Limits) == 1 })
}
