package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Bounds of what waits for the messages before it, and of what is followed.
const (
	maxHeld      = 1024
	maxHeldBytes = 4 << 20
	maxLines     = 4096
	maxSync      = 64 // timelines of one sync
	ackEvery     = 64 // messages
	retryPause   = time.Second
)

// follower hands stored messages out once and in order: a message that comes
// again is dropped, one that comes too early is held, what is missing is asked
// for. It belongs to the goroutine of Run and lives across connections.
type follower struct {
	store CursorStore
	h     Handler
	ack   bool

	c       *Conn // of now
	lines   map[string]*line
	syncing bool     // a sync is unanswered
	asking  []string // so is the question where the user stands in these timelines
	pausing bool     // a retry is due
	acks    map[string]bool
	unacked int
}

// line is one timeline.
type line struct {
	name    string
	at      Cursor // handled up to here
	known   bool   // at is good; otherwise where to begin is being found out
	asked   Cursor // where at was when a page was asked for
	top     Cursor // newest that was heard of
	from    Cursor // where what was heard of begins: all of a room for who never was there
	more    bool   // the last page did not reach the top
	resumed bool   // in the auth packet; its page is on the way
	blocked bool   // the server does not give it
	held    map[Cursor]Message
	bytes   int
	dropped uint64 // lowest position that was not held for lack of room; 0 = none
}

func newFollower(cfg Config, h Handler) *follower {
	f := &follower{store: cfg.Cursors, h: h, ack: !cfg.NoAck, lines: map[string]*line{}, acks: map[string]bool{}}
	if f.store == nil {
		f.store = &MemoryCursors{}
	}
	return f
}

// line finds or begins one; nil when there are too many.
func (f *follower) line(ctx context.Context, name string) (*line, error) {
	if l := f.lines[name]; l != nil {
		return l, nil
	}
	if len(f.lines) >= maxLines {
		return nil, nil
	}
	at, ok, err := f.store.Load(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("client: load the cursor of %s: %w", name, err)
	}
	l := &line{name: name, at: at, known: ok, held: map[Cursor]Message{}}
	f.lines[name] = l
	return l, nil
}

// resume is what the auth packet of the next connection asks for: what the
// server gives before anything is joined.
func (f *follower) resume(ctx context.Context, auth Auth) ([]resumeItem, error) {
	var names []string
	if auth.Mid > 0 {
		names = append(names, inboxOf(auth.Mid))
	}
	if auth.Room != "" {
		names = append(names, roomTimeline(auth.Room))
	}
	var items []resumeItem
	for _, name := range names {
		l, err := f.line(ctx, name)
		if err != nil {
			return nil, err
		}
		if l != nil && l.known {
			items = append(items, resumeItem{name, l.at.Epoch, l.at.Seq})
		}
	}
	return items, nil
}

// begin starts to follow on a new connection.
func (f *follower) begin(ctx context.Context, c *Conn, resumed []resumeItem) error {
	f.c, f.syncing, f.asking, f.pausing = c, false, nil, false
	for _, l := range f.lines {
		l.blocked, l.more, l.resumed, l.dropped = false, false, false, 0
		clear(l.held) // pages give it again
		l.bytes = 0
	}
	for _, r := range resumed {
		f.lines[r.Timeline].resumed = true
	}
	if len(c.tops) == 0 {
		return nil
	}
	return f.event(ctx, &event{tops: c.tops})
}

// message handles what was received.
func (f *follower) message(ctx context.Context, m Message) error {
	if m.event != nil {
		return f.event(ctx, m.event)
	}
	if m.Seq == 0 {
		f.h.Message(m)
		return nil
	}
	l, err := f.line(ctx, m.Timeline)
	if err != nil {
		return err
	}
	if l == nil {
		f.h.Message(m)
		return nil
	}
	at := Cursor{m.Epoch, m.Seq}
	if !l.known { // the user may stand below it
		l.hear(at, m.Seq-1)
		l.hold(at, m)
		return f.ask()
	}
	if l.at == (Cursor{}) && m.Seq == 1 {
		l.at.Epoch = m.Epoch
	}
	switch {
	case l.at.Epoch == m.Epoch && m.Seq <= l.at.Seq:
		return nil // had it
	case l.at.Epoch == m.Epoch && m.Seq == l.at.Seq+1:
		if err := f.deliver(ctx, l, m); err != nil {
			return err
		}
		return f.drain(ctx, l)
	}
	l.hold(at, m)
	return f.sync()
}

// hear takes in that a position is there, and what came before it.
func (l *line) hear(at Cursor, before uint64) {
	if l.top.Seq == 0 || at.Epoch != l.top.Epoch {
		l.from = Cursor{at.Epoch, before}
	}
	l.from.Seq = min(l.from.Seq, before)
	if at.Epoch != l.top.Epoch || at.Seq > l.top.Seq {
		l.top = at
	}
}

// hold keeps a message for later; with no room the highest ones go first, they
// are asked for again.
func (l *line) hold(at Cursor, m Message) {
	if _, again := l.held[at]; again {
		return
	}
	l.held[at] = m
	l.bytes += messageCost + len(m.Body)
	for len(l.held) > maxHeld || l.bytes > maxHeldBytes && len(l.held) > 1 {
		worst := at
		for c := range l.held {
			if c.Epoch == l.at.Epoch == (worst.Epoch == l.at.Epoch) && c.Seq > worst.Seq || c.Epoch != l.at.Epoch && worst.Epoch == l.at.Epoch {
				worst = c
			}
		}
		if l.dropped == 0 || worst.Seq < l.dropped {
			l.dropped = worst.Seq
		}
		l.release(worst)
	}
}

func (l *line) release(at Cursor) {
	l.bytes -= messageCost + len(l.held[at].Body)
	delete(l.held, at)
}

// deliver hands out the next message of a timeline.
func (f *follower) deliver(ctx context.Context, l *line, m Message) error {
	f.h.Message(m)
	l.at = Cursor{m.Epoch, m.Seq}
	return f.save(ctx, l)
}

func (f *follower) save(ctx context.Context, l *line) error {
	if err := f.store.Save(ctx, l.name, l.at); err != nil {
		return fmt.Errorf("client: save the cursor of %s: %w", l.name, err)
	}
	if f.acks[l.name] = true; f.ack {
		if f.unacked++; f.unacked >= ackEvery {
			f.flush()
		}
	}
	return nil
}

// drain hands out what waited for the message before it.
func (f *follower) drain(ctx context.Context, l *line) error {
	for {
		next := Cursor{l.at.Epoch, l.at.Seq + 1}
		m, ok := l.held[next]
		if !ok {
			return nil
		}
		l.release(next)
		if err := f.deliver(ctx, l, m); err != nil {
			return err
		}
	}
}

// flush acknowledges what was handled. When it fails, so does the connection.
func (f *follower) flush() {
	f.unacked = 0
	if !f.ack || len(f.acks) == 0 || f.c.ver < wire.V2 {
		return
	}
	var body ackBody
	for name := range f.acks {
		delete(f.acks, name)
		if l := f.lines[name]; l.at.Seq > 0 && l.at.Epoch > 0 {
			body.Acks = append(body.Acks, ackItem{name, l.at.Epoch, l.at.Seq})
		}
		if len(body.Acks) == maxSync {
			break
		}
	}
	if len(body.Acks) > 0 {
		_ = f.c.sendJSON(wire.OpAck, body) // the end of the connection is told by next
	}
}

// event handles what the server said between messages.
func (f *follower) event(ctx context.Context, e *event) error {
	for _, t := range e.tops {
		l, err := f.line(ctx, t.Timeline)
		if err != nil {
			return err
		}
		if l != nil {
			l.hear(Cursor{t.Epoch, t.Top}, t.Top)
		}
	}
	for _, name := range e.joined {
		l, err := f.line(ctx, name)
		if err != nil {
			return err
		}
		if l == nil {
			continue
		}
		l.blocked = false
		if !l.known && l.top.Seq == 0 {
			l.known = true // empty: it begins with its first message
		}
	}
	if e.heartbeat {
		for _, l := range f.lines {
			l.resumed = false // its page should be here by now
		}
	}
	if e.again {
		f.pausing = false
	}
	if e.standings {
		asked := f.asking
		f.asking = nil
		switch e.failed {
		case 0, 400, 403, 404, 501: // those above 0 stay so: the user stands nowhere
			if err := f.stand(ctx, asked, e.stand); err != nil {
				return err
			}
		default:
			f.retry()
		}
	}
	if e.synced {
		if err := f.synced(ctx, e); err != nil {
			return err
		}
	}
	if err := f.ask(); err != nil {
		return err
	}
	return f.sync()
}

// ask asks where the user stands in timelines that this device does not know.
func (f *follower) ask() error {
	if f.asking != nil || f.pausing {
		return nil
	}
	body := ackBody{Reply: true}
	for _, l := range f.lines {
		if !l.known && l.top.Seq > 0 && len(body.Acks) < maxSync {
			body.Acks = append(body.Acks, ackItem{l.name, l.top.Epoch, 0})
			f.asking = append(f.asking, l.name)
		}
	}
	if len(body.Acks) == 0 {
		return nil
	}
	return f.post(wire.OpAck, body, standingsEvent)
}

// post sends; a connection that has ended is told of by next.
func (f *follower) post(op wire.Op, body any, became func([]byte) *event) error {
	if err := f.c.post(op, body, became); err != nil && f.c.ended() == nil {
		return err
	}
	return nil
}

// stand begins timelines where the user stands; those in which the user was
// never: the inbox at its begin, a room at what is new since it was entered.
// Only of those that were asked for it is known that the user was never there.
func (f *follower) stand(ctx context.Context, asked []string, stand []standing) error {
	for _, name := range asked {
		l := f.lines[name]
		if l.known {
			continue
		}
		l.known = true
		i := slices.IndexFunc(stand, func(s standing) bool { return s.Timeline == l.name && s.Acked > 0 })
		switch {
		case i >= 0:
			l.at = Cursor{stand[i].Epoch, stand[i].Acked}
			if l.at.Epoch == l.from.Epoch { // another device was faster with what both got
				l.at.Seq = min(l.at.Seq, l.from.Seq)
			}
		case l.name != inboxOf(f.c.session.Mid):
			l.at = l.from
		}
		if err := f.save(ctx, l); err != nil {
			return err
		}
		for c := range l.held {
			if c.Epoch == l.at.Epoch && c.Seq <= l.at.Seq {
				l.release(c)
			}
		}
		if err := f.drain(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// behind tells whether something of the timeline is missing.
func (l *line) behind() bool {
	if !l.known || l.blocked || l.resumed {
		return false
	}
	return l.more || len(l.held) > 0 || l.top.Seq > 0 && (l.top.Epoch != l.at.Epoch || l.top.Seq > l.at.Seq)
}

// sync asks for what is missing.
func (f *follower) sync() error {
	if f.syncing || f.pausing || f.c.ver < wire.V2 {
		return nil
	}
	var body struct {
		Cursors []resumeItem `json:"cursors"`
	}
	for _, l := range f.lines {
		if l.behind() && len(body.Cursors) < maxSync {
			l.asked = l.at
			body.Cursors = append(body.Cursors, resumeItem{l.name, l.at.Epoch, l.at.Seq})
		}
	}
	if len(body.Cursors) == 0 {
		return nil
	}
	f.syncing = true
	return f.post(wire.OpSync, body, syncEvent)
}

// synced takes the numbers of pages, whose messages have come before.
func (f *follower) synced(ctx context.Context, e *event) error {
	if e.resume {
		for _, l := range f.lines {
			l.more = l.more || l.resumed && e.failed != 0
			l.resumed = false // answered, be it with a no
		}
	} else {
		f.syncing = false
	}
	if e.failed == 501 { // nothing is stored here
		for _, l := range f.lines {
			l.blocked = true
		}
	}
	stuck, moved := false, false
	for i := range e.pages {
		l := f.lines[e.pages[i].Timeline]
		if l == nil {
			continue
		}
		if err := f.page(ctx, l, &e.pages[i]); err != nil {
			return err
		}
		moved = moved || l.at != l.asked
		stuck = stuck || l.at == l.asked && l.behind()
	}
	// An answer has a bound: a page may wait for those before it.
	if e.failed != 0 || stuck && !moved {
		f.retry()
	}
	return nil
}

// retry asks again after a pause.
func (f *follower) retry() {
	if f.pausing {
		return
	}
	f.pausing = true
	c := f.c
	time.AfterFunc(retryPause, func() { c.queue.force(Message{event: &event{again: true}}) })
}

// page takes the numbers of one page: everything up to Next was sent before
// it, or is gone.
func (f *follower) page(ctx context.Context, l *line, p *page) error {
	switch {
	case p.Code == 403 || p.Code == 404 || p.Code == 400:
		l.blocked = true
		return nil
	case p.Code != 0:
		return nil // later
	}
	before := l.at
	switch {
	case p.Reset:
		if l.at != (Cursor{}) && f.h.Skipped != nil {
			f.h.Skipped(Skip{Timeline: l.name, Reset: true})
		}
		l.at, l.known = Cursor{p.Epoch, p.Floor}, true
	case l.at.Epoch == 0:
		l.at.Epoch, l.known = p.Epoch, true
	case l.at.Epoch != p.Epoch:
		return nil // the answer to an older question
	}
	if p.Truncated && p.Floor > l.at.Seq {
		if f.h.Skipped != nil && !p.Reset {
			f.h.Skipped(Skip{Timeline: l.name, From: l.at.Seq + 1, To: p.Floor})
		}
		l.at.Seq = p.Floor
	}
	upTo := p.Next
	if l.dropped > 0 && l.dropped <= upTo {
		upTo = l.dropped - 1
	}
	l.dropped = 0
	var held []uint64
	for c := range l.held {
		switch {
		case c.Epoch != p.Epoch || c.Seq <= l.at.Seq: // of another life, or had it
			l.release(c)
		case c.Seq <= upTo:
			held = append(held, c.Seq)
		}
	}
	slices.Sort(held)
	for _, seq := range held {
		at := Cursor{p.Epoch, seq}
		m := l.held[at]
		l.release(at)
		if err := f.deliver(ctx, l, m); err != nil {
			return err
		}
	}
	if upTo > l.at.Seq {
		l.at.Seq = upTo
	}
	l.top, l.more = Cursor{p.Epoch, max(p.Top, l.at.Seq)}, p.HasMore
	if l.at != before {
		if err := f.save(ctx, l); err != nil {
			return err
		}
	}
	return f.drain(ctx, l)
}
