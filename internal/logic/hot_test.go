package logic_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/hotrooms"
	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// speakers notes who spoke.
type speakers struct{ noted []string }

func (s *speakers) Note(room string, mid int64, at time.Time) {
	s.noted = append(s.noted, fmt.Sprintf("%d in %s at %d", mid, room, at.UnixMilli()))
}
func (*speakers) Top(int) hotrooms.Ranking { return hotrooms.Ranking{} }
func (*speakers) Window() time.Duration    { return time.Minute }

// Users that say something in rooms are noted when it was appended, also when
// presence is away then; the backend, inboxes, pushes to all and revokes are
// not speaking.
func TestRouteNotesSpeakers(t *testing.T) {
	l := newLibrary(t)
	s := &speakers{}
	core := l.env.Core(t, func(_ *logic.Config, d *logic.Deps) { d.Timelines, d.HotRooms = l.store, s })
	item := func(offset, sender int64, kind message.Kind, tls ...message.Timeline) logic.StoredQuery {
		return logic.StoredQuery{Stored: &timeline.Record{Offset: offset, Timelines: tls, Message: message.Message{
			ID: message.ID{15: byte(offset)}, Kind: kind, Flags: message.Store, Sender: sender, AcceptedMS: 1000 + offset}}}
	}
	items := []logic.StoredQuery{
		item(1, 7, message.Chat, "r:live://1", "u:2", "r:live://2"),
		{},
		item(2, 0, message.Notice, "r:live://1"),
		item(3, 8, message.Chat, "u:3"),
		item(4, 8, message.Chat, message.AllTimeline),
		item(5, 8, message.Revoke, "r:live://1"),
		item(6, 9, message.Chat, "r:live://1"),
	}
	want := []string{"7 in live://1 at 1001", "7 in live://2 at 1001", "9 in live://1 at 1006"}
	l.env.Redis.SetError("away")
	if _, _, err := core.RouteStored(t.Context(), l.fold, items); err == nil {
		t.Fatal("routed without presence")
	}
	l.env.Redis.SetError("")
	if !slices.Equal(s.noted, want) {
		t.Errorf("%q", s.noted)
	}
}
