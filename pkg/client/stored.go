package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/perseid-im/perseid/pkg/wire"
)

// Outgoing is a message to a user or a room.
type Outgoing struct {
	To   string // "u:<mid>" or "r:<type>://<id>"
	Op   wire.Op
	Body []byte
	// ClientID names the message: the server takes two with one name for one.
	// Client.Publish makes one if it is empty.
	ClientID string
	// Kind is "chat" (the default) or "signal", which is not stored.
	Kind string
	// Flags override those of the kind: store, unread, offline_push,
	// sender_sync, urgent.
	Flags map[string]bool
}

// Publish sends a message once and returns its id (32 hexadecimal digits) when
// the server has accepted it: it is kept, whatever happens. After an error
// other than a [RefusedError] the server may have accepted it all the same;
// send it again with the same ClientID. Client.Publish does.
func (c *Conn) Publish(ctx context.Context, m Outgoing) (id string, err error) {
	if c.ver < wire.V2 {
		return "", fmt.Errorf("client: publish: %w", ErrVersion)
	}
	head, err := json.Marshal(struct {
		To       string          `json:"to"`
		Op       wire.Op         `json:"op"`
		ClientID string          `json:"client_msg_id,omitempty"`
		Kind     string          `json:"kind,omitempty"`
		Flags    map[string]bool `json:"flags,omitempty"`
	}{m.To, m.Op, m.ClientID, m.Kind, m.Flags})
	if err != nil {
		return "", fmt.Errorf("client: publish: %w", err)
	}
	if len(head) > 0xffff {
		return "", fmt.Errorf("client: publish: %w: %d bytes of names, allowed is 65535", errTooLarge, len(head))
	}
	body := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(head)+len(m.Body)), uint16(len(head)))
	body = append(append(body, head...), m.Body...)
	var reply struct {
		ID string `json:"msg_id"`
	}
	if err := c.ask(ctx, wire.OpSendMsg, body, &reply); err != nil {
		return "", err
	}
	return reply.ID, nil
}

// ask sends a request of version 2 and reads the JSON of its reply.
func (c *Conn) ask(ctx context.Context, op wire.Op, body []byte, reply any) error {
	if c.ver < wire.V2 {
		return fmt.Errorf("client: %s: %w", opName(op), ErrVersion)
	}
	answer, err := c.request(ctx, op, body)
	if err != nil {
		return err
	}
	var refusal refusalBody
	if err := json.Unmarshal(answer, &refusal); err != nil {
		return fmt.Errorf("client: %s reply: %w", opName(op), err)
	}
	if err := refusal.refused(op); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if err := json.Unmarshal(answer, reply); err != nil {
		return fmt.Errorf("client: %s reply: %w", opName(op), err)
	}
	return nil
}

type ackItem struct {
	Timeline string `json:"tl"`
	Epoch    uint32 `json:"epoch"`
	Seq      uint64 `json:"seq"`
}

type ackBody struct {
	Acks  []ackItem `json:"acks"`
	Reply bool      `json:"reply,omitempty"`
}

// Ack tells the server that everything of a timeline up to at was handled. Run
// does it by itself; see Config.NoAck. It does not wait for an answer.
func (c *Conn) Ack(timeline string, at Cursor) error {
	if c.ver < wire.V2 {
		return fmt.Errorf("client: ack: %w", ErrVersion)
	}
	return c.sendJSON(wire.OpAck, ackBody{Acks: []ackItem{{timeline, at.Epoch, at.Seq}}})
}

// Standing is where a user stands in a timeline, over all devices.
type Standing struct {
	Timeline string
	Epoch    uint32
	Acked    uint64
	Read     uint64
	Unread   int // ends at 1000
}

// Read tells that the user has read everything up to at. All sessions of the
// user get a push with op [wire.OpReadReply] and {"tl","epoch","seq"}.
func (c *Conn) Read(ctx context.Context, timeline string, at Cursor) (Standing, error) {
	body, err := json.Marshal(ackItem{timeline, at.Epoch, at.Seq})
	if err != nil {
		return Standing{}, fmt.Errorf("client: read: %w", err)
	}
	var reply standing
	if err := c.ask(ctx, wire.OpRead, body, &reply); err != nil {
		return Standing{}, err
	}
	return Standing(reply), nil
}

// At says which part of a timeline Conn.History gives: at most one of the
// fields is set; none means the newest messages.
type At struct{ Before, After, Around uint64 }

// History reads a part of a timeline, oldest message first, up to 200. more
// tells that there are messages behind the last one.
func (c *Conn) History(ctx context.Context, timeline string, at At, limit int) (messages []Message, more bool, err error) {
	req := map[string]any{"tl": timeline, "limit": max(limit, 0)}
	for name, seq := range map[string]uint64{"before": at.Before, "after": at.After, "around": at.Around} {
		if seq > 0 {
			req[name] = seq
		}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, false, fmt.Errorf("client: history: %w", err)
	}
	if c.ver < wire.V2 {
		return nil, false, fmt.Errorf("client: history: %w", ErrVersion)
	}
	waiting := &call{op: wire.OpHistoryReply, reply: make(chan []byte, 1)}
	answer, err := c.callWith(ctx, wire.OpHistory, body, waiting)
	if err != nil {
		return nil, false, fmt.Errorf("client: history: %w", err)
	}
	var reply struct {
		refusalBody
		Pages []page `json:"pages"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return nil, false, fmt.Errorf("client: history reply: %w", err)
	}
	if err := reply.refused(wire.OpHistory); err != nil {
		return nil, false, fmt.Errorf("client: %w", err)
	}
	if len(reply.Pages) != 1 {
		return nil, false, fmt.Errorf("client: history: the reply has %d pages instead of 1", len(reply.Pages))
	}
	p := reply.Pages[0]
	if err := (refusalBody{Code: p.Code, Reason: p.Reason}).refused(wire.OpHistory); err != nil {
		return nil, false, fmt.Errorf("client: %w", err)
	}
	return waiting.messages, p.HasMore, nil
}

// sendJSON sends a packet that nobody waits for the reply of.
func (c *Conn) sendJSON(op wire.Op, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("client: %s: %w", opName(op), err)
	}
	if err := c.send(wire.Header{Ver: c.ver, Op: op, Seq: c.nextSeq()}, body); err != nil {
		return fmt.Errorf("client: %s: %w", opName(op), err)
	}
	return nil
}

// post sends a request whose reply comes out among the messages.
func (c *Conn) post(op wire.Op, v any, became func([]byte) *event) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("client: %s: %w", opName(op), err)
	}
	c.mu.Lock()
	seq := c.advance()
	c.pending[seq] = &call{op: op + 1, event: became}
	c.mu.Unlock()
	if err := c.send(wire.Header{Ver: c.ver, Op: op, Seq: seq}, body); err != nil {
		return fmt.Errorf("client: %s: %w", opName(op), err)
	}
	return nil
}

func syncEvent(body []byte) *event {
	var reply struct {
		refusalBody
		Pages []page `json:"pages"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return &event{synced: true, failed: 500}
	}
	return &event{synced: true, pages: reply.Pages, failed: reply.Code}
}

func standingsEvent(body []byte) *event {
	var reply struct {
		refusalBody
		Cursors []standing `json:"cursors"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return &event{standings: true, failed: 500}
	}
	return &event{standings: true, stand: reply.Cursors, failed: reply.Code}
}
