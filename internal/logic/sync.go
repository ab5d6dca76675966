package logic

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Codes of an answer about a timeline (protocol.md): those below 1000 mean
// what they mean in HTTP.
const (
	CodeBadRequest uint32 = 400
	CodeForbidden  uint32 = 403
	CodeNotFound   uint32 = 404
	CodeTooLarge   uint32 = 413
	CodeNoStore    uint32 = 501
	CodeRetry      uint32 = 503
	// CodeBehind: the store is being rebuilt. Keep the cursor, ask later.
	CodeBehind uint32 = 3100
)

// Problem is why a session does not get what it asked for.
type Problem struct {
	Code   uint32 // 0 = it does
	Reason string
}

// ProblemOf is what a session is told of an error.
func ProblemOf(err error) Problem {
	var refusal *Refusal
	switch {
	case err == nil:
		return Problem{}
	case errors.Is(err, timeline.ErrForbidden):
		return Problem{CodeForbidden, "not a timeline of this user"}
	case errors.Is(err, timeline.ErrBehind):
		return Problem{CodeBehind, "the store is being rebuilt, ask again later"}
	case errors.Is(err, timeline.ErrNotFound):
		return Problem{CodeNotFound, "no such position"}
	case errors.Is(err, timeline.ErrTooMany):
		return Problem{CodeBadRequest, err.Error()}
	case errors.Is(err, timeline.ErrNoArchive), errors.Is(err, ErrNotStored):
		return Problem{CodeNoStore, "not_supported"}
	case errors.As(err, &refusal):
		switch refusal.Reason {
		case NotSupported, NoArchive:
			return Problem{CodeNoStore, refusal.Message}
		case TooLarge:
			return Problem{CodeTooLarge, refusal.Message}
		}
		return Problem{CodeBadRequest, refusal.Message}
	}
	return Problem{CodeRetry, "try again later"}
}

// mayRead keeps a session without a user from being taken for the backend,
// whose mid is 0 and which may read everything.
func mayRead(r timeline.Reader, tl message.Timeline) bool {
	return r.Mid > 0 || tl == message.AllTimeline || slices.Contains(r.Rooms, tl)
}

// Sync answers the pages after cursors of one session, parallel to them;
// without cursors those of the user's inbox and rooms from where the user
// stands.
func (c *Core) Sync(ctx context.Context, r timeline.Reader, cursors []timeline.Cursor, l timeline.Limit) ([]timeline.Page, error) {
	if c.timelines == nil {
		return nil, ErrNotStored
	}
	if len(cursors) > timeline.MaxCursors {
		return nil, &Refusal{BadField, fmt.Sprintf("%d cursors: at most %d", len(cursors), timeline.MaxCursors)}
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	if len(cursors) == 0 {
		if r.Mid > 0 {
			pages, err := c.timelines.Page(ctx, r, nil, l)
			if err != nil {
				return nil, fmt.Errorf("sync of %d: %w", r.Mid, err)
			}
			return pages, nil
		}
		for _, tl := range r.Rooms[:min(len(r.Rooms), timeline.MaxCursors)] {
			cursors = append(cursors, timeline.Cursor{Timeline: tl})
		}
	}
	pages, err := c.pages(ctx, r, cursors, l)
	if err != nil {
		return nil, fmt.Errorf("sync %d timelines: %w", len(cursors), err)
	}
	return pages, nil
}

// pages asks for those that the reader may ask for; parallel to the cursors.
func (c *Core) pages(ctx context.Context, r timeline.Reader, cursors []timeline.Cursor, l timeline.Limit) ([]timeline.Page, error) {
	pages := make([]timeline.Page, len(cursors))
	asked := make([]timeline.Cursor, 0, len(cursors))
	at := make([]int, 0, len(cursors))
	for i, cursor := range cursors {
		if !cursor.Timeline.CanStore() || !mayRead(r, cursor.Timeline) {
			pages[i] = timeline.Page{Timeline: cursor.Timeline, Err: timeline.ErrForbidden}
			continue
		}
		asked, at = append(asked, cursor), append(at, i)
	}
	if len(asked) == 0 {
		return pages, nil
	}
	r.Mid = max(r.Mid, 0)
	found, err := c.timelines.Page(ctx, r, asked, l)
	if err == nil && len(found) != len(asked) {
		err = fmt.Errorf("%d pages for %d cursors", len(found), len(asked))
	}
	if err != nil {
		return nil, err
	}
	for n, i := range at {
		pages[i] = found[n]
	}
	return pages, nil
}

// History answers a part of one timeline around a position.
func (c *Core) History(ctx context.Context, r timeline.Reader, p timeline.Part, l timeline.Limit) (timeline.Page, error) {
	if c.timelines == nil {
		return timeline.Page{}, ErrNotStored
	}
	if !p.Timeline.CanStore() || !mayRead(r, p.Timeline) {
		return timeline.Page{}, timeline.ErrForbidden
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	r.Mid = max(r.Mid, 0)
	page, err := c.timelines.History(ctx, r, p, l)
	if err != nil {
		return timeline.Page{}, fmt.Errorf("history of %s: %w", p.Timeline, err)
	}
	return page, nil
}

// Tops answers the newest positions of timelines; those without one are left
// out. It does not check who asks. stored is false where nothing is stored.
func (c *Core) Tops(ctx context.Context, tls []message.Timeline) (tops []timeline.Top, stored bool, err error) {
	if c.timelines == nil {
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	asked := make([]message.Timeline, 0, len(tls))
	for _, tl := range tls {
		if tl.CanStore() {
			asked = append(asked, tl)
		}
	}
	if len(asked) == 0 {
		return nil, true, nil
	}
	found, err := c.timelines.Tops(ctx, asked)
	if err != nil {
		return nil, true, fmt.Errorf("tops of %d timelines: %w", len(asked), err)
	}
	for _, t := range found {
		if t.Seq > 0 {
			tops = append(tops, t)
		}
	}
	return tops, true, nil
}
