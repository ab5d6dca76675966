package comet

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/pkg/wire"
)

// positions are the stored pushes that a connection got.
func (c *testConn) positions(t testing.TB) (out []string) {
	t.Helper()
	for _, p := range c.packets(t) {
		if pos, ok := wire.ParsePosition(p.Extension); ok {
			out = append(out, fmt.Sprintf("%s %d/%d from %d: %s", pos.Timeline, pos.Epoch, pos.Seq, pos.Sender, p.Body))
		}
	}
	return out
}

func TestStoredPushesHavePositionsInVersion2Only(t *testing.T) {
	f := newFixture(t, 1, nil)
	b := f.buckets[0]
	one := f.connect(b, 2, `{"mid":1,"key":"one","room_id":"live://1"}`)
	two := f.connect(b, 2, `{"mid":2,"key":"two","room_id":"live://1"}`)
	old := f.connect(b, 1, `{"mid":3,"key":"old","room_id":"live://1","accepts":[1000]}`)

	id := [16]byte{1}
	r := f.push(Push{Op: 1000, Body: []byte("for each"), Sessions: []uint64{one.session.id, two.session.id, old.session.id},
		Positions:  []wire.Position{{Seq: 5, Epoch: 1, MsgID: id, Sender: 9}, {Seq: 8, Epoch: 1, MsgID: id, Sender: 9}, {Seq: 2, Epoch: 1, MsgID: id}},
		PositionOf: []uint32{0, 1, 2}})
	if r.Delivered != 3 {
		t.Fatalf("%+v: a stored push reaches version 2 whatever its op", r)
	}
	f.push(Push{Op: 1000, Body: []byte("transient"), Room: "live://1"})
	f.push(Push{Op: 1000, Body: []byte("room"), Room: "live://1", Positions: []wire.Position{{Seq: 3, Epoch: 7, MsgID: id, Timeline: "r:live://1"}}})
	f.push(Push{Op: 1001, Body: []byte("all"), All: true, Positions: []wire.Position{{Seq: 1, Epoch: 1, MsgID: id, Timeline: "r:sys://all"}}})

	for name, want := range map[string][]string{
		"one": {" 1/5 from 9: for each", "r:live://1 7/3 from 0: room", "r:sys://all 1/1 from 0: all"},
		"two": {" 1/8 from 9: for each", "r:live://1 7/3 from 0: room", "r:sys://all 1/1 from 0: all"},
		"old": nil,
	} {
		c := map[string]*testConn{"one": one, "two": two, "old": old}[name]
		if got := c.positions(t); !slices.Equal(got, want) {
			t.Errorf("%s got %q\nwant %q", name, got, want)
		}
		if got := c.bodies(t, 1000); !slices.Equal(got, []string{"for each", "transient", "room"}) {
			t.Errorf("%s got %q", name, got)
		}
	}
	if got := old.bodies(t, 1001); got != nil {
		t.Errorf("version 1 got %q, which it does not accept", got)
	}

	// The heartbeat tells the tops once.
	f.send(one, 2, wire.OpHeartbeat, 2, "")
	f.send(one, 2, wire.OpHeartbeat, 3, "")
	want := []string{
		`{"online":3,"tops":[{"tl":"u:1","epoch":1,"top":5},{"tl":"r:sys://all","epoch":1,"top":1},{"tl":"r:live://1","epoch":7,"top":3}]}`,
		`{"online":3}`,
	}
	if got := one.bodies(t, wire.OpHeartbeatReply); !slices.Equal(got, want) {
		t.Errorf("heartbeats %q\nwant %q", got, want)
	}
}

func TestMixedRunsInEveryForm(t *testing.T) {
	f := newFixture(t, 1, nil)
	run := &packets{deflation: &f.g.deflation}
	at := &wire.Position{Seq: 4, Epoch: 1, Timeline: "r:a://b"}
	run.add(1, []byte("a"), nil)
	_ = run.encoded(formMessage) // what is encoded before an add is not kept
	run.add(2, []byte("b"), at)
	run.add(3, []byte("c"), nil)
	plain := wire.AppendPacket(wire.AppendPacket(wire.AppendPacket(nil, wire.Header{Ver: 1, Op: 1}, []byte("a")), wire.Header{Ver: 1, Op: 2}, []byte("b")), wire.Header{Ver: 1, Op: 3}, []byte("c"))
	placed := wire.AppendPacket(wire.AppendPositioned(wire.AppendPacket(nil, wire.Header{Ver: 1, Op: 1}, []byte("a")), wire.Header{Ver: 2, Op: 2}, at, []byte("b")), wire.Header{Ver: 1, Op: 3}, []byte("c"))
	for form, want := range map[form][]byte{formStream: plain, formPositions: placed, formWrapped: plain, formMessage: placed} {
		if got := run.encoded(form); !slices.Equal(got[len(got)-len(want):], want) {
			t.Errorf("form %d: %x, want %x at the end", form, got, want)
		}
	}
	run.reset()
	run.add(1, []byte("a"), nil)
	if got := run.encoded(formPositions); !slices.Equal(got, plain[:17]) {
		t.Errorf("after reset %x", got)
	}
}

func TestStoredRoundAllocates0PerRecipient(t *testing.T) {
	f := newFixture(t, 1, nil)
	run := &packets{deflation: &f.g.deflation}
	at := &wire.Position{Seq: 4, Epoch: 1, Timeline: "r:a://b"}
	run.add(1000, []byte("warm up"), at)
	for form := range formCount {
		run.encoded(form)
	}
	if n := testing.AllocsPerRun(100, func() {
		run.reset()
		run.add(1000, []byte("body"), at)
		for range 100 {
			_, _, _ = run.encoded(formStream), run.encoded(formPositions), run.encoded(formMessage)
		}
	}); n != 0 {
		t.Errorf("%v allocations for 300 recipients", n)
	}
}

func TestHintToASessionThatIsTooSlow(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.Overflow = "drop"; c.OutboxBytes, c.RoundBytes = 4096, 1024 })
	b := f.buckets[0]
	c := f.connect(b, 2, `{"mid":1,"room_id":"live://1"}`)
	c.mu.Lock()
	c.waits = 4096 // its socket is full
	c.mu.Unlock()
	for seq := range uint64(3) {
		r := f.push(Push{Op: 1000, Body: []byte("x"), Room: "live://1", Positions: []wire.Position{{Seq: seq + 1, Epoch: 1, Timeline: "r:live://1"}}})
		if r.Slow != 1 {
			t.Fatalf("%+v", r)
		}
	}
	want := []string{`{"tl":"r:live://1","epoch":1,"top":1,"skipped":true}`}
	waitFor(t, "the hint", func() bool { return len(c.bodies(t, wire.OpHint)) > 0 })
	if got := c.bodies(t, wire.OpHint); !slices.Equal(got, want) {
		t.Errorf("hints %q, want one: %q", got, want)
	}
	// The heartbeat tells what the hint did not.
	f.send(c, 2, wire.OpHeartbeat, 2, "")
	if got := c.bodies(t, wire.OpHeartbeatReply); !slices.Equal(got, []string{`{"online":1,"tops":[{"tl":"r:live://1","epoch":1,"top":3}]}`}) {
		t.Errorf("heartbeat %q", got)
	}
}

// Symptom: the last messages of a timeline reached a client only with the next
// one. Cause: Redis was lost between the heartbeat that told the top and the
// sync, whose page was the archive's, with a lower top; the heartbeats told the
// top no more, since it had not changed.
func TestATopAbovePagesIsToldAgain(t *testing.T) {
	f := newFixture(t, 1, nil)
	c := f.connect(f.buckets[0], 2, `{"mid":1,"room_id":"live://1"}`)
	for _, tl := range []message.Timeline{"u:1", "r:live://1", "r:sys://all"} {
		f.logic.add(tl, storedChat("archived"))
	}
	f.push(Push{Op: 1000, Sessions: []uint64{c.session.id}, Positions: []wire.Position{{Seq: 2, Epoch: 1}}})
	f.push(Push{Op: 1000, Room: "live://1", Positions: []wire.Position{{Seq: 2, Epoch: 1, Timeline: "r:live://1"}}})
	f.push(Push{Op: 1000, All: true, Positions: []wire.Position{{Seq: 2, Epoch: 1, Timeline: "r:sys://all"}}})
	tops := `{"online":1,"tops":[{"tl":"u:1","epoch":1,"top":2},{"tl":"r:sys://all","epoch":1,"top":2},{"tl":"r:live://1","epoch":1,"top":2}]}`
	for seq := int32(2); seq < 6; seq += 2 {
		if got := f.ask(c, wire.OpHeartbeat, seq, ""); got != tops {
			t.Fatalf("heartbeat %d: %s", seq, got)
		}
		if got := f.ask(c, wire.OpSync, seq+1, `{"cursors":[{"tl":"u:1"},{"tl":"r:live://1"},{"tl":"r:sys://all"}]}`); strings.Count(got, `"top":1,`) != 3 {
			t.Fatalf("sync: %s", got)
		}
	}
	f.ask(c, wire.OpHistory, 6, `{"tl":"u:1"}`) // does not say where the client stands
	f.ask(c, wire.OpHeartbeat, 7, "")
	f.ask(c, wire.OpHistory, 8, `{"tl":"u:1"}`)
	if got := f.ask(c, wire.OpHeartbeat, 9, ""); got != `{"online":1}` {
		t.Errorf("after a history: %s", got)
	}
}

// Symptom: a slow session was told of every dropped stored push but one to all.
// Cause: the walk of a push to all only counted it.
func TestHintOfAPushToAll(t *testing.T) {
	f := newFixture(t, 1, func(c *Config) { c.Overflow = "drop"; c.OutboxBytes, c.RoundBytes = 4096, 1024 })
	c := f.connect(f.buckets[0], 2, `{"mid":1}`)
	c.mu.Lock()
	c.waits = 4096 // its socket is full
	c.mu.Unlock()
	r := f.push(Push{Op: 1000, Body: []byte("x"), All: true, Positions: []wire.Position{{Seq: 4, Epoch: 1, Timeline: "r:sys://all"}}})
	if r.Slow != 1 {
		t.Fatalf("%+v", r)
	}
	want := []string{`{"tl":"r:sys://all","epoch":1,"top":4,"skipped":true}`}
	waitFor(t, "the hint", func() bool { return len(c.bodies(t, wire.OpHint)) > 0 })
	if got := c.bodies(t, wire.OpHint); !slices.Equal(got, want) {
		t.Errorf("hints %q, want %q", got, want)
	}
}

// Symptom: a session that got very many stored pushes while its auth was under
// way did not know of those that were too many, for up to tops_period. Cause:
// what was not held did not count for the top either.
func TestPushesThatAreTooManyDuringAuthAreInTheTops(t *testing.T) {
	f := newFixture(t, 1, nil)
	block := make(chan struct{})
	f.logic.mu.Lock()
	f.logic.block = block
	f.logic.mu.Unlock()
	c := f.open(f.buckets[0], Stream)
	f.send(c, 2, wire.OpAuth, 1, `{"mid":1}`)
	slow := 0
	for seq := range uint64(maxHeld + 3) {
		r := f.push(Push{Op: 1000, Body: []byte("x"), Sessions: []uint64{c.session.id}, Positions: []wire.Position{{Seq: seq + 1, Epoch: 1}}})
		slow += int(r.Slow)
	}
	close(block)
	waitFor(t, "the auth reply", func() bool { return len(c.bodies(t, wire.OpAuthReply)) == 1 })
	if got := c.bodies(t, wire.OpAuthReply)[0]; !strings.Contains(got, `"top":67}`) {
		t.Errorf("auth reply %s", got)
	}
	waitFor(t, "what was held", func() bool { return len(c.bodies(t, 1000)) >= maxHeld })
	if n := len(c.bodies(t, 1000)); n != maxHeld || slow != 3 {
		t.Errorf("%d messages, %d slow", n, slow)
	}
}
