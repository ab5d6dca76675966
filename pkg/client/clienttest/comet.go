package clienttest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Comet is a node that believes every client, as goim does.
type Comet struct {
	*Server
	heartbeat int64 // seconds

	mu       sync.Mutex
	last     int // number of the last session
	sessions map[*session]struct{}
	// Stored messages by timeline, and what was acknowledged.
	timelines map[string][]stored
	acked     map[string]uint64
}

// session is one client that is in.
type session struct {
	peer    *Peer
	mid     int64
	key     string
	rooms   []string
	accepts map[wire.Op]bool
}

// NewComet starts a node that tells clients to be heard every heartbeat
// seconds.
func NewComet(heartbeat int64) *Comet {
	c := &Comet{heartbeat: heartbeat, sessions: map[*session]struct{}{}}
	c.Server = Serve(c.serve)
	return c
}

// PushRoom sends to the members of a room and returns how many there are.
func (c *Comet) PushRoom(room string, op wire.Op, bodies ...string) int {
	return c.push(op, bodies, func(s *session) bool { return slices.Contains(s.rooms, room) })
}

// PushKey sends to the connection with a key, if it accepts op.
func (c *Comet) PushKey(key string, op wire.Op, bodies ...string) int {
	return c.push(op, bodies, func(s *session) bool { return s.key == key && s.accepts[op] })
}

// PushMid sends to the connections of a user that accept op.
func (c *Comet) PushMid(mid int64, op wire.Op, bodies ...string) int {
	return c.push(op, bodies, func(s *session) bool { return s.mid == mid && s.accepts[op] })
}

// PushAll sends to everybody who accepts op.
func (c *Comet) PushAll(op wire.Op, bodies ...string) int {
	return c.push(op, bodies, func(s *session) bool { return s.accepts[op] })
}

func (c *Comet) push(op wire.Op, bodies []string, to func(*session) bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for s := range c.sessions {
		if to(s) && s.peer.Push(op, bodies...) == nil {
			n++
		}
	}
	return n
}

// Bye ends all sessions.
func (c *Comet) Bye(bye Bye) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.sessions {
		_ = s.peer.Bye(bye) // it may have gone first
	}
}

func (c *Comet) serve(p *Peer) {
	auth, err := p.Next()
	if err != nil || auth.Op != wire.OpAuth {
		return
	}
	s, err := c.enter(p, auth)
	if err != nil {
		return
	}
	defer func() {
		c.mu.Lock()
		delete(c.sessions, s)
		c.mu.Unlock()
	}()
	for {
		request, err := p.Next()
		if err != nil || c.answer(s, request) != nil {
			return
		}
	}
}

func (c *Comet) enter(p *Peer, auth wire.Packet) (*session, error) {
	var token struct {
		Mid     int64     `json:"mid"`
		Key     string    `json:"key"`
		Room    string    `json:"room_id"`
		Accepts []wire.Op `json:"accepts"`
	}
	if err := json.Unmarshal(auth.Body, &token); err != nil {
		return nil, c.refuse(p, auth, err)
	}
	s := &session{peer: p, mid: token.Mid, key: token.Key, accepts: map[wire.Op]bool{}}
	for _, op := range token.Accepts {
		s.accepts[op] = true
	}
	if token.Room != "" {
		s.rooms = []string{token.Room}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	if s.key == "" {
		s.key = fmt.Sprintf("key-%d", c.last)
	}
	c.sessions[s] = struct{}{}
	if p.Ver() < wire.V2 {
		return s, p.Reply(auth, nil)
	}
	return s, p.ReplyJSON(auth, map[string]any{
		"session": fmt.Sprintf("%x", c.last), "mid": s.mid, "key": s.key, "ver": wire.V2, "heartbeat": c.heartbeat, "node": "comet-test",
		"tops": c.tops(s),
	})
}

func (c *Comet) refuse(p *Peer, auth wire.Packet, why error) error {
	if p.Ver() >= wire.V2 {
		if err := p.ReplyJSON(auth, map[string]any{"code": 3500, "reason": "token: a JSON object"}); err != nil {
			return err
		}
	}
	return why
}

func (c *Comet) answer(s *session, request wire.Packet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch request.Op {
	case wire.OpHeartbeat:
		if s.peer.Ver() < wire.V2 {
			return s.peer.Reply(request, binary.BigEndian.AppendUint32(nil, uint32(c.online(s))))
		}
		return s.peer.ReplyJSON(request, map[string]any{"online": c.online(s), "tops": c.tops(s)})
	case wire.OpSync, wire.OpAck, wire.OpSendMsg:
		if s.peer.Ver() >= wire.V2 {
			return c.upstream(s, request)
		}
	case wire.OpChangeRoom:
		s.rooms = nil
		if len(request.Body) > 0 {
			s.rooms = []string{string(request.Body)}
		}
	case wire.OpSub, wire.OpUnsub:
		if ops, err := wire.ParseOps(request.Body); err == nil {
			for _, op := range ops {
				s.accepts[op] = request.Op == wire.OpSub
			}
		}
	case wire.OpJoin, wire.OpLeave:
		return c.rooms(s, request)
	}
	return s.peer.Reply(request, request.Body)
}

func (c *Comet) rooms(s *session, request wire.Packet) error {
	var body struct {
		Rooms []string `json:"rooms"`
	}
	if err := json.Unmarshal(request.Body, &body); err != nil || len(body.Rooms) == 0 {
		return s.peer.ReplyJSON(request, map[string]any{"code": 400, "reason": "rooms: one or more"})
	}
	results := []map[string]any{}
	for _, room := range body.Rooms {
		s.rooms = slices.DeleteFunc(s.rooms, func(r string) bool { return r == room })
		switch typ, id, ok := strings.Cut(room, "://"); {
		case request.Op == wire.OpJoin && (!ok || typ == "" || id == ""):
			results = append(results, map[string]any{"room": room, "ok": false, "code": 400, "reason": "a room is type://id"})
			continue
		case request.Op == wire.OpJoin:
			s.rooms = append(s.rooms, room)
		}
		results = append(results, map[string]any{"room": room, "ok": true})
	}
	return s.peer.ReplyJSON(request, map[string]any{"rooms": results})
}

// online counts the members of the session's first room.
func (c *Comet) online(s *session) int {
	n := 0
	for other := range c.sessions {
		if len(s.rooms) > 0 && slices.Contains(other.rooms, s.rooms[0]) {
			n++
		}
	}
	return n
}
