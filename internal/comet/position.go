package comet

import (
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
)

// position of a push for the session at index target of Push.Sessions; nil for
// a transient push.
func (p *Push) position(target int) *wire.Position {
	if len(p.Positions) == 0 {
		return nil
	}
	if target >= 0 && target < len(p.PositionOf) {
		return &p.Positions[p.PositionOf[target]]
	}
	return &p.Positions[0]
}

// takes tells whether a push by key, by user or to all is for the session.
// Version 2 takes what has a position whatever its op: a position that is not
// delivered would look like a loss. What logic tells the sessions of a user is
// for all of them.
func (s *Session) takes(op wire.Op, stored bool) bool {
	if s.ver >= uint8(wire.V2) && (stored || op == wire.OpReadReply) {
		return true
	}
	return s.accepted(op)
}

// raise moves a top. Within an epoch it only grows; another epoch replaces it.
func raise(top *timeline.Position, to timeline.Position) {
	if to.Epoch != top.Epoch || to.Seq > top.Seq {
		*top = to
	}
}

// tops is what a version 2 session has been told of newest positions, and the
// top of its own inbox. Those of its rooms are in the rooms. Version 1 has none
// of it.
type tops struct {
	inbox     timeline.Position
	toldInbox timeline.Position
	toldAll   timeline.Position
	resume    []timeline.Cursor // to sync when the session is live
}

// topBody is a top in a control body.
type topBody struct {
	Timeline string `json:"tl"`
	Epoch    uint32 `json:"epoch"`
	Top      uint64 `json:"top"`
}

// news lists the tops that have changed since the session was last told, and
// counts them as told.
func (b *Bucket) news(s *Session) (changed []topBody) {
	if s.tops == nil {
		return nil
	}
	tell := func(tl message.Timeline, now timeline.Position, told *timeline.Position) {
		if now != *told && now.Seq > 0 {
			*told = now
			changed = append(changed, topBody{string(tl), now.Epoch, now.Seq})
		}
	}
	if s.mid > 0 {
		tell(message.Inbox(s.mid), s.tops.inbox, &s.tops.toldInbox)
	}
	tell(message.AllTimeline, b.allTop, &s.tops.toldAll)
	for i := range s.rooms {
		m := &s.rooms[i]
		tell(roomTimeline(m.room.key), m.room.top, &m.told)
	}
	return changed
}

// toldByPage counts the top of a page as the one that the session was told last:
// that of a store that is being rebuilt is lower than what a heartbeat has told,
// and the client goes by it.
func (b *Bucket) toldByPage(s *Session, t timeline.Top) {
	if s.tops == nil {
		return
	}
	room, inRoom := t.Timeline.Room()
	switch {
	case t.Timeline == message.AllTimeline:
		s.tops.toldAll = t.Position
	case !inRoom:
		s.tops.toldInbox = t.Position // there are no pages of other inboxes
	default:
		if i := s.roomIndex(room); i >= 0 {
			s.rooms[i].told = t.Position
		}
	}
}

// learn takes in what logic says about tops. Timelines that this session does
// not read are skipped.
func (b *Bucket) learn(s *Session, known []timeline.Top) {
	for _, t := range known {
		if t.Timeline == message.AllTimeline {
			raise(&b.allTop, t.Position)
			continue
		}
		if room, ok := t.Timeline.Room(); ok {
			if r := b.rooms[room]; r != nil {
				raise(&r.top, t.Position)
			}
			continue
		}
		if s != nil && s.tops != nil && s.mid > 0 && t.Timeline == message.Inbox(s.mid) {
			raise(&s.tops.inbox, t.Position)
		}
	}
}

func roomTimeline(key string) message.Timeline { return message.ToRoom(key).Timeline() }

// at is the part of a Position that is compared.
func at(p *wire.Position) timeline.Position { return timeline.Position{Epoch: p.Epoch, Seq: p.Seq} }

// hintBody tells a slow session that pushes of a timeline were dropped.
type hintBody struct {
	topBody
	Skipped bool `json:"skipped"`
}

// hint tells a version 2 session at once that it missed a stored push. It is
// told once until its next heartbeat, which is answered with the tops: the hint
// has to fit into what the session does not read.
func (b *Bucket) hint(s *Session, tl message.Timeline, top timeline.Position) {
	if s.tops == nil || s.hinted || s.state != live {
		return
	}
	s.hinted = true
	b.replyJSON(s, wire.OpHint, 0, hintBody{topBody{string(tl), top.Epoch, top.Seq}, true})
}
