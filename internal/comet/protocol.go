package comet

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// Packet handles one packet of a client. p aliases the transport's buffer.
func (b *Bucket) Packet(s *Session, p wire.Packet, cookie string) {
	if p.Op != wire.OpHeartbeat {
		b.activeMS = b.nowMS
	}
	switch s.state {
	case opened:
		b.auth(s, p, cookie)
	case live:
		b.gateway.stats.packetIn()
		if s.ver >= uint8(wire.V2) {
			b.alive(s) // any packet keeps a version 2 session; op 2 alone in version 1
		}
		b.handle(s, p)
	}
}

// Malformed closes a session whose bytes break the protocol.
func (b *Bucket) Malformed(s *Session, err error) {
	b.gateway.log.Debug("bad frame", "session", s.id, "error", err)
	b.Close(s, BadFrame)
}

// auth starts the authentication; the answer comes back through the mailbox.
func (b *Bucket) auth(s *Session, p wire.Packet, cookie string) {
	ver := min(max(p.Ver, wire.V1), wire.V2) // an unknown version gets the highest known one
	s.ver = uint8(ver)
	switch {
	case p.Op != wire.OpAuth:
		b.Close(s, NotAuthenticated)
		return
	case b.gateway.draining.Load():
		b.Close(s, Draining)
		return
	}
	s.state = connecting
	s.paused = true
	s.authSeq = p.Seq
	item := ConnectItem{Session: s.id, Token: slices.Clone(p.Body), Cookie: cookie, IP: s.ip, Ver: ver, sinceMS: b.gateway.nowMS()}
	if !b.gateway.connects.add(item) {
		b.Close(s, LogicUnavailable)
	}
}

// connected takes logic's answer.
func (b *Bucket) connected(id uint64, r ConnectResult) {
	s := b.find(id)
	replaced := r.Replaced
	if replaced == id {
		replaced = 0
	}
	if s == nil || s.state != connecting {
		// Its client may be back already: the session that had the key is then
		// the newer one, which a logic that was slow with this one has answered
		// first. It gets the key back.
		if r.Code == 0 {
			b.gateway.disconnects.add(ended{SessionRef{Session: id, Mid: r.Mid, Key: r.Key}, replaced})
		}
		return
	}
	if r.Code == 0 && replaced != 0 {
		b.gateway.Kick([]uint64{replaced}, Replaced)
	}
	if r.Code != 0 {
		why := ReasonOf(r.Code)
		if s.ver >= uint8(wire.V2) {
			b.replyJSON(s, wire.OpAuthReply, s.authSeq, refusal{Code: r.Code, Reason: r.Reason, Reconnect: why.Reconnect()})
		}
		b.Close(s, why)
		return
	}
	s.mid, s.key, s.heartbeatMS = r.Mid, r.Key, max(r.HeartbeatMS, 1000)
	s.accept(r.Accepts)
	if s.ver >= uint8(wire.V2) {
		s.tops = &tops{resume: r.Resume}
	}
	s.state = confirming
	b.releaseHeld(s)
	version := b.enter(s, r)
	b.learn(s, r.Tops)
	if b.gateway.rooms.confirmed(version) {
		b.activate(s)
		return
	}
	// The client has done its part of the handshake, and this wait has an end of
	// its own, which has to come first.
	const slackMS = 1000
	s.deadlineMS = max(s.deadlineMS, b.nowMS+millis(b.gateway.cfg.JoinTimeout)+slackMS)
	b.gateway.rooms.whenConfirmed(version, b.onSession(id, (*Bucket).activate))
}

// enter puts a session into its first rooms; the named one last, so that
// heartbeats count that one. It reports the version to be confirmed, 0 without
// a room.
func (b *Bucket) enter(s *Session, r ConnectResult) (version uint64) {
	for _, key := range r.Rooms {
		if key != r.Room && s.roomIndex(key) < 0 && message.CheckRoomKey(key) == nil {
			version = max(version, b.join(s, key))
		}
	}
	if r.Room != "" {
		version = max(version, b.join(s, r.Room))
	}
	return version
}

// releaseHeld lets pushes that came while logic was asked follow the auth
// reply, those of them that the session accepts.
func (b *Bucket) releaseHeld(s *Session) {
	for i, h := range s.held {
		if i == maxHeld {
			if s.tops != nil {
				raise(&s.tops.inbox, at(h.at))
			}
			break
		}
		if !s.takes(h.op, h.at != nil) {
			b.gateway.stats.filtered()
			continue
		}
		run := b.takePackets()
		run.add(h.op, h.body, h.at)
		if h.at != nil && s.tops != nil {
			raise(&s.tops.inbox, at(h.at))
		}
		b.gateway.stats.outcome(b.push(s, run.encoded(s.form())))
		b.sent = append(b.sent, run)
	}
	s.held = nil
}

// onSession makes a function that runs fn on the loop if the session is still
// there.
func (b *Bucket) onSession(id uint64, fn func(*Bucket, *Session)) func() {
	return func() {
		b.post(func(b *Bucket) {
			if s := b.find(id); s != nil && s.state != closed {
				fn(b, s)
			}
		})
	}
}

// activate answers the auth packet and lets pushes through. What was pushed
// since logic knew the session follows the answer.
func (b *Bucket) activate(s *Session) {
	if s.state != confirming {
		return
	}
	held := s.out.buf
	s.out.buf = nil
	s.state = live
	if s.ver >= uint8(wire.V2) {
		b.replyJSON(s, wire.OpAuthReply, s.authSeq, authReply{
			Session:   strconv.FormatUint(s.id, 16),
			Mid:       s.mid,
			Key:       s.key,
			Ver:       int16(s.ver),
			Heartbeat: s.heartbeatMS / 1000,
			Node:      b.gateway.node.Name,
			Tops:      b.news(s),
		})
	} else {
		b.reply(s, wire.Header{Ver: wire.V1, Op: wire.OpAuthReply, Seq: s.authSeq}, nil)
	}
	if len(held) > 0 && s.state == live {
		s.out.buf = append(s.out.buf, held...)
	}
	b.giveBuffer(held)
	b.alive(s)
	// The rooms are entered: what comes from here on is pushed, or in the page,
	// or both.
	var cursors []timeline.Cursor
	if s.tops != nil {
		cursors, s.tops.resume = s.tops.resume, nil
	}
	if reply := (wire.Header{Op: wire.OpSyncReply}); len(cursors) > 0 && s.state == live {
		if b.startSync(s, cursors, 0, 0, reply) {
			return // answered resumes it
		}
		b.busy(s, reply)
	}
	b.resume(s)
}

func (b *Bucket) alive(s *Session) { s.deadlineMS = b.nowMS + s.heartbeatMS }

func (b *Bucket) resume(s *Session) {
	s.paused = false
	if s.state == live {
		b.wheel.Set(&s.timer, s.deadlineMS)
		s.conn.Resume()
	}
}

// handle answers a packet of a live session (goim-compat 1.6, protocol.md).
func (b *Bucket) handle(s *Session, p wire.Packet) {
	v2 := s.ver >= uint8(wire.V2)
	reply := wire.Header{Ver: p.Ver, Op: p.Op + 1, Seq: p.Seq}
	switch p.Op {
	case wire.OpHeartbeat:
		b.nowMS = b.gateway.nowMS()
		b.alive(s)
		if v2 {
			s.hinted = false
			b.replyJSON(s, reply.Op, p.Seq, heartbeatReply{Online: s.online(), Tops: b.news(s)})
			return
		}
		b.reply(s, reply, binary.BigEndian.AppendUint32(nil, uint32(s.online())))
	case wire.OpChangeRoom:
		b.changeRoom(s, string(p.Body), reply)
	case wire.OpSub:
		if ops, err := wire.ParseOps(p.Body); err == nil {
			s.accept(ops)
		}
		b.reply(s, reply, p.Body)
	case wire.OpUnsub:
		if ops, err := wire.ParseOps(p.Body); err == nil {
			s.refuse(ops)
		}
		b.reply(s, reply, p.Body)
	case wire.OpJoin, wire.OpLeave:
		if v2 {
			b.joinLeave(s, p, reply)
			return
		}
		b.upstream(s, p)
	case wire.OpSendMsg, wire.OpSync, wire.OpAck, wire.OpRead, wire.OpHistory:
		if !v2 {
			b.upstream(s, p)
			return
		}
		switch p.Op {
		case wire.OpSendMsg:
			b.send(s, p, reply)
		case wire.OpSync:
			b.sync(s, p, reply)
		case wire.OpAck:
			b.ack(s, p, reply)
		case wire.OpRead:
			b.read(s, p, reply)
		default:
			b.history(s, p, reply)
		}
	default:
		b.upstream(s, p)
	}
}

// upstream answers application packets from clients as goim does with its
// stock logic, which takes them and does nothing (goim-compat 1.6).
func (b *Bucket) upstream(s *Session, p wire.Packet) {
	b.gateway.stats.upstreamIgnored()
	if s.ver >= uint8(wire.V2) {
		b.replyJSON(s, p.Op, p.Seq, refusal{Code: codeNotSupported, Reason: "not_supported"})
		return
	}
	var body []byte
	switch {
	case p.Op == wire.OpHeartbeatReply:
		body = binary.BigEndian.AppendUint32(nil, uint32(s.online()))
	case p.Op == wire.OpRaw && s.framing == Stream:
		return
	}
	b.reply(s, p.Header, body)
}

// changeRoom leaves every room and joins one; an empty name only leaves. The
// answer echoes the body, also on failure, as goim does.
func (b *Bucket) changeRoom(s *Session, key string, reply wire.Header) {
	if len(key) > message.MaxRoomBytes || !utf8.ValidString(key) { // names travel as text
		b.reply(s, reply, []byte(key))
		return
	}
	if len(s.rooms) == 1 && s.rooms[0].room.key == key {
		b.reply(s, reply, []byte(key))
		return
	}
	b.leaveAll(s)
	if key == "" {
		b.reply(s, reply, nil)
		return
	}
	b.whenConfirmed(s, b.join(s, key), func(b *Bucket, s *Session) { b.reply(s, reply, []byte(key)) })
}

// whenConfirmed runs fn when the jobs know of a join; until then the client's
// next packets wait, so that replies keep the order of the requests.
func (b *Bucket) whenConfirmed(s *Session, version uint64, fn func(*Bucket, *Session)) {
	if b.gateway.rooms.confirmed(version) {
		fn(b, s)
		return
	}
	s.paused = true
	b.gateway.rooms.whenConfirmed(version, b.onSession(s.id, func(b *Bucket, s *Session) {
		fn(b, s)
		if !s.asking {
			b.resume(s)
		}
	}))
}

// Bodies of version 2 control packets.
type (
	authReply struct {
		Session   string    `json:"session"`
		Mid       int64     `json:"mid"`
		Key       string    `json:"key"`
		Ver       int16     `json:"ver"`
		Heartbeat int64     `json:"heartbeat"` // seconds of silence after which the session is closed
		Node      string    `json:"node"`
		Tops      []topBody `json:"tops,omitempty"`
	}
	heartbeatReply struct {
		Online int32     `json:"online"`
		Tops   []topBody `json:"tops,omitempty"` // those that changed since they were told
	}
	refusal struct {
		Code      uint16 `json:"code"`
		Reason    string `json:"reason"`
		Reconnect bool   `json:"reconnect,omitempty"`
	}
	roomsRequest struct {
		Rooms []string `json:"rooms"`
	}
	roomsReply struct {
		Rooms []roomResult `json:"rooms"`
	}
	roomResult struct {
		Room   string `json:"room"`
		OK     bool   `json:"ok"`
		Epoch  uint32 `json:"epoch,omitempty"`
		Top    uint64 `json:"top,omitempty"`
		Code   uint16 `json:"code,omitempty"`
		Reason string `json:"reason,omitempty"`
	}
	byeBody struct {
		Code      uint16 `json:"code"`
		Reason    string `json:"reason"`
		Reconnect bool   `json:"reconnect"`
		RetryMS   int64  `json:"retry_ms,omitempty"`
		Node      string `json:"node"`
	}
)

// Codes inside replies, with the meaning they have in HTTP.
const (
	codeBadRequest   = 400
	codeLimit        = 429
	codeNotSupported = 501
	codeRetry        = 503
)

// joinLeave handles the version 2 ops for many rooms. Every room has its own
// result.
func (b *Bucket) joinLeave(s *Session, p wire.Packet, reply wire.Header) {
	var req roomsRequest
	if err := json.Unmarshal(p.Body, &req); err != nil || len(req.Rooms) == 0 {
		b.replyJSON(s, reply.Op, p.Seq, refusal{Code: codeBadRequest, Reason: `body must be {"rooms":["type://id",...]} with one room or more`})
		return
	}
	// A packet has space for thousands of names, and each costs the loop a look.
	if most := b.gateway.cfg.MaxRooms; len(req.Rooms) > most {
		reason := "body names " + strconv.Itoa(len(req.Rooms)) + " rooms: allowed is at most " + strconv.Itoa(most)
		b.replyJSON(s, reply.Op, p.Seq, refusal{Code: codeBadRequest, Reason: reason})
		return
	}
	var out roomsReply
	var version uint64
	for _, key := range req.Rooms {
		result := roomResult{Room: key, OK: true}
		at := s.roomIndex(key)
		switch {
		case p.Op == wire.OpLeave:
			if at >= 0 {
				b.leave(s, at)
			}
		case at >= 0:
			version = max(version, s.rooms[at].room.count.version)
		case message.CheckRoomKey(key) != nil:
			result = roomResult{Room: key, Code: codeBadRequest, Reason: message.ErrRoomKey.Error()}
		case len(s.rooms) >= b.gateway.cfg.MaxRooms:
			result = roomResult{Room: key, Code: codeLimit, Reason: "at most " + strconv.Itoa(b.gateway.cfg.MaxRooms) + " rooms"}
		default:
			version = max(version, b.join(s, key))
		}
		out.Rooms = append(out.Rooms, result)
	}
	b.whenConfirmed(s, version, func(b *Bucket, s *Session) {
		if p.Op == wire.OpLeave || !b.joinTops(s, reply, out) {
			b.replyJSON(s, reply.Op, reply.Seq, out)
		}
	})
}

// joinTops answers a join with the tops of its rooms, read after the session
// has entered them. False: it was not started.
func (b *Bucket) joinTops(s *Session, reply wire.Header, out roomsReply) bool {
	g := b.gateway
	if g.stored.Load() == storedNo {
		return false
	}
	var tls []message.Timeline
	for i := range out.Rooms {
		if tl := roomTimeline(out.Rooms[i].Room); out.Rooms[i].OK && tl.CanStore() {
			tls = append(tls, tl)
		}
	}
	slices.Sort(tls)
	tls = slices.Compact(tls) // a room may be named twice
	return len(tls) > 0 && b.ask(s, func(ctx context.Context) func(*Bucket, *Session) {
		tops, err := g.tops(ctx, tls)
		if err != nil { // the session is in its rooms all the same; heartbeats tell the tops
			g.askFailed("tops", err)
		}
		return func(b *Bucket, s *Session) {
			b.learn(s, tops)
			for i := range out.Rooms {
				r := &out.Rooms[i]
				if at := s.roomIndex(r.Room); r.OK && at >= 0 {
					m := &s.rooms[at]
					r.Epoch, r.Top, m.told = m.room.top.Epoch, m.room.top.Seq, m.room.top
				}
			}
			b.replyJSON(s, reply.Op, reply.Seq, out)
		}
	})
}

// bye tells the client why the session ends: a packet in version 2, and a
// close code on WebSocket in both.
func (b *Bucket) bye(s *Session, why Reason, code uint16, text string) {
	if s.ver >= uint8(wire.V2) {
		body := byeBody{Code: why.Code(), Reason: why.String(), Reconnect: why.Reconnect(), Node: b.gateway.node.Name}
		if why.Reconnect() {
			// Full jitter, so that the sessions of a node do not come back at once.
			body.RetryMS = 100 + rand.Int64N(max(millis(b.gateway.cfg.DrainWindow), 1000))
		}
		b.replyJSON(s, wire.OpBye, 0, body)
	}
	if s.upgraded && s.state != closed {
		s.out.buf = ws.AppendClose(b.own(s), code, text)
	}
}

// Upgraded tells that the WebSocket handshake of the session is done; answer
// is what the client gets for it. With deflate, pushes go out compressed; what
// answers one client does not, it is small and shared with nobody.
func (b *Bucket) Upgraded(s *Session, answer []byte, deflate bool) {
	s.upgraded = true
	if s.deflate = deflate; deflate {
		b.gateway.deflation.sessions.Inc()
	}
	s.out.buf = append(b.own(s), answer...)
	b.touch(s)
}

// FailWebSocket closes a session that broke RFC 6455, with the code that the
// RFC asks for.
func (b *Bucket) FailWebSocket(s *Session, code uint16, reason string) {
	b.close(s, BadFrame, code, reason)
}

// PeerClosing answers a close frame of the client and ends the session.
func (b *Bucket) PeerClosing(s *Session, code uint16) {
	if s.state == closed {
		return
	}
	s.out.buf = ws.AppendClose(b.own(s), code, "")
	b.flushOne(s)
	if s.state != closed {
		b.end(s, PeerClosed)
		s.conn.Close()
	}
}

func (b *Bucket) replyJSON(s *Session, op wire.Op, seq int32, v any) {
	body, err := json.Marshal(v)
	if err != nil { // plain structs always marshal
		b.gateway.log.Error("control body", "op", op, "error", err)
		return
	}
	b.reply(s, wire.Header{Ver: wire.V2, Op: op, Seq: seq}, body)
}
