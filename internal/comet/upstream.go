package comet

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// Bodies of version 2 about stored messages.
type (
	cursorBody struct {
		Timeline message.Timeline `json:"tl"`
		Epoch    uint32           `json:"epoch"`
		After    uint64           `json:"after"`
	}
	syncRequest struct {
		Cursors  []cursorBody `json:"cursors"`
		Limit    uint32       `json:"limit"`
		MaxBytes uint32       `json:"max_bytes"`
	}
	historyRequest struct {
		Timeline message.Timeline `json:"tl"`
		Epoch    uint32           `json:"epoch"`
		Before   *uint64          `json:"before"`
		After    *uint64          `json:"after"`
		Around   *uint64          `json:"around"`
		Limit    uint32           `json:"limit"`
		MaxBytes uint32           `json:"max_bytes"`
	}
	ackBody struct {
		Timeline message.Timeline `json:"tl"`
		Epoch    uint32           `json:"epoch"`
		Seq      uint64           `json:"seq"`
	}
	ackRequest struct {
		Acks  []ackBody `json:"acks"`
		Reply bool      `json:"reply"`
	}
	sendRequest struct {
		To       string          `json:"to"`
		Op       int32           `json:"op"`
		ClientID string          `json:"client_msg_id"`
		Kind     string          `json:"kind"`
		Flags    map[string]bool `json:"flags"`
	}
	sendReply struct {
		ClientID string `json:"client_msg_id,omitempty"`
		ID       string `json:"msg_id,omitempty"`
		Code     uint16 `json:"code,omitempty"`
		Reason   string `json:"reason,omitempty"`
	}
	standingBody struct {
		Timeline message.Timeline `json:"tl"`
		Epoch    uint32           `json:"epoch"`
		Acked    uint64           `json:"acked"`
		Read     uint64           `json:"read"`
		Unread   int              `json:"unread"`
	}
	ackReply struct {
		Cursors []standingBody `json:"cursors"`
	}
	pagesReply struct {
		Pages []pageBody `json:"pages"`
	}
	pageBody struct {
		Timeline  message.Timeline `json:"tl"`
		Epoch     uint32           `json:"epoch"`
		Next      uint64           `json:"next"`
		HasMore   bool             `json:"has_more"`
		Top       uint64           `json:"top"`
		Floor     uint64           `json:"floor"`
		Reset     bool             `json:"reset,omitempty"`
		Truncated bool             `json:"truncated,omitempty"`
		Gone      []goneBody       `json:"gone,omitempty"`
		Code      uint16           `json:"code,omitempty"`
		Reason    string           `json:"reason,omitempty"`
	}
	goneBody struct {
		Seq uint64 `json:"seq"`
		Why string `json:"why"`
	}
)

func (c cursorBody) cursor() timeline.Cursor { return timeline.Cursor(c) }

func (s *Session) reader() Reader { return Reader{s.id, s.mid} }

// busy refuses what has no room to wait.
func (b *Bucket) busy(s *Session, h wire.Header) {
	b.replyJSON(s, h.Op, h.Seq, refusal{Code: codeRetry, Reason: "too many requests wait, try again later"})
}

// wrong refuses a body that does not fit.
func (b *Bucket) wrong(s *Session, h wire.Header, format string, args ...any) {
	b.replyJSON(s, h.Op, h.Seq, refusal{Code: codeBadRequest, Reason: fmt.Sprintf(format, args...)})
}

// refusalOf is what a client is told of an error of logic.
func refusalOf(err error) refusal {
	var no *Refused
	if errors.As(err, &no) {
		return refusal{Code: no.Code, Reason: no.Reason}
	}
	return refusal{Code: codeRetry, Reason: "try again later"}
}

// sync handles op 18.
func (b *Bucket) sync(s *Session, p wire.Packet, reply wire.Header) {
	var req syncRequest
	if err := json.Unmarshal(p.Body, &req); len(p.Body) > 0 && err != nil {
		b.wrong(s, reply, `body must be {"cursors":[{"tl":"...","epoch":1,"after":0},...],"limit":200,"max_bytes":262144}`)
		return
	}
	if len(req.Cursors) > timeline.MaxCursors {
		b.wrong(s, reply, "%d cursors: at most %d", len(req.Cursors), timeline.MaxCursors)
		return
	}
	var cursors []timeline.Cursor
	for _, c := range req.Cursors {
		cursors = append(cursors, c.cursor())
	}
	if !b.startSync(s, cursors, req.Limit, req.MaxBytes, reply) {
		b.busy(s, reply)
	}
}

// startSync asks logic for pages; they come before the reply.
func (b *Bucket) startSync(s *Session, cursors []timeline.Cursor, entries, bytes uint32, reply wire.Header) bool {
	q := SyncQuery{Reader: s.reader(), Cursors: cursors, Limit: b.limit(entries, bytes, max(len(cursors), 1))}
	if len(cursors) == 0 {
		for i := range s.rooms[:min(len(s.rooms), timeline.MaxCursors)] {
			q.Rooms = append(q.Rooms, s.rooms[i].room.key)
		}
	}
	for _, c := range cursors {
		if room, ok := c.Timeline.Room(); ok && s.roomIndex(room) >= 0 {
			q.Rooms = append(q.Rooms, room)
		}
	}
	g := b.gateway
	return b.ask(s, func(ctx context.Context) func(*Bucket, *Session) {
		pages, err := g.logic.Sync(ctx, g.node, q)
		if err != nil {
			g.askFailed("sync", err)
			return func(b *Bucket, s *Session) { b.replyJSON(s, reply.Op, reply.Seq, refusalOf(err)) }
		}
		return func(b *Bucket, s *Session) { b.writePages(s, pages, reply, 0) }
	})
}

// atOnce is about how much a client gets at once of what it asks for: the other
// half of its outbox is for pushes, which would find it too slow.
func (b *Bucket) atOnce() int { return min(timeline.MaxPageBytes, b.gateway.cfg.OutboxBytes/2) }

// limit bounds pages that are answered together; writePages cuts what more of
// them would give.
func (b *Bucket) limit(entries, bytes uint32, pages int) timeline.Limit {
	most := b.atOnce() / min(pages, 8)
	l := timeline.Limit{Entries: int(min(entries, timeline.MaxPageEntries)), Bytes: int(min(bytes, timeline.MaxPageBytes))}
	if l.Bytes == 0 || l.Bytes > most {
		l.Bytes = most
	}
	return l
}

// askFailed counts what is the fault of a server.
func (g *Gateway) askFailed(call string, err error) {
	var no *Refused
	if !errors.As(err, &no) {
		g.logicFailed(call, err)
	}
}

// writePages sends the messages of pages as pushes with positions, and then
// the reply with the numbers. Packets of a history carry the number of its
// request, so that they are not taken for new messages.
func (b *Bucket) writePages(s *Session, pages []Page, reply wire.Header, seq int32) {
	if s.out.size()+s.conn.Buffered() > b.gateway.cfg.OutboxBytes {
		b.Close(s, SlowConsumer)
		return
	}
	var raw []byte
	body := pagesReply{Pages: make([]pageBody, len(pages))}
	for i := range pages {
		page := &pages[i]
		body.Pages[i] = pageBody{
			Timeline: page.Timeline, Epoch: page.Epoch, Next: page.Next, HasMore: page.HasMore, Top: page.Top, Floor: page.Floor,
			Reset: page.Reset, Truncated: page.Truncated, Code: page.Code, Reason: page.Reason,
		}
		if page.Code != 0 {
			continue
		}
		top := timeline.Top{Timeline: page.Timeline, Position: timeline.Position{Epoch: page.Epoch, Seq: page.Top}}
		b.learn(s, []timeline.Top{top})
		if seq == 0 {
			b.toldByPage(s, top)
		}
		name := string(page.Timeline)
		if _, inbox := page.Timeline.Mid(); inbox {
			name = ""
		}
		for e := range page.Entries {
			entry := &page.Entries[e]
			if entry.Gone != timeline.Here {
				body.Pages[i].Gone = append(body.Pages[i].Gone, goneBody{entry.Seq, goneName(entry.Gone)})
				continue
			}
			m := &entry.Message
			if seq == 0 && len(raw) > 0 && len(raw)+len(m.Body) > b.atOnce() { // of a history there is one page, which fits
				body.Pages[i].Next, body.Pages[i].HasMore = entry.Seq-1, true
				break
			}
			raw = wire.AppendPositioned(raw, wire.Header{Ver: wire.V2, Op: m.Op, Seq: seq}, &wire.Position{
				Seq: entry.Seq, Epoch: page.Epoch, AcceptedMS: m.AcceptedMS, MsgID: m.ID, Timeline: name, Sender: m.Sender,
			}, m.Body)
		}
	}
	numbers, err := json.Marshal(body)
	if err != nil { // plain structs always marshal
		b.gateway.log.Error("pages", "error", err)
		return
	}
	raw = wire.AppendPacket(raw, wire.Header{Ver: wire.V2, Op: reply.Op, Seq: reply.Seq}, numbers)
	buf := b.own(s)
	if s.framing == WebSocket {
		buf = ws.AppendHeader(buf, ws.OpBinary, true, len(raw))
	}
	s.out.buf = append(buf, raw...)
	b.touch(s)
}

func goneName(g timeline.Gone) string {
	switch g {
	case timeline.Hidden:
		return "hidden"
	case timeline.Revoked:
		return "revoked"
	case timeline.Expired:
		return "expired"
	}
	return "lost"
}

// history handles op 28.
func (b *Bucket) history(s *Session, p wire.Packet, reply wire.Header) {
	var req historyRequest
	err := json.Unmarshal(p.Body, &req)
	part := timeline.Part{Timeline: req.Timeline, Epoch: req.Epoch}
	given := 0
	for at, seq := range map[timeline.At]*uint64{timeline.Before: req.Before, timeline.After: req.After, timeline.Around: req.Around} {
		if seq != nil {
			given++
			part.At, part.Seq = at, *seq
		}
	}
	if err != nil || given > 1 {
		b.wrong(s, reply, `body must be {"tl":"...","before":0,"limit":200} with at most one of before, after and around`)
		return
	}
	q := HistoryQuery{Reader: s.reader(), Part: part, Limit: b.limit(req.Limit, req.MaxBytes, 1)}
	if room, ok := req.Timeline.Room(); ok {
		q.InRoom = s.roomIndex(room) >= 0
	}
	g := b.gateway
	if !b.ask(s, func(ctx context.Context) func(*Bucket, *Session) {
		page, err := g.logic.History(ctx, g.node, q)
		if err != nil {
			g.askFailed("history", err)
			return func(b *Bucket, s *Session) { b.replyJSON(s, reply.Op, reply.Seq, refusalOf(err)) }
		}
		return func(b *Bucket, s *Session) { b.writePages(s, []Page{page}, reply, reply.Seq) }
	}) {
		b.busy(s, reply)
	}
}

// maxAcks is how many acks of one session may wait for logic: they do not make
// its next packets wait, and must not take the place of other sessions' acks.
// What comes above it waits in the session, for maxLate timelines.
const (
	maxAcks = 8
	maxLate = 64
)

// ack handles op 20.
func (b *Bucket) ack(s *Session, p wire.Packet, reply wire.Header) {
	var req ackRequest
	if err := json.Unmarshal(p.Body, &req); err != nil || len(req.Acks) == 0 || len(req.Acks) > timeline.MaxCursors {
		b.wrong(s, reply, `body must be {"acks":[{"tl":"...","epoch":1,"seq":1},...]} with 1 to %d timelines`, timeline.MaxCursors)
		return
	}
	item := AckItem{Reader: s.reader(), answer: reply.Seq, wanted: req.Reply}
	for _, a := range req.Acks {
		item.Acks = append(item.Acks, timeline.Cursor{Timeline: a.Timeline, Epoch: a.Epoch, After: a.Seq})
	}
	switch {
	case s.acking >= maxAcks && !req.Reply:
		s.later(item)
	case s.acking < maxAcks && b.gateway.acks.add(item):
		s.acking++
	case req.Reply: // another one that is not taken is lost like one whose call failed: see ackLoop
		b.busy(s, reply)
	}
}

// later keeps acks that have no room now, the newest of each timeline.
func (s *Session) later(item AckItem) {
	if s.late == nil {
		s.late = &AckItem{Reader: item.Reader}
	}
	for _, a := range item.Acks {
		i := slices.IndexFunc(s.late.Acks, func(l timeline.Cursor) bool { return l.Timeline == a.Timeline })
		switch {
		case i >= 0 && (a.Epoch != s.late.Acks[i].Epoch || a.After > s.late.Acks[i].After):
			s.late.Acks[i] = a
		case i < 0 && len(s.late.Acks) < maxLate:
			s.late.Acks = append(s.late.Acks, a)
		}
	}
}

// ackEnded makes room for the acks that had none.
func (b *Bucket) ackEnded(s *Session) {
	s.acking--
	if late := s.late; late != nil {
		if s.late = nil; b.gateway.acks.add(*late) {
			s.acking++
		}
	}
}

func (b *Bucket) acked(s *Session, seq int32, result Acked) {
	if result.Code != 0 {
		b.replyJSON(s, wire.OpAckReply, seq, refusal{Code: result.Code, Reason: result.Reason})
		return
	}
	body := ackReply{Cursors: make([]standingBody, len(result.Standings))}
	for i := range result.Standings {
		body.Cursors[i] = standingOf(&result.Standings[i])
	}
	b.replyJSON(s, wire.OpAckReply, seq, body)
}

func standingOf(t *timeline.Standing) standingBody {
	return standingBody{t.Timeline, t.Epoch, t.Acked, t.Read, t.Unread}
}

// read handles op 26.
func (b *Bucket) read(s *Session, p wire.Packet, reply wire.Header) {
	var req ackBody
	if err := json.Unmarshal(p.Body, &req); err != nil {
		b.wrong(s, reply, `body must be {"tl":"...","epoch":1,"seq":1}`)
		return
	}
	who, at := s.reader(), timeline.Cursor{Timeline: req.Timeline, Epoch: req.Epoch, After: req.Seq}
	g := b.gateway
	if !b.ask(s, func(ctx context.Context) func(*Bucket, *Session) {
		standing, err := g.logic.Read(ctx, g.node, who, at)
		if err != nil {
			g.askFailed("read", err)
			return func(b *Bucket, s *Session) { b.replyJSON(s, reply.Op, reply.Seq, refusalOf(err)) }
		}
		return func(b *Bucket, s *Session) { b.replyJSON(s, reply.Op, reply.Seq, standingOf(&standing)) }
	}) {
		b.busy(s, reply)
	}
}

// The flags that a session may decide, by name.
var sendFlags = map[string]message.Flags{
	"store": message.Store, "unread": message.Unread, "offline_push": message.OfflinePush,
	"sender_sync": message.SenderSync, "urgent": message.Urgent,
}

// send handles op 4: u16 n | n bytes of JSON | payload.
func (b *Bucket) send(s *Session, p wire.Packet, reply wire.Header) {
	const form = `body must be: n as 2 bytes, n bytes of {"to":"u:1","op":1000,"client_msg_id":"..."}, payload`
	if len(p.Body) < 2 || len(p.Body)-2 < int(binary.BigEndian.Uint16(p.Body)) {
		b.wrong(s, reply, form)
		return
	}
	n := 2 + int(binary.BigEndian.Uint16(p.Body))
	var req sendRequest
	if err := json.Unmarshal(p.Body[2:n], &req); err != nil {
		b.wrong(s, reply, form)
		return
	}
	item := PublishItem{
		Reader: s.reader(), To: req.To, Op: req.Op, ClientID: req.ClientID, Payload: slices.Clone(p.Body[n:]),
		answer: reply.Seq, sinceMS: b.gateway.nowMS(),
	}
	var known bool
	if item.Kind, known = message.ParseKind(req.Kind); req.Kind != "" && !known {
		b.published(s, req.ClientID, reply.Seq, Published{Code: codeBadRequest, Reason: "kind: chat or signal"})
		return
	}
	for name, on := range req.Flags {
		flag := sendFlags[name]
		if flag == 0 {
			b.published(s, req.ClientID, reply.Seq, Published{Code: codeBadRequest, Reason: "flags: store, unread, offline_push, sender_sync and urgent"})
			return
		}
		item.FlagsSet |= flag
		if on {
			item.Flags |= flag
		}
	}
	if room, ok := message.Timeline(req.To).Room(); ok {
		item.InRoom = s.roomIndex(room) >= 0
	}
	if !b.gateway.publishes.add(item) {
		b.published(s, req.ClientID, reply.Seq, publishLater())
		return
	}
	b.await(s)
}

func (b *Bucket) published(s *Session, clientID string, seq int32, r Published) {
	body := sendReply{ClientID: clientID, Code: r.Code, Reason: r.Reason}
	if r.Code == 0 {
		body.ID = hex.EncodeToString(r.ID[:])
	}
	b.replyJSON(s, wire.OpSendMsgReply, seq, body)
}
