package logic

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"unicode/utf8"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/stream"
)

// State is what was known about a target when its push was accepted.
type State string

// The states of a target.
const (
	Online  State = "online"
	Offline State = "offline"
	Unknown State = "unknown" // presence did not answer in time, or cannot tell
)

// TargetState is one distinct target of a push.
type TargetState struct {
	Target message.Target
	State  State
}

// Accept makes a message durable for all targets and returns its id. The
// error is a *Refusal, ErrDraining or ErrLogAway (wrapped). The log may keep
// body, which nobody may write to any more.
func (c *Core) Accept(ctx context.Context, op int32, flags message.Flags, body []byte, targets []message.Target) (message.ID, error) {
	id, _, err := c.accept(ctx, op, flags, body, targets, false)
	return id, err
}

// Push is Accept, and says for each distinct target, in the order of the
// request, whether somebody was there. What it does not learn in time is
// Unknown; that never delays or fails the push beyond the state deadline.
func (c *Core) Push(ctx context.Context, op int32, flags message.Flags, body []byte, targets []message.Target) (message.ID, []TargetState, error) {
	return c.accept(ctx, op, flags, body, targets, true)
}

func (c *Core) accept(ctx context.Context, op int32, flags message.Flags, body []byte, targets []message.Target, states bool) (message.ID, []TargetState, error) {
	id, known, err := c.appendOne(ctx, op, flags, body, targets, states)
	c.metrics.accept.Inc(acceptResult(err))
	return id, known, err
}

func (c *Core) appendOne(ctx context.Context, op int32, flags message.Flags, body []byte, targets []message.Target, states bool) (message.ID, []TargetState, error) {
	if c.draining.Load() {
		return message.ID{}, nil, ErrDraining
	}
	targets, err := c.check(flags, body, targets)
	if err != nil {
		return message.ID{}, nil, err
	}
	nowMS := c.now().UnixMilli()
	id, err := message.NewID(nowMS, c.random)
	if err != nil {
		return message.ID{}, nil, fmt.Errorf("accept: %w", err)
	}

	// States are read beside the append: a slow presence costs no time unless
	// it is slower than the log.
	var known chan []TargetState
	if states {
		known = make(chan []TargetState, 1)
		go func() { known <- c.safeStates(ctx, targets) }()
	}
	m := message.Message{ID: id, Op: op, Flags: flags, AcceptedMS: nowMS, Body: body}
	err = c.appendWithin(ctx, m, targets)
	var result []TargetState
	if states {
		result = <-known // bounded by the state deadline
	}
	switch {
	case errors.Is(err, stream.ErrTooLarge):
		return message.ID{}, nil, &Refusal{TooLarge, err.Error()}
	case err != nil:
		return message.ID{}, nil, fmt.Errorf("accept %v: %w (%w)", id, ErrLogAway, err)
	}
	c.announce(ctx, id, targets)
	return id, result, nil
}

func (c *Core) appendWithin(ctx context.Context, m message.Message, targets []message.Target) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AppendTimeout)
	defer cancel()
	return c.log.Append(ctx, m, targets)
}

// check answers the distinct targets in their order, or a *Refusal.
func (c *Core) check(flags message.Flags, body []byte, targets []message.Target) ([]message.Target, error) {
	if flags&message.Store != 0 {
		return nil, &Refusal{NotSupported, "store: messages cannot be stored yet, only pushed to who is online"}
	}
	if len(body) > c.cfg.MaxBodyBytes {
		return nil, &Refusal{TooLarge, fmt.Sprintf("body of %d bytes: at most %d", len(body), c.cfg.MaxBodyBytes)}
	}
	if len(targets) == 0 {
		return nil, &Refusal{NoTargets, "no targets given: at least one"}
	}
	if len(targets) > c.cfg.MaxTargets {
		return nil, &Refusal{TooManyTargets, fmt.Sprintf("%d targets: at most %d in one push", len(targets), c.cfg.MaxTargets)}
	}
	seen := make(map[message.Target]struct{}, len(targets))
	distinct := make([]message.Target, 0, len(targets))
	for i, t := range targets {
		if err := CheckTarget(t); err != nil {
			return nil, &Refusal{BadTarget, fmt.Sprintf("target %d: %v", i, err)}
		}
		// Two paces of one broadcast are one target.
		identity := t
		identity.Speed = 0
		if _, again := seen[identity]; again {
			continue
		}
		seen[identity] = struct{}{}
		distinct = append(distinct, t)
	}
	return distinct, nil
}

// MaxBodyBytes is the largest body that a push can have.
func (c *Core) MaxBodyBytes() int { return c.cfg.MaxBodyBytes }

// CheckTarget tells whether a session can have this name at all.
func CheckTarget(t message.Target) error {
	switch t.Kind {
	case message.Key:
		return checkKey(t.Name)
	case message.User:
		if t.Mid <= 0 {
			return errors.New("mid: a user has a number of 1 or more")
		}
	case message.Room:
		return checkRoom(t.Name)
	case message.All:
		if t.Speed < 0 {
			return errors.New("speed: 0 (no limit) or more messages per second")
		}
	default:
		return errors.New("kind: one of key, mid, room and all")
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > message.MaxKeyBytes || !utf8.ValidString(key) {
		return fmt.Errorf("key: 1 to %d bytes of UTF-8", message.MaxKeyBytes)
	}
	return nil
}

func checkRoom(roomKey string) error {
	if err := message.CheckRoomKey(roomKey); err != nil {
		return fmt.Errorf("room: %w", err)
	}
	if !utf8.ValidString(roomKey) {
		return errors.New("room: UTF-8")
	}
	return nil
}

// safeStates keeps a panic in its goroutine from ending the process; the
// transports catch only those in theirs.
func (c *Core) safeStates(ctx context.Context, targets []message.Target) (result []TargetState) {
	defer func() {
		if p := recover(); p != nil {
			c.logger.Error("panic while reading states", "panic", p, "stack", string(debug.Stack()))
			result = unknown(targets)
		}
	}()
	return c.states(ctx, targets)
}

func unknown(targets []message.Target) []TargetState {
	result := make([]TargetState, len(targets))
	for i, t := range targets {
		result[i] = TargetState{t, Unknown}
	}
	return result
}

// states tells what is known about targets, within the state deadline.
func (c *Core) states(ctx context.Context, targets []message.Target) []TargetState {
	result := unknown(targets)
	var q presence.Query
	for i, t := range targets {
		switch t.Kind {
		case message.Key:
			q.Keys = append(q.Keys, t.Name)
		case message.User:
			q.Mids = append(q.Mids, t.Mid)
		case message.Room, message.All:
			if c.occupied(t) {
				result[i].State = Online
			}
		}
	}
	if len(q.Keys)+len(q.Mids) == 0 {
		return result
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.StateTimeout)
	defer cancel()
	located, err := c.presence.Locate(ctx, []presence.Query{q})
	if err != nil || len(located.Results) != 1 {
		c.metrics.presence.Inc(forState)
		return result
	}
	here := make([]bool, len(q.Keys)+len(q.Mids))
	for _, at := range located.Results[0] {
		if at.Target >= 0 && at.Target < len(here) {
			here[at.Target] = true
		}
	}
	key, mid := 0, len(q.Keys)
	for i := range result {
		n := &key
		switch result[i].Target.Kind {
		case message.Key:
		case message.User:
			n = &mid
		default:
			continue
		}
		result[i].State = Offline
		if here[*n] {
			result[i].State = Online
		}
		*n++
	}
	return result
}

// occupied tells whether a fresh snapshot has somebody in the target. A zero
// is not trusted: the counts are behind by their interval.
func (c *Core) occupied(t message.Target) bool {
	s := c.snapshot.Load()
	if t.Kind == message.All {
		return s.conns > 0 && c.now().Sub(s.nodesAt) <= staleAfter(c.cfg.NodesInterval)
	}
	return s.rooms[t.Name] > 0 && c.now().Sub(s.roomsAt) <= staleAfter(c.cfg.OnlineInterval)
}
