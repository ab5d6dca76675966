package logic

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"unicode/utf8"

	"github.com/perseid-im/perseid/internal/failpoint"
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

// Accept is AcceptMessage for a message of no kind from a backend. The log may
// keep body, which nobody may write to any more.
func (c *Core) Accept(ctx context.Context, op int32, flags message.Flags, body []byte, targets []message.Target) (message.ID, error) {
	m, err := c.AcceptMessage(ctx, message.Message{Op: op, Flags: flags, Body: body}, targets)
	return m.ID, err
}

// AcceptMessage makes a message durable for all targets and returns it as it
// was accepted: with a new ID if it had none, and the time. Its flags are
// those of every target, as ResolveFlags gives them; with SenderSync the inbox
// of the sender is a target more. The error is a *Refusal, ErrDraining or
// ErrLogAway (wrapped); after ErrLogAway some targets may have it, and to
// accept the same ID again brings it to the others.
func (c *Core) AcceptMessage(ctx context.Context, m message.Message, targets []message.Target) (message.Message, error) {
	m, _, err := c.accept(ctx, m, targets, terms{})
	return m, err
}

// share is the targets of a message that get it with the same flags.
type share struct {
	flags   message.Flags
	targets []message.Target
}

// terms are how a message is accepted.
type terms struct {
	// flagsOf gives the flags for a target, or a *Refusal; nil: the message has
	// them already.
	flagsOf func(message.Target) (message.Flags, error)
	// last is asked when nothing else can be refused; nil = nobody.
	last func(context.Context) error
	// states: it is said for each distinct target, in the order of the request,
	// whether somebody was there. What is not learned in time is Unknown; that
	// never delays or fails the push beyond the state deadline.
	states bool
}

func (c *Core) accept(ctx context.Context, m message.Message, targets []message.Target, how terms) (message.Message, []TargetState, error) {
	m, known, err := c.appendOne(ctx, m, targets, how)
	c.metrics.accept.Inc(acceptResult(err))
	return m, known, err
}

func (c *Core) appendOne(ctx context.Context, m message.Message, targets []message.Target, how terms) (message.Message, []TargetState, error) {
	if c.draining.Load() {
		return message.Message{}, nil, ErrDraining
	}
	targets, err := c.check(&m, targets)
	if err != nil {
		return message.Message{}, nil, err
	}
	shares, err := c.deal(&m, targets, how)
	if err == nil && how.last != nil {
		err = how.last(ctx)
	}
	if err != nil {
		return message.Message{}, nil, err
	}
	if m.AcceptedMS = c.now().UnixMilli(); m.ID == (message.ID{}) {
		if m.ID, err = message.NewID(m.AcceptedMS, c.random); err != nil {
			return message.Message{}, nil, fmt.Errorf("accept: %w", err)
		}
	}

	// States are read beside the append: a slow presence costs no time unless
	// it is slower than the log.
	var known chan []TargetState
	if how.states {
		known = make(chan []TargetState, 1)
		go func() { known <- c.safeStates(ctx, targets) }()
	}
	err = c.appendWithin(ctx, m, shares)
	var result []TargetState
	if how.states {
		result = <-known // bounded by the state deadline
	}
	switch {
	case errors.Is(err, stream.ErrTooLarge):
		return message.Message{}, nil, &Refusal{TooLarge, err.Error()}
	case err != nil:
		return message.Message{}, nil, fmt.Errorf("accept %v: %w (%w)", m.ID, ErrLogAway, err)
	}
	c.announce(ctx, m.ID, targets)
	return m, result, nil
}

// appendWithin appends the message, and after it the sender's copy: who sees
// it in an own session knows that the receivers have it.
func (c *Core) appendWithin(ctx context.Context, m message.Message, shares []share) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AppendTimeout)
	defer cancel()
	own, copied := message.ToUser(m.Sender), false
	for _, s := range shares {
		m.Flags = s.flags
		if err := c.log.Append(ctx, m, s.targets); err != nil {
			return err
		}
		failpoint.Hit("logic.after_accept")
		copied = copied || s.flags.Has(message.Store|message.SenderSync) && m.Sender > 0
	}
	if !copied {
		return nil
	}
	for _, s := range shares {
		if s.flags.Has(message.Store) && slices.Contains(s.targets, own) {
			return nil
		}
	}
	for _, s := range shares {
		if s.flags.Has(message.SenderSync) {
			m.Flags = s.flags &^ (message.Unread | message.OfflinePush)
		}
	}
	return c.log.Append(ctx, m, []message.Target{own})
}

// maxStoredTargets bounds the timelines of one stored message.
const maxStoredTargets = 1000

// check answers the distinct targets in their order, or a *Refusal.
func (c *Core) check(m *message.Message, targets []message.Target) ([]message.Target, error) {
	if len(m.Body) > c.cfg.MaxBodyBytes {
		return nil, &Refusal{TooLarge, fmt.Sprintf("body of %d bytes: at most %d", len(m.Body), c.cfg.MaxBodyBytes)}
	}
	if err := checkNames(m); err != nil {
		return nil, err
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

// deal shares the targets out by the flags of the message for them.
func (c *Core) deal(m *message.Message, targets []message.Target, how terms) ([]share, error) {
	shares := make([]share, 0, 1)
	stored := 0
	for _, t := range targets {
		flags, err := m.Flags, error(nil)
		if how.flagsOf != nil {
			if flags, err = how.flagsOf(t); err != nil {
				return nil, err
			}
		}
		if err := c.checkFlags(m, flags, t); err != nil {
			return nil, err
		}
		if flags.Has(message.Store) {
			if stored++; stored > maxStoredTargets {
				return nil, &Refusal{TooManyTargets, fmt.Sprintf("more than %d targets: not in one push that is stored", maxStoredTargets)}
			}
		}
		i := slices.IndexFunc(shares, func(s share) bool { return s.flags == flags })
		if i < 0 {
			i, shares = len(shares), append(shares, share{flags: flags})
		}
		shares[i].targets = append(shares[i].targets, t)
	}
	if len(shares) == 1 {
		shares[0].targets = targets
	}
	return shares, nil
}

// checkFlags refuses what could not have its effect.
func (c *Core) checkFlags(m *message.Message, flags message.Flags, t message.Target) error {
	if flags.Has(message.Store) {
		if err := c.canStore(t); err != nil {
			return err
		}
	}
	switch {
	case m.Conflate != "" && t.Kind != message.Room:
		return &Refusal{BadFlags, "conflate: only for rooms"}
	case m.Conflate != "" && flags.Has(message.Store):
		return &Refusal{BadFlags, "conflate: not with store; what a later message replaces is not kept"}
	case flags.Has(message.Low) && t.Kind != message.Room:
		return &Refusal{BadFlags, "priority low: only for rooms"}
	case flags.Has(message.Low | message.Store):
		return &Refusal{BadFlags, "priority low: not with store; what is stored is not left out"}
	case t.Kind == message.All && t.Speed > 0 && flags.Has(message.Store):
		// Heartbeats tell every session the newest position, and it is fetched then.
		return &Refusal{BadFlags, "speed: not with store; what is stored is fetched by everybody at once, and cannot be canceled"}
	}
	return nil
}

// checkNames bounds what records and columns have room for.
func checkNames(m *message.Message) error {
	switch {
	case m.Sender < 0:
		return &Refusal{BadField, "sender: a user has a number of 1 or more"}
	case m.ExpiresMS < 0:
		return &Refusal{BadField, "expires_ms: 0 (never) or Unix milliseconds"}
	case len(m.ClientID) > message.MaxClientIDBytes || !utf8.ValidString(m.ClientID):
		return &Refusal{BadField, fmt.Sprintf("client_msg_id: at most %d bytes of UTF-8", message.MaxClientIDBytes)}
	case len(m.Operator) > message.MaxAuditBytes || !utf8.ValidString(m.Operator):
		return &Refusal{BadField, fmt.Sprintf("operator: at most %d bytes of UTF-8", message.MaxAuditBytes)}
	case len(m.Source) > message.MaxAuditBytes || !utf8.ValidString(m.Source):
		return &Refusal{BadField, fmt.Sprintf("source: at most %d bytes of UTF-8", message.MaxAuditBytes)}
	case len(m.Conflate) > message.MaxConflateBytes || !utf8.ValidString(m.Conflate):
		return &Refusal{BadField, fmt.Sprintf("conflate: at most %d bytes of UTF-8", message.MaxConflateBytes)}
	case m.Conflate != "" && m.ClientID != "":
		return &Refusal{BadFlags, "conflate: not with client_msg_id"}
	}
	return nil
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
