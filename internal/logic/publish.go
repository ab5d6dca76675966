package logic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/pkg/wire"
)

// Publishing is a message that a session wants to send.
type Publishing struct {
	Mid      int64
	To       message.Timeline // inbox of a user, or a room
	InRoom   bool             // the session is in the room
	Kind     message.Kind     // None = Chat
	Op       int32
	ClientID string        // a repeat with the same one is the same message; "" = no repeats
	Flags    message.Flags // of FlagsSet
	FlagsSet message.Flags // those that the session decides; the others are the kind's
	Payload  []byte
}

// Published is what became of it.
type Published struct {
	Problem
	ID message.ID
}

// Policy decides which users may send what to whom. A *Refusal or an error
// that wraps timeline.ErrForbidden is told to the session; any other error
// means "could not be decided".
type Policy interface {
	MayPublish(ctx context.Context, p Publishing) error
}

// MembersPolicy lets everybody write to the inbox of everybody else, and to
// rooms that they are in or are members of.
type MembersPolicy struct{ Timelines Timelines } // nil: no memberships

var _ Policy = MembersPolicy{}

// MayPublish implements Policy.
func (p MembersPolicy) MayPublish(ctx context.Context, m Publishing) error {
	if m.To == message.Inbox(m.Mid) {
		return &Refusal{BadTarget, "to: another user than oneself"}
	}
	if _, room := m.To.Room(); !room || m.InRoom {
		return nil
	}
	if p.Timelines == nil {
		return timeline.ErrForbidden
	}
	_, err := p.Timelines.Member(ctx, m.To, m.Mid)
	if errors.Is(err, timeline.ErrNotFound) || errors.Is(err, timeline.ErrNoArchive) {
		return timeline.ErrForbidden
	}
	return err
}

// Publish accepts messages of sessions; the results are parallel to the items.
// The items are accepted at the same time: a session has one under way at
// most, so that its messages keep their order.
func (c *Core) Publish(ctx context.Context, items []Publishing) []Published {
	results := make([]Published, len(items))
	var all sync.WaitGroup
	for i := range items {
		all.Go(func() { results[i] = c.publish(ctx, items[i]) })
	}
	all.Wait()
	return results
}

func (c *Core) publish(ctx context.Context, p Publishing) (result Published) {
	defer func() {
		if v := recover(); v != nil { // it would end the process: this is a goroutine of its own
			c.logger.Error("panic while publishing", "panic", v, "stack", string(debug.Stack()))
			result = Published{Problem: Problem{CodeRetry, "try again later"}}
		}
	}()
	m, err := c.publishOne(ctx, p)
	if err != nil {
		problem := ProblemOf(err)
		if problem.Code == CodeRetry {
			c.storms.Warn("publish", "a session's message was not accepted", slog.Any("error", err))
		}
		return Published{Problem: problem}
	}
	if c.upstream != nil {
		c.upstream.Add(UpstreamMessage{To: p.To, Message: m})
	}
	return Published{ID: m.ID}
}

func (c *Core) publishOne(ctx context.Context, p Publishing) (message.Message, error) {
	target, err := publishTarget(p.To)
	switch {
	case err != nil:
		return message.Message{}, err
	case p.Mid <= 0:
		return message.Message{}, timeline.ErrForbidden
	case p.Op < wire.MinAppOp:
		return message.Message{}, &Refusal{BadField, fmt.Sprintf("op = %d: %d or more", p.Op, wire.MinAppOp)}
	case p.Kind != message.None && p.Kind != message.Chat && p.Kind != message.Signal:
		return message.Message{}, &Refusal{BadField, "kind: chat or signal"}
	case p.FlagsSet&^(message.Store|message.Unread|message.OfflinePush|message.SenderSync|message.Urgent) != 0:
		return message.Message{}, &Refusal{BadFlags, "flags: store, unread, offline_push, sender_sync and urgent"}
	}
	if p.Kind == message.None {
		p.Kind = message.Chat
	}
	if err := c.mayPublish(ctx, p); err != nil {
		return message.Message{}, fmt.Errorf("policy: %w", err)
	}
	m := message.Message{Op: p.Op, Kind: p.Kind, Sender: p.Mid, ClientID: p.ClientID, Body: p.Payload}
	if m.Flags, err = c.ResolveFlags(p.Kind, p.Flags, p.FlagsSet, target); err != nil {
		return message.Message{}, err
	}
	if p.ClientID != "" {
		m.ID = message.DeriveID(fmt.Sprintf("c:%d", p.Mid), p.ClientID)
	}
	return c.AcceptMessage(ctx, m, []message.Target{target})
}

func (c *Core) mayPublish(ctx context.Context, p Publishing) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.TimelineTimeout)
	defer cancel()
	return c.policy.MayPublish(ctx, p)
}

// publishTarget is the target that a timeline is of. Pushes to all are not for
// users.
func publishTarget(tl message.Timeline) (message.Target, error) {
	if room, ok := tl.Room(); ok && tl != message.AllTimeline {
		return message.ToRoom(room), nil
	}
	if mid, ok := tl.Mid(); ok {
		return message.ToUser(mid), nil
	}
	return message.Target{}, &Refusal{BadTarget, "to: u:<mid> or r:<type>://<id>"}
}
