package logic

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Bounds of what a connect reads of timelines.
const (
	maxDurableRooms = 1000 // of one user that its sessions enter
	roomsPage       = 200
	roomsReaders    = 16 // users whose rooms are read at the same time
)

// connectRooms adds to sessions of version 2 what they want to resume and the
// durable rooms of their users. A session whose rooms cannot be read is turned
// away: it would miss what is said in them without knowing.
func (c *Core) connectRooms(ctx context.Context, node presence.Node, items []ConnectItem, results []ConnectResult) {
	if c.timelines == nil {
		return
	}
	var readers sync.WaitGroup
	places := make(chan struct{}, roomsReaders)
	for i := range items {
		if items[i].Ver < 2 || results[i].Code != 0 {
			continue
		}
		results[i].Resume = parseResume(items[i].Token)
		if results[i].Mid <= 0 {
			continue
		}
		places <- struct{}{}
		readers.Go(func() {
			defer func() { <-places }()
			rooms, err := c.safeRooms(ctx, results[i].Mid)
			if err != nil {
				c.storms.Warn("durable rooms", "sessions turned away, the rooms of their users cannot be read", slog.String("node", node.Name), slog.Any("error", err))
				results[i] = ConnectResult{Code: CodeUnavailable, Reason: "the rooms of the user cannot be read, reconnect"}
				return
			}
			results[i].Rooms = rooms
		})
	}
	readers.Wait()
}

// safeRooms keeps a panic in its goroutine from ending the process; the
// transports catch only those in theirs.
func (c *Core) safeRooms(ctx context.Context, mid int64) (rooms []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.logger.Error("panic while reading rooms", "panic", p, "stack", string(debug.Stack()))
			rooms, err = nil, errors.New("panic")
		}
	}()
	return c.durableRooms(ctx, mid)
}

// durableRooms are the rooms that the user is a member of now.
func (c *Core) durableRooms(ctx context.Context, mid int64) (rooms []string, err error) {
	for after := message.Timeline(""); len(rooms) < maxDurableRooms; {
		page, err := c.timelines.RoomsOf(ctx, mid, after, roomsPage)
		if err != nil {
			if ProblemOf(err).Code == CodeNoStore { // no archive: nobody is a member of anything
				return nil, nil
			}
			return nil, err
		}
		for _, m := range page {
			after = m.Timeline
			if room, ok := m.Timeline.Room(); ok && m.Range.Max == 0 {
				rooms = append(rooms, room)
			}
		}
		if len(page) < roomsPage {
			break
		}
	}
	return rooms, nil
}

// connectTops adds the tops to sessions of version 2. They are read after
// presence knows the session, so a message is pushed to it or below a top it is
// told later. Without them the sessions learn from their first sync.
func (c *Core) connectTops(ctx context.Context, items []ConnectItem, results []ConnectResult) {
	if c.timelines == nil {
		return
	}
	type want struct{ result, from, to int } // of tls
	var wants []want
	var tls []message.Timeline
	for i := range items {
		r := &results[i]
		if items[i].Ver < 2 || r.Code != 0 {
			continue
		}
		w := want{result: i, from: len(tls)}
		if r.Mid > 0 {
			tls = append(tls, message.Inbox(r.Mid))
		}
		if tl := message.ToRoom(r.Room).Timeline(); r.Room != "" && tl.CanStore() {
			tls = append(tls, tl)
		}
		for _, room := range r.Rooms {
			if room != r.Room {
				tls = append(tls, message.ToRoom(room).Timeline())
			}
		}
		w.to = len(tls)
		wants = append(wants, w)
	}
	if len(tls) == 0 {
		return
	}
	tls = append(tls, message.AllTimeline)
	tops, err := c.timelines.Tops(ctx, tls)
	if err != nil || len(tops) != len(tls) {
		c.storms.Warn("connect tops", "sessions were not told the newest positions", slog.Any("error", err))
		return
	}
	add := func(r *ConnectResult, t timeline.Top) {
		if t.Seq > 0 {
			r.Tops = append(r.Tops, t)
		}
	}
	for _, w := range wants {
		for _, t := range tops[w.from:w.to] {
			add(&results[w.result], t)
		}
		add(&results[w.result], tops[len(tops)-1])
	}
}

// parseResume reads what an auth packet wants to resume. Whether the user may
// read it is up to the sync. What is not understood is not resumed: the client
// asks again when it is told the tops.
func parseResume(token []byte) []timeline.Cursor {
	var auth struct {
		Resume []struct {
			Timeline message.Timeline `json:"tl"`
			Epoch    uint32           `json:"epoch"`
			After    uint64           `json:"after"`
		} `json:"resume"`
	}
	if len(token) > maxTokenBytes || !strings.Contains(string(token), `"resume"`) || json.Unmarshal(token, &auth) != nil {
		return nil
	}
	var cursors []timeline.Cursor
	for _, r := range auth.Resume {
		if r.Timeline.CanStore() && len(cursors) < timeline.MaxCursors {
			cursors = append(cursors, timeline.Cursor{Timeline: r.Timeline, Epoch: r.Epoch, After: r.After})
		}
	}
	return cursors
}
