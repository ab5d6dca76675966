package job_test

import (
	"fmt"
	"testing"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

func (c *stubComet) pushed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pushes)
}

func TestRoomPushGoesOnlyWhereMembersAre(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b, c := w.comets["a"], w.comets["b"], w.comets["c"]
	in := w.connect("a", "ka", 0)
	late := w.connect("b", "kb", 0)
	for i := range 7 { // the snapshot comes in several pieces
		a.join(in, fmt.Sprintf("live://%d", i))
	}
	j, p, _ := w.one(testConfig())
	w.lanesOpen(4, a, b, c)
	for i := range 7 {
		p.append(text(message.Timeline(fmt.Sprintf("r:live://%d", i)), 0), message.ToRoom(fmt.Sprintf("live://%d", i)))
	}
	committed(t, p)
	if a.pushed() != 7 || b.pushed() != 0 || c.pushed() != 0 {
		t.Errorf("pushes: %d %d %d, want 7 0 0", a.pushed(), b.pushed(), c.pushed())
	}
	b.join(late, "live://0")
	p.append(text("r:live://0", 1), message.ToRoom("live://0"))
	committed(t, p)
	b.quit(late, "live://0")
	checkFor(t, "the leaving", func() error { return b.indexed(1) })
	p.append(text("r:live://0", 2), message.ToRoom("live://0"))
	committed(t, p)
	if a.pushed() != 9 || b.pushed() != 1 || c.pushed() != 0 {
		t.Errorf("pushes: %d %d %d, want 9 1 0", a.pushed(), b.pushed(), c.pushed())
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 10})
}

// A member whose join was confirmed gets the next push to the room, however
// soon it comes: the job applied the change before it acknowledged it. After a
// break the comet has nobody to wait for until the job is back, so the test
// does; meanwhile the index is not known, and rooms are sent unseen.
func TestConfirmedJoinIsNeverMissed(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.comets["a"]
	id := w.connect("a", "k", 0)
	_, p, _ := w.one(testConfig())
	w.lanesOpen(4, a, w.comets["b"])
	want := map[message.Timeline]int{}
	for i := range 300 {
		room := fmt.Sprintf("live://%d", i)
		if i%50 == 25 {
			before := a.breakStreams()
			checkFor(t, "a new room stream", func() error { return a.followed(before + 1) })
		}
		a.join(id, room)
		tl := message.ToRoom(room).Timeline()
		p.append(text(tl, 0), message.ToRoom(room))
		want[tl] = 1
	}
	committed(t, p)
	if err := checkSession(a.bodies(id), want); err != nil {
		t.Error(err)
	}
}

// While the index of a comet is not known, room pushes go to it unseen.
func TestRoomIndexUnknown(t *testing.T) {
	w := newWorld(t, "a")
	a := w.comets["a"]
	id := w.connect("a", "k", 0)
	a.join(id, "live://1")
	_, p, _ := w.one(testConfig())
	// No wait for the lanes: the first pushes may come before the snapshot.
	for i := range 20 {
		p.append(text("r:live://1", i), message.ToRoom("live://1"))
	}
	committed(t, p)
	if err := checkSession(a.bodies(id), map[message.Timeline]int{"r:live://1": 20}); err != nil {
		t.Error(err)
	}
}

// What was known before the room stream broke is not used any more: there may
// be new members.
func TestRoomIndexIsForgottenWhenItBreaks(t *testing.T) {
	w := newWorld(t, "a")
	a := w.comets["a"]
	id := w.connect("a", "k", 0)
	_, p, _ := w.one(testConfig())
	w.lanesOpen(4, a)
	before := 0
	a.set(func() {
		a.refuse, before = true, a.follows
		a.breakRooms()
	})
	checkFor(t, "another room stream", func() error { return a.followed(before + 2) })
	a.join(id, "live://1")
	p.append(text("r:live://1", 0), message.ToRoom("live://1"))
	committed(t, p)
	if err := checkSession(a.bodies(id), map[message.Timeline]int{"r:live://1": 1}); err != nil {
		t.Error(err)
	}
}

func TestSpeedOfAllIsDivided(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	_, p, _ := w.one(testConfig())
	for _, speed := range []int32{0, 2, 100} {
		p.append(text("r:sys://all", 0), message.ToAll(speed))
	}
	committed(t, p)
	for name, c := range w.comets {
		if c.pushed() != 3 {
			t.Fatalf("comet %s: %d pushes", name, c.pushed())
		}
		for i, want := range []uint32{0, 1, 33} {
			if got := c.pushes[i]; got.Speed != want || got.Comets != 3 || !got.All || got.Room != "" || len(got.Sessions) > 0 {
				t.Errorf("comet %s: push %d is %v, want all at speed %d", name, i, got, want)
			}
		}
	}
}

// All targets of a record on one comet and lane are one push, with what the
// message carries.
func TestTargetsOfARecordShareAPush(t *testing.T) {
	w := newWorld(t, "a")
	cfg := testConfig()
	cfg.Lanes = 2
	var targets []message.Target
	want := map[int][]uint64{}
	for i := range 40 {
		key := fmt.Sprintf("k%d", i)
		id := w.connect("a", key, int64(i+1))
		target := message.ToKey(key)
		if i%3 == 0 {
			target = message.ToUser(int64(i + 1))
		}
		targets = append(targets, target)
		lane := target.Timeline().Lane(2)
		want[lane] = append(want[lane], id)
	}
	targets = append(targets, message.ToKey("nobody"))
	j, p, _ := w.one(cfg)
	m := message.Message{ID: message.ID{1, 2, 3}, Op: 7, Flags: message.Urgent, AcceptedMS: 12345, Body: []byte("body")}
	p.append(m, targets...)
	committed(t, p)
	a := w.comets["a"]
	if a.pushed() != 2 {
		t.Fatalf("%d pushes, want one per lane", a.pushed())
	}
	total := 0
	for _, got := range a.pushes {
		total += len(got.Sessions)
		if got.Op != 7 || got.Flags != uint32(message.Urgent) || got.AcceptedMs != 12345 || string(got.Body) != "body" ||
			string(got.MsgId) != string(m.ID[:]) || got.Offset != 0 || got.Partition != 0 {
			t.Errorf("push %v", got)
		}
		fits := false
		for _, ids := range want {
			fits = fits || len(ids) == len(got.Sessions)
		}
		if !fits {
			t.Errorf("%d sessions in a push, want %d and %d", len(got.Sessions), len(want[0]), len(want[1]))
		}
	}
	if total != 40 {
		t.Errorf("%d sessions, want 40", total)
	}
	j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 40, job.Offline: 1})
}
