package timeline_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

func TestMembersReadWhatTheyMay(t *testing.T) {
	w := newWorld(t, true, asItIs)
	w.say(room, 5)
	join := func(mid int64) {
		t.Helper()
		if err := w.store.Join(w.ctx, room, []timeline.Member{{Mid: mid}}); err != nil {
			t.Fatal(err)
		}
	}
	r := timeline.Reader{Mid: 8}
	if p := w.page(r, timeline.Cursor{Timeline: room}); !errors.Is(p.Err, timeline.ErrForbidden) {
		t.Fatalf("a stranger: %+v", p)
	}
	join(8)
	w.say(room, 3)
	if p := w.page(r, timeline.Cursor{Timeline: room}); !slices.Equal(seqs(p.Entries), []uint64{6, 7, 8}) || p.Truncated {
		t.Fatalf("a member since 5: %+v", p)
	}
	if s, err := w.store.Cursors(w.ctx, r, []message.Timeline{room}); err != nil || s[0].Unread != 3 {
		t.Fatalf("unread: %+v, %v", s, err)
	}
	if err := w.store.Leave(w.ctx, room, []int64{8}); err != nil {
		t.Fatal(err)
	}
	w.say(room, 2)
	if p := w.page(r, timeline.Cursor{Timeline: room}); !slices.Equal(seqs(p.Entries), []uint64{6, 7, 8}) || p.HasMore || p.Top != 8 {
		t.Fatalf("one who left at 8: %+v", p)
	}
	join(8)
	w.say(room, 1)
	if p := w.page(r, timeline.Cursor{Timeline: room, Epoch: 1, After: 8}); !slices.Equal(seqs(p.Entries), []uint64{11}) {
		t.Fatalf("one who came back at 10: %+v", p)
	}
	rooms, err := w.store.RoomsOf(w.ctx, 8, "", 10)
	if err != nil || len(rooms) != 1 || rooms[0].Timeline != room {
		t.Fatalf("%+v, %v", rooms, err)
	}
	if _, err := w.store.Member(w.ctx, room, 9); !errors.Is(err, timeline.ErrNotFound) {
		t.Fatal(err)
	}
	for _, foreign := range []message.Timeline{message.Inbox(9), "k:key", "r:nonsense", ""} {
		if p := w.page(r, timeline.Cursor{Timeline: foreign}); !errors.Is(p.Err, timeline.ErrForbidden) {
			t.Errorf("%q: %+v", foreign, p)
		}
	}
}

// Symptom: after a room whose type has no archive had been quiet for a day,
// what was said in it did not come to its members in pages, and did come to
// those who had left. Cause: what a user may see of a room was kept in
// positions, which mean something else when the room is numbered anew.
func TestWhatAUserMaySeeOfARoomWithoutArchive(t *testing.T) {
	w := newWorld(t, true, func(c *timeline.Config) { c.RoomArchive = "off" })
	w.say(room, 9)
	if err := w.store.Join(w.ctx, room, []timeline.Member{{Mid: 8}, {Mid: 9}}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		w.store.Hide(w.ctx, timeline.Reader{Mid: 8}, room, []uint64{2}),
		w.store.Clear(w.ctx, timeline.Reader{Mid: 8}, room, 9),
	} {
		if !errors.Is(err, timeline.ErrNoArchive) {
			t.Errorf("hide, clear: %v", err)
		}
	}
	if err := w.store.Leave(w.ctx, room, []int64{9}); err != nil {
		t.Fatal(err)
	}
	if !w.window.Forget(room) {
		t.Fatal("the room is not quiet")
	}
	w.say(room, 3)
	if p := w.page(timeline.Reader{Mid: 8}, timeline.Cursor{Timeline: room}); !slices.Equal(seqs(p.Entries), []uint64{1, 2, 3}) {
		t.Errorf("a member: %+v", p)
	}
	for _, r := range []timeline.Reader{{Mid: 9}, {Mid: 10}} {
		if p := w.page(r, timeline.Cursor{Timeline: room}); !errors.Is(p.Err, timeline.ErrForbidden) {
			t.Errorf("%d, who is no member: %+v", r.Mid, p)
		}
	}
}
