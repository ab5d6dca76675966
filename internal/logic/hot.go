package logic

import (
	"time"

	"github.com/perseid-im/perseid/internal/hotrooms"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// HotRooms knows in which rooms most people talk; hotrooms.Tracker is it.
type HotRooms interface {
	// Note says that somebody spoke. It does not wait.
	Note(room string, mid int64, at time.Time)
	Top(limit int) hotrooms.Ranking
	Window() time.Duration
}

// HotRooms is the ranking, cut to limit, and how long a speaker counts in it.
// ok is false where nobody counts.
func (c *Core) HotRooms(limit int) (r hotrooms.Ranking, window time.Duration, ok bool) {
	if c.hot == nil {
		return hotrooms.Ranking{}, 0, false
	}
	return c.hot.Top(limit), c.hot.Window(), true
}

// noteSpeakers tells of the users that said something in rooms. A record that
// was appended before is told again: who spoke is counted once.
func (c *Core) noteSpeakers(records []timeline.Record) {
	if c.hot == nil {
		return
	}
	for i := range records {
		m := &records[i].Message
		if m.Sender <= 0 || m.Kind == message.Revoke {
			continue
		}
		for _, tl := range records[i].Timelines {
			if room, ok := tl.Room(); ok && tl != message.AllTimeline {
				c.hot.Note(room, m.Sender, time.UnixMilli(m.AcceptedMS))
			}
		}
	}
}
