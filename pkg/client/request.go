package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/perseid-im/perseid/pkg/wire"
)

// RoomResult is what became of one room of a [Conn.Join] or [Conn.Leave].
type RoomResult struct {
	Room   string `json:"room"`
	OK     bool   `json:"ok"`
	Code   int    `json:"code"`   // if not OK: 400 not a room, 429 too many rooms
	Reason string `json:"reason"` // if not OK
	Epoch  uint32 `json:"epoch"`  // of Top
	Top    uint64 `json:"top"`    // newest position of the room's timeline; 0 = none, or not known
}

// refusalBody is the part that refusals of version 2 have in common.
type refusalBody struct {
	Code      int    `json:"code"`
	Reason    string `json:"reason"`
	Reconnect bool   `json:"reconnect"`
}

func (r refusalBody) refused(op wire.Op) error {
	if r.Code == 0 {
		return nil
	}
	return &RefusedError{Op: op, Code: r.Code, Reason: r.Reason, Reconnect: r.Reconnect}
}

// Heartbeat asks for the number of connections in the session's room (in its
// last one in version 2). The connection sends heartbeats on its own; this one
// is for who wants to know the number, or whether the server answers.
func (c *Conn) Heartbeat(ctx context.Context) (online int, err error) {
	body, err := c.request(ctx, wire.OpHeartbeat, nil)
	if err != nil {
		return 0, err
	}
	if c.ver < wire.V2 {
		if len(body) != 4 {
			return 0, fmt.Errorf("client: heartbeat: the reply has %d bytes instead of 4", len(body))
		}
		return int(int32(binary.BigEndian.Uint32(body))), nil
	}
	var reply struct {
		refusalBody
		Online int `json:"online"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return 0, fmt.Errorf("client: heartbeat reply: %w", err)
	}
	if err := reply.refused(wire.OpHeartbeat); err != nil {
		return 0, fmt.Errorf("client: %w", err)
	}
	return reply.Online, nil
}

// ChangeRoom leaves all rooms and enters one; an empty room only leaves. The
// protocol has no answer for a room that the server did not take; Join tells.
func (c *Conn) ChangeRoom(ctx context.Context, room string) error {
	_, err := c.request(ctx, wire.OpChangeRoom, []byte(room))
	return err
}

// Sub adds operations to those that the session receives by key, mid and
// broadcast. Rooms send their members every operation.
func (c *Conn) Sub(ctx context.Context, ops ...wire.Op) error {
	return c.accepts(ctx, wire.OpSub, ops)
}

// Unsub takes operations away again.
func (c *Conn) Unsub(ctx context.Context, ops ...wire.Op) error {
	return c.accepts(ctx, wire.OpUnsub, ops)
}

func (c *Conn) accepts(ctx context.Context, op wire.Op, ops []wire.Op) error {
	if len(ops) == 0 {
		return nil
	}
	var body []byte
	for i, o := range ops {
		if i > 0 {
			body = append(body, ',')
		}
		body = strconv.AppendInt(body, int64(o), 10)
	}
	_, err := c.request(ctx, op, body)
	return err
}

// Join enters rooms, besides those the session is in (version 2). The results
// are in the order of the rooms; one that is not OK is no error. More rooms at
// once than a session can be in (128 by default) are, and none is entered.
func (c *Conn) Join(ctx context.Context, rooms ...string) ([]RoomResult, error) {
	return c.rooms(ctx, wire.OpJoin, rooms)
}

// Leave leaves rooms (version 2), as many at once as Join takes.
func (c *Conn) Leave(ctx context.Context, rooms ...string) ([]RoomResult, error) {
	return c.rooms(ctx, wire.OpLeave, rooms)
}

func (c *Conn) rooms(ctx context.Context, op wire.Op, rooms []string) ([]RoomResult, error) {
	if c.ver < wire.V2 {
		return nil, fmt.Errorf("client: %s: %w", opName(op), ErrVersion)
	}
	if len(rooms) == 0 {
		return nil, nil
	}
	body, err := json.Marshal(struct {
		Rooms []string `json:"rooms"`
	}{rooms})
	if err != nil {
		return nil, fmt.Errorf("client: %s: %w", opName(op), err)
	}
	if body, err = c.request(ctx, op, body); err != nil {
		return nil, err
	}
	var reply struct {
		refusalBody
		Rooms []RoomResult `json:"rooms"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("client: %s reply: %w", opName(op), err)
	}
	if err := reply.refused(op); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if len(reply.Rooms) != len(rooms) {
		return nil, fmt.Errorf("client: %s: the reply has %d rooms instead of %d", opName(op), len(reply.Rooms), len(rooms))
	}
	if op == wire.OpJoin {
		c.entered(reply.Rooms)
	}
	return reply.Rooms, nil
}

// entered tells who follows timelines of rooms that were joined.
func (c *Conn) entered(rooms []RoomResult) {
	var e event
	for _, r := range rooms {
		if !r.OK {
			continue
		}
		e.joined = append(e.joined, roomTimeline(r.Room))
		if r.Top > 0 {
			e.tops = append(e.tops, top{roomTimeline(r.Room), r.Epoch, r.Top})
		}
	}
	if c.follows && len(e.joined) > 0 {
		c.queue.force(Message{event: &e})
	}
}

func (c *Conn) request(ctx context.Context, op wire.Op, body []byte) ([]byte, error) {
	reply, err := c.call(ctx, op, body)
	if err != nil {
		return nil, fmt.Errorf("client: %s: %w", opName(op), err)
	}
	return reply, nil
}
