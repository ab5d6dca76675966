package clienttest

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/perseid-im/perseid/pkg/wire"
)

// stored is one message of a timeline; its position is its index + 1.
type stored struct {
	op     wire.Op
	id     [16]byte
	sender int64
	body   []byte
}

// epoch of all timelines of a Comet.
const epoch = 1

// Store appends to a timeline, "u:<mid>" or "r:<type>://<id>", and pushes to
// who reads it now and speaks version 2.
func (c *Comet) Store(timeline string, op wire.Op, bodies ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, body := range bodies {
		c.store(timeline, stored{op: op, body: []byte(body)})
	}
}

// Acked is the highest position of a timeline that anybody has acknowledged.
func (c *Comet) Acked(timeline string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked[timeline]
}

func (c *Comet) store(timeline string, m stored) {
	if c.timelines == nil {
		c.timelines, c.acked = map[string][]stored{}, map[string]uint64{}
	}
	binary.BigEndian.PutUint64(m.id[8:], uint64(len(c.timelines[timeline])+1))
	c.timelines[timeline] = append(c.timelines[timeline], m)
	for s := range c.sessions {
		if s.peer.Ver() >= wire.V2 && s.reads(timeline) {
			_ = s.peer.Write(c.positioned(s, timeline, len(c.timelines[timeline]))) // it may have gone
		}
	}
}

func (s *session) reads(timeline string) bool {
	return timeline == s.inbox() || slices.ContainsFunc(s.rooms, func(room string) bool { return timeline == "r:"+room })
}

func (s *session) inbox() string { return "u:" + strconv.FormatInt(s.mid, 10) }

func (c *Comet) positioned(s *session, timeline string, seq int) []byte {
	m := c.timelines[timeline][seq-1]
	at := wire.Position{Seq: uint64(seq), Epoch: epoch, MsgID: m.id, Timeline: timeline, Sender: m.sender}
	if timeline == s.inbox() {
		at.Timeline = ""
	}
	return wire.AppendPositioned(nil, wire.Header{Ver: wire.V2, Op: m.op}, &at, m.body)
}

// tops are the newest positions of what a session reads.
func (c *Comet) tops(s *session) []map[string]any {
	tops := []map[string]any{}
	for timeline, messages := range c.timelines {
		if s.reads(timeline) {
			tops = append(tops, map[string]any{"tl": timeline, "epoch": epoch, "top": len(messages)})
		}
	}
	return tops
}

// upstream answers what is about stored messages.
func (c *Comet) upstream(s *session, request wire.Packet) error {
	switch request.Op {
	case wire.OpSync:
		return c.sync(s, request)
	case wire.OpAck:
		return c.ack(s, request)
	}
	return c.send(s, request)
}

type position struct {
	Timeline string `json:"tl"`
	After    int    `json:"after"`
	Seq      uint64 `json:"seq"`
}

// sync answers op 18 with all there is.
func (c *Comet) sync(s *session, request wire.Packet) error {
	var body struct{ Cursors []position }
	if err := json.Unmarshal(request.Body, &body); err != nil {
		return s.peer.ReplyJSON(request, map[string]any{"code": 400, "reason": "cursors"})
	}
	pages := []map[string]any{}
	for _, at := range body.Cursors {
		if !s.reads(at.Timeline) {
			pages = append(pages, map[string]any{"tl": at.Timeline, "code": 403, "reason": "not yours"})
			continue
		}
		top := len(c.timelines[at.Timeline])
		for seq := max(at.After, 0) + 1; seq <= top; seq++ {
			if err := s.peer.Write(c.positioned(s, at.Timeline, seq)); err != nil {
				return err
			}
		}
		pages = append(pages, map[string]any{"tl": at.Timeline, "epoch": epoch, "next": top, "top": top})
	}
	return s.peer.ReplyJSON(request, map[string]any{"pages": pages})
}

func (c *Comet) ack(s *session, request wire.Packet) error {
	var body struct {
		Acks  []position
		Reply bool
	}
	if err := json.Unmarshal(request.Body, &body); err != nil {
		return s.peer.ReplyJSON(request, map[string]any{"code": 400, "reason": "acks"})
	}
	cursors := []map[string]any{}
	for _, a := range body.Acks {
		if c.acked != nil {
			c.acked[a.Timeline] = max(c.acked[a.Timeline], a.Seq)
		}
		cursors = append(cursors, map[string]any{"tl": a.Timeline, "epoch": epoch, "acked": c.acked[a.Timeline]})
	}
	if !body.Reply {
		return nil
	}
	return s.peer.ReplyJSON(request, map[string]any{"cursors": cursors})
}

// send takes a message of a client. It does not look for repeats.
func (c *Comet) send(s *session, request wire.Packet) error {
	var head struct {
		To       string  `json:"to"`
		Op       wire.Op `json:"op"`
		ClientID string  `json:"client_msg_id"`
	}
	n := 0
	if len(request.Body) >= 2 {
		n = 2 + int(binary.BigEndian.Uint16(request.Body))
	}
	if n < 2 || n > len(request.Body) || json.Unmarshal(request.Body[2:n], &head) != nil {
		return s.peer.ReplyJSON(request, map[string]any{"code": 400, "reason": "body"})
	}
	c.store(head.To, stored{op: head.Op, sender: s.mid, body: slices.Clone(request.Body[n:])})
	last := c.timelines[head.To][len(c.timelines[head.To])-1]
	return s.peer.ReplyJSON(request, map[string]any{"client_msg_id": head.ClientID, "msg_id": hex.EncodeToString(last.id[:])})
}
