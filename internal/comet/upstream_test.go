package comet

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
)

func storedChat(body string) message.Message {
	return message.Message{ID: message.ID{1}, Op: 1000, AcceptedMS: 5, Body: []byte(body)}
}

// ask sends a packet and waits for its reply.
func (f *fixture) ask(c *testConn, op wire.Op, seq int32, body string) string {
	f.t.Helper()
	f.send(c, 2, op, seq, body)
	var reply string
	waitFor(f.t, fmt.Sprintf("the reply to op %d", op), func() bool {
		for _, p := range c.packets(f.t) {
			if p.Op == op+1 && p.Seq == seq {
				reply = string(p.Body)
				return true
			}
		}
		return false
	})
	return reply
}

func TestSyncPages(t *testing.T) {
	f := newFixture(t, 1, nil)
	for _, body := range []string{"a", "b", "c"} {
		f.logic.add("u:1", storedChat(body))
	}
	f.logic.add("r:live://1", storedChat("room"))
	f.logic.entries["u:1"][1].Gone = timeline.Revoked
	c := f.connect(f.buckets[0], 2, `{"mid":1,"room_id":"live://1"}`)
	got := f.ask(c, wire.OpSync, 5, `{"cursors":[{"tl":"u:1","epoch":1,"after":0},{"tl":"u:2"},{"tl":"r:live://1"}]}`)
	want := `{"pages":[{"tl":"u:1","epoch":1,"next":3,"has_more":false,"top":3,"floor":0,"gone":[{"seq":2,"why":"revoked"}]},` +
		`{"tl":"u:2","epoch":0,"next":0,"has_more":false,"top":0,"floor":0,"code":403,"reason":"no"},` +
		`{"tl":"r:live://1","epoch":1,"next":1,"has_more":false,"top":1,"floor":0}]}`
	if got != want {
		t.Errorf("reply %s\nwant  %s", got, want)
	}
	if got := c.positions(t); !slices.Equal(got, []string{" 1/1 from 0: a", " 1/3 from 0: c", "r:live://1 1/1 from 0: room"}) {
		t.Errorf("messages %q", got)
	}
	if last := c.packets(t)[len(c.packets(t))-1]; last.Op != wire.OpSyncReply {
		t.Errorf("the reply is not the last packet, but op %d", last.Op)
	}
	q := f.logic.syncs[0]
	if q.Mid != 1 || !slices.Equal(q.Rooms, []string{"live://1"}) || len(q.Cursors) != 3 {
		t.Errorf("asked %+v", q)
	}

	for body, want := range map[string]string{
		`{"cursors":` + "[" + strings.Repeat(`{"tl":"u:1"},`, timeline.MaxCursors) + `{"tl":"u:1"}]}`: `{"code":400,"reason":"257 cursors: at most 256"}`,
		`[]`:             `{"code":400,`,
		`{"cursors":[{"`: `{"code":400,`,
	} {
		if got := f.ask(c, wire.OpSync, int32(len(body))+10, body); !strings.HasPrefix(got, want) {
			t.Errorf("%.30s: %s", body, got)
		}
	}
	// What is asked for is bounded before it goes to logic.
	f.ask(c, wire.OpSync, 6, `{"cursors":[{"tl":"u:1"}],"limit":4000000000,"max_bytes":4000000000}`)
	if l := f.logic.syncs[len(f.logic.syncs)-1].Limit; l.Entries != timeline.MaxPageEntries || l.Bytes != DefaultConfig().OutboxBytes/2 {
		t.Errorf("limit %+v", l)
	}
	f.logic.away = errors.New("Redis is away")
	if got := f.ask(c, wire.OpSync, 7, ""); got != `{"code":503,"reason":"try again later"}` {
		t.Errorf("logic away: %s", got)
	}
	f.logic.away, f.logic.off = nil, true
	if got := f.ask(c, wire.OpSync, 8, ""); got != `{"code":501,"reason":"not_supported"}` {
		t.Errorf("nothing stored: %s", got)
	}
}

// Symptom: a client that asked for many timelines got up to 1 MiB at once, and
// was closed as too slow by the next push or reply, since that is four times
// what may wait for it; on a slow network again and again. Cause: the bound of
// a page assumed eight pages at most, and left no room for a push.
func TestSyncOfManyTimelinesLeavesRoomForPushes(t *testing.T) {
	f := newFixture(t, 1, nil)
	var rooms []string
	for i := range 20 {
		rooms = append(rooms, fmt.Sprintf("live://%d", i))
		for range 4 {
			f.logic.add(message.ToRoom(rooms[i]).Timeline(), storedChat(strings.Repeat("x", 16<<10)))
		}
	}
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	after, messages := map[string]uint64{}, 0
	for seq := int32(2); messages < 80; seq++ {
		if seq > 20 {
			t.Fatalf("%d messages", messages)
		}
		var cursors []string
		for _, room := range rooms {
			cursors = append(cursors, fmt.Sprintf(`{"tl":"r:%s","epoch":1,"after":%d}`, room, after[room]))
		}
		c.mu.Lock()
		c.written.Reset()
		c.mu.Unlock()
		f.send(c, 2, wire.OpSync, seq, `{"cursors":[`+strings.Join(cursors, ",")+`]}`)
		waitFor(t, "the reply", func() bool { return len(c.bodies(t, wire.OpSyncReply)) == 1 })
		if n := c.written.Len(); n > f.g.cfg.OutboxBytes*3/4 {
			t.Fatalf("%d bytes at once", n)
		}
		got := map[string]uint64{}
		for _, at := range c.positions(t) {
			got[strings.TrimPrefix(strings.Fields(at)[0], "r:")]++
			messages++
		}
		var reply pagesReply
		if err := json.Unmarshal([]byte(c.bodies(t, wire.OpSyncReply)[0]), &reply); err != nil {
			t.Fatal(err)
		}
		for i, p := range reply.Pages {
			if want := after[rooms[i]] + got[rooms[i]]; p.Next != want || p.HasMore != (p.Next < 4) || p.Top != 4 {
				t.Fatalf("%+v, %d were sent", p, want)
			}
			after[rooms[i]] = p.Next
		}
	}
}

// Whatever is stored must get through to a client, or it asks for it for ever.
func TestSyncOfAMessageLargerThanTheOutbox(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.OutboxBytes, c.RoundBytes = 4096, 1024 })
	f.logic.add("u:1", storedChat(strings.Repeat("x", 1<<20)))
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	f.ask(c, wire.OpSync, 2, `{"cursors":[{"tl":"u:1"}]}`)
	if got := c.bodies(t, 1000); len(got) != 1 || len(got[0]) != 1<<20 {
		t.Errorf("%d messages", len(got))
	}
	// A client that asks without reading is closed.
	c.mu.Lock()
	c.waits = 4097
	c.mu.Unlock()
	f.send(c, 2, wire.OpSync, 3, `{"cursors":[{"tl":"u:1"}]}`)
	waitFor(t, "the end of the session", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.ended == "reset" })
}

func TestResumeAtAuth(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.logic.add("u:1", storedChat("a"))
	f.logic.add("u:1", storedChat("b"))
	f.logic.greeting = func(r *ConnectResult) {
		r.Rooms = []string{"group://1", "live://1"}
		r.Tops = []timeline.Top{{Timeline: "u:1", Position: timeline.Position{Epoch: 1, Seq: 2}}, {Timeline: "r:group://1", Position: timeline.Position{Epoch: 3, Seq: 9}}}
		r.Resume = []timeline.Cursor{{Timeline: "u:1", Epoch: 1, After: 1}}
	}
	c := f.connect(f.buckets[0], 2, `{"mid":1,"room_id":"live://1"}`)
	waitFor(t, "the page", func() bool { return len(c.bodies(t, wire.OpSyncReply)) == 1 })
	var ops []string
	for _, p := range c.packets(t) {
		ops = append(ops, fmt.Sprint(p.Op, "/", p.Seq))
	}
	if !slices.Equal(ops, []string{"8/1", "1000/0", "19/0"}) {
		t.Errorf("packets %q", ops)
	}
	if got := c.bodies(t, wire.OpAuthReply)[0]; !strings.HasSuffix(got, `"tops":[{"tl":"u:1","epoch":1,"top":2},{"tl":"r:group://1","epoch":3,"top":9}]}`) {
		t.Error(got)
	}
	if r := f.push(Push{Op: 1, Body: []byte("x"), Room: "group://1"}); r.Delivered != 1 {
		t.Errorf("not in the durable room: %+v", r)
	}
	if got := f.ask(c, wire.OpHeartbeat, 9, ""); got != `{"online":1}` {
		t.Errorf("tops that were told are told again: %s", got)
	}
}

// Symptom: in a storm of connections clients got what they had missed a
// heartbeat later. Cause: where too many questions waited for logic, what the
// auth packet resumed was not answered at all.
func TestAResumeWithoutRoomIsRefused(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.logic.greeting = func(r *ConnectResult) {
		r.Resume = []timeline.Cursor{{Timeline: "u:1", Epoch: 1, After: 1}}
	}
	f.g.asks.mu.Lock()
	f.g.asks.limit = 0
	f.g.asks.mu.Unlock()
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	f.ask(c, wire.OpHeartbeat, 2, "")
	want := []string{`{"code":503,"reason":"too many requests wait, try again later"}`}
	if got := c.bodies(t, wire.OpSyncReply); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Packets that come while logic is asked wait: gnetio reads none of a paused
// session. Replies keep the order of the requests.
func TestASessionWaitsForItsAnswer(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	hold := make(chan struct{})
	f.logic.library.mu.Lock()
	f.logic.library.hold = hold
	f.logic.library.mu.Unlock()
	f.send(c, 2, wire.OpRead, 2, `{"tl":"u:1","epoch":1,"seq":1}`)
	f.on(c.bucket, func() {
		if !c.session.Paused() {
			t.Error("not paused")
		}
	})
	close(hold)
	waitFor(t, "the reply", func() bool { return len(c.bodies(t, wire.OpReadReply)) == 1 })
	f.on(c.bucket, func() {
		if c.session.Paused() || c.resumed < 2 {
			t.Errorf("paused %v, resumed %d times", c.session.Paused(), c.resumed)
		}
	})
	if got := c.bodies(t, wire.OpReadReply)[0]; got != `{"tl":"u:1","epoch":1,"acked":1,"read":1,"unread":4}` {
		t.Error(got)
	}
}

func TestHistoryCarriesTheRequestsNumber(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.logic.add("r:live://1", storedChat("a"))
	c := f.connect(f.buckets[0], 2, `{"mid":1,"room_id":"live://1"}`)
	if got := f.ask(c, wire.OpHistory, 7, `{"tl":"r:live://1","around":5,"limit":3}`); !strings.HasPrefix(got, `{"pages":[{"tl":"r:live://1","epoch":1,"next":1,`) {
		t.Error(got)
	}
	for _, p := range c.packets(t) {
		if p.Op == 1000 && p.Seq != 7 {
			t.Errorf("a message of the history has seq %d", p.Seq)
		}
	}
	if q := f.logic.histories[0]; q.Part != (timeline.Part{Timeline: "r:live://1", At: timeline.Around, Seq: 5}) || !q.InRoom || q.Limit.Entries != 3 {
		t.Errorf("asked %+v", q)
	}
	if got := f.ask(c, wire.OpHistory, 8, `{"tl":"u:1","before":5,"after":1}`); !strings.HasPrefix(got, `{"code":400,`) {
		t.Error(got)
	}
}

func TestAcks(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	f.send(c, 2, wire.OpAck, 2, `{"acks":[{"tl":"u:1","epoch":1,"seq":5}]}`)
	waitFor(t, "the ack", func() bool { return len(f.logic.acked()) == 1 })
	if got := f.ask(c, wire.OpAck, 3, `{"acks":[{"tl":"u:1","epoch":1,"seq":6}],"reply":true}`); got != `{"cursors":[{"tl":"u:1","epoch":1,"acked":6,"read":0,"unread":0}]}` {
		t.Error(got)
	}
	if n := len(c.bodies(t, wire.OpAckReply)); n != 1 {
		t.Errorf("%d replies, one was asked for", n)
	}
	if a := f.logic.acked()[0]; a.Mid != 1 || !slices.Equal(a.Acks, []timeline.Cursor{{Timeline: "u:1", Epoch: 1, After: 5}}) {
		t.Errorf("%+v", a)
	}
	for seq, body := range []string{``, `{}`, `{"acks":[]}`, `{"acks":[` + strings.Repeat(`{"tl":"u:1"},`, 256) + `{"tl":"u:1"}]}`} {
		if got := f.ask(c, wire.OpAck, int32(seq)+10, body); !strings.HasPrefix(got, `{"code":400,`) {
			t.Errorf("%.20s: %s", body, got)
		}
	}
}

// Symptom: one client that sent acks faster than logic took them filled the
// queue, 4 GiB of it, and the acks of all others were dropped. Cause: an ack
// does not make its session wait, and nothing else bounded how many wait.
func TestAClientCannotFillTheQueueOfAcks(t *testing.T) {
	f := newFixture(t, 1, nil)
	hold := make(chan struct{})
	f.logic.library.hold = hold
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	send := func(n int32) {
		f.send(c, 2, wire.OpAck, n, fmt.Sprintf(`{"acks":[{"tl":"u:1","epoch":1,"seq":%d}],"reply":%v}`, n, n > 100))
	}
	for n := range int32(101) {
		send(n)
	}
	if n := f.g.acks.len(); n > maxAcks {
		t.Errorf("%d acks of one session wait", n)
	}
	send(101)
	if got := c.bodies(t, wire.OpAckReply); len(got) != 1 || !strings.HasPrefix(got[0], `{"code":503,`) {
		t.Errorf("%q", got)
	}
	close(hold)
	waitFor(t, "an ack that is taken again", func() bool {
		send(102)
		return strings.Contains(strings.Join(c.bodies(t, wire.OpAckReply), ""), `"acked":102`)
	})
	// What had no room is not lost: the newest of a timeline counts.
	waitFor(t, "the newest", func() bool {
		return slices.ContainsFunc(f.logic.acked(), func(a AckItem) bool { return a.Acks[0].After == 100 })
	})
}

func sendBody(json, payload string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(json)))) + json + payload
}

func TestSendMsg(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 2, `{"mid":1,"room_id":"live://1"}`)
	id := message.DeriveID("1", "c1")
	for seq, tc := range []struct{ body, want string }{
		{sendBody(`{"to":"u:2","op":1000,"client_msg_id":"c1"}`, "hello"), `{"client_msg_id":"c1","msg_id":"` + id.String() + `"}`},
		{sendBody(`{"to":"r:live://1","op":1000,"client_msg_id":"c1","kind":"signal","flags":{"store":true,"unread":false}}`, ""), `{"client_msg_id":"c1","msg_id":"` + id.String() + `"}`},
		{sendBody(`{"op":1000,"client_msg_id":"c1"}`, ""), `{"client_msg_id":"c1","code":400,"reason":"to"}`},
		{sendBody(`{"client_msg_id":"c1","kind":"x"}`, ""), `{"client_msg_id":"c1","code":400,"reason":"kind: chat or signal"}`},
		{sendBody(`{"client_msg_id":"c1","flags":{"archive":true}}`, ""), `{"client_msg_id":"c1","code":400,"reason":"flags: `},
		{"", `{"code":400,`},
		{"\x00", `{"code":400,`},
		{"\xff\xff{}", `{"code":400,`},
		{sendBody(`[`, ""), `{"code":400,`},
	} {
		if got := f.ask(c, wire.OpSendMsg, int32(seq)+2, tc.body); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%q: %s, want %s", tc.body, got, tc.want)
		}
	}
	got := f.logic.published
	if len(got) != 3 || string(got[0].Payload) != "hello" || got[0].To != "u:2" || got[0].Mid != 1 || got[0].Op != 1000 || got[0].InRoom {
		t.Errorf("published %+v", got)
	}
	if p := got[1]; p.Kind != message.Signal || !p.InRoom || p.FlagsSet != message.Store|message.Unread || p.Flags != message.Store {
		t.Errorf("published %+v", p)
	}
	f.logic.away = errors.New("Kafka is away")
	if got := f.ask(c, wire.OpSendMsg, 90, sendBody(`{"to":"u:2","op":1000,"client_msg_id":"c1"}`, "")); got != `{"client_msg_id":"c1","code":503,"reason":"try again later"}` {
		t.Error(got)
	}
}

func TestJoinTellsTheTop(t *testing.T) {
	f := newFixture(t, 1, nil)
	f.logic.add("r:live://1", storedChat("a"))
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	if got := f.ask(c, wire.OpJoin, 2, `{"rooms":["live://1","live://2","bad"]}`); got !=
		`{"rooms":[{"room":"live://1","ok":true,"epoch":1,"top":1},{"room":"live://2","ok":true},{"room":"bad","ok":false,"code":400,"reason":"`+strings.ReplaceAll(message.ErrRoomKey.Error(), `"`, `\"`)+`"}]}` {
		t.Error(got)
	}
	f.logic.away = errors.New("Redis is away")
	if got := f.ask(c, wire.OpJoin, 3, `{"rooms":["live://3"]}`); got != `{"rooms":[{"room":"live://3","ok":true}]}` {
		t.Errorf("without tops: %s", got)
	}
}

// Symptom: one packet of a client held its loop up for milliseconds, and asked
// logic for thousands of tops in one call. Cause: a join might name as many rooms
// as its 64 KB have space for, and the same one again and again.
func TestJoinIsBounded(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.MaxRooms = 3 })
	f.logic.add("r:live://1", storedChat("a"))
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	const four = `{"rooms":["live://1","live://1","live://1","live://1"]}`
	for i, op := range []wire.Op{wire.OpJoin, wire.OpLeave} {
		if got := f.ask(c, op, int32(i)+2, four); got != `{"code":400,"reason":"body names 4 rooms: allowed is at most 3"}` {
			t.Errorf("op %d: %s", op, got)
		}
	}
	f.on(c.bucket, func() {
		if n := len(c.session.rooms); n != 0 {
			t.Errorf("the session is in %d rooms", n)
		}
	})
	const first = `{"room":"live://1","ok":true,"epoch":1,"top":1}`
	if got := f.ask(c, wire.OpJoin, 4, `{"rooms":["live://1","live://2","live://1"]}`); got !=
		`{"rooms":[`+first+`,{"room":"live://2","ok":true},`+first+`]}` {
		t.Error(got)
	}
	f.logic.library.mu.Lock()
	defer f.logic.library.mu.Unlock()
	if got := f.logic.most; got != 2 {
		t.Errorf("logic was asked for %d tops in a call, want those of 2 rooms", got)
	}
}

// The last push never came to this comet: the heartbeat tells.
func TestHeartbeatTellsTopsOfPushesThatNeverCame(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.TopsPeriod = time.Second })
	c := f.connect(f.buckets[0], 2, `{"mid":1,"room_id":"live://1"}`)
	old := f.connect(f.buckets[0], 1, `{"mid":3}`)
	f.logic.add("u:1", storedChat("a"))
	f.logic.add("r:live://1", storedChat("b"))
	f.logic.add(message.AllTimeline, storedChat("c"))
	f.logic.add("u:3", storedChat("d"))
	seq := int32(1)
	told := map[string]bool{}
	waitFor(t, "all three tops", func() bool {
		seq++
		reply := f.ask(c, wire.OpHeartbeat, seq, "")
		for _, tl := range []string{`{"tl":"u:1","epoch":1,"top":1}`, `{"tl":"r:live://1","epoch":1,"top":1}`, `{"tl":"r:sys://all","epoch":1,"top":1}`} {
			if strings.Contains(reply, tl) {
				told[tl] = true
			}
		}
		return len(told) == 3
	})
	f.send(old, 1, wire.OpHeartbeat, 2, "")
	if got := old.bodies(t, wire.OpHeartbeatReply); len(got) != 1 || len(got[0]) != 4 {
		t.Errorf("version 1 got %q", got)
	}
}

func TestFullQueueIsAnswered(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.UpstreamQueue, c.UpstreamWorkers = 1, 1 })
	hold := make(chan struct{})
	f.logic.library.hold = hold
	conns := make([]*testConn, 4)
	for i := range conns {
		conns[i] = f.connect(f.buckets[0], 2, fmt.Sprintf(`{"mid":%d}`, i+1))
		f.send(conns[i], 2, wire.OpSync, 2, "")
	}
	waitFor(t, "a refusal", func() bool {
		n := 0
		for _, c := range conns {
			n += len(c.bodies(t, wire.OpSyncReply))
		}
		return n > 0
	})
	close(hold)
	waitFor(t, "the other replies", func() bool {
		for _, c := range conns {
			if len(c.bodies(t, wire.OpSyncReply)) != 1 {
				return false
			}
		}
		return true
	})
}
