package logic

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Requests remembers which request an Idempotency-Key was used for.
type Requests interface {
	// Remember keeps id and sum under key for ttl, unless something is kept
	// there already: then it tells that one's id and whether its sum is the same.
	Remember(ctx context.Context, key string, id message.ID, sum [sha256.Size]byte, ttl time.Duration) (first message.ID, same bool, err error)
}

// MaxRequestKeyBytes bounds an Idempotency-Key.
const MaxRequestKeyBytes = 255

// maxWaited bounds the timelines that one push is waited for in.
const maxWaited = 16

// PushRequest is a push as a backend asks for it.
type PushRequest struct {
	// Message without ID, Flags, AcceptedMS and ExpiresMS, which are made here.
	Message   message.Message
	Set, Mask message.Flags // the flags of Mask are as in Set, the others as the kind has them
	Targets   []message.Target
	TTL       time.Duration // after it nobody gets the message any more; 0 = never
	Key       string        // Idempotency-Key; "" = none
	Wait      time.Duration // how long to wait until it is stored in all timelines; 0 = not at all
	States    bool          // say who is online; with Wait always
}

// Pushed answers a PushRequest that was accepted.
type Pushed struct {
	ID     message.ID
	States []TargetState // if asked for: of the distinct targets, in the order of the request
	// Places is parallel to States: where the message is stored; the zero
	// Position for a target whose message is not stored, or not yet. Nil without
	// Wait.
	Places []timeline.Position
	// Stored, with Wait: all that is stored is, and archived where it has to be.
	Stored bool
}

// Push accepts a message. The error is that of AcceptMessage.
func (c *Core) Push(ctx context.Context, r PushRequest) (Pushed, error) {
	if err := c.checkRequest(&r); err != nil {
		c.metrics.accept.Inc(acceptResult(err))
		return Pushed{}, err
	}
	m, how := r.Message, terms{states: r.States || r.Wait > 0}
	how.flagsOf = func(t message.Target) (message.Flags, error) {
		flags, err := c.ResolveFlags(m.Kind, r.Set, r.Mask, t)
		if err == nil && !flags.Has(message.Store) {
			err = r.checkTransient()
		}
		return flags, err
	}
	switch {
	case r.Key != "":
		m.ID = message.DeriveID("k:", r.Key)
		how.last = func(ctx context.Context) error { return c.remember(ctx, &r, m.ID) }
	case m.ClientID != "":
		m.ID = ClientMessageID(m.Sender, m.ClientID)
	}
	if r.TTL > 0 {
		m.ExpiresMS = c.now().Add(r.TTL).UnixMilli()
	}
	m, states, err := c.accept(ctx, m, r.Targets, how)
	if err != nil {
		return Pushed{}, err
	}
	p := Pushed{ID: m.ID, States: states}
	if r.Wait > 0 {
		p.Places, p.Stored = c.awaitStored(ctx, m.ID, states, r.Wait)
	}
	return p, nil
}

// checkTransient refuses what only a timeline can do.
func (r *PushRequest) checkTransient() error {
	for _, c := range []struct {
		name  string
		asked bool
	}{{"Idempotency-Key", r.Key != ""}, {"client_msg_id", r.Message.ClientID != ""}, {"wait", r.Wait > 0}} {
		if c.asked {
			return &Refusal{BadFlags, c.name + ": only with store, for every target"}
		}
	}
	return nil
}

// ClientMessageID is the id of a message that its sender names, whatever way
// it comes.
func ClientMessageID(sender int64, clientID string) message.ID {
	return message.DeriveID(fmt.Sprintf("c:%d", sender), clientID)
}

func (c *Core) checkRequest(r *PushRequest) error {
	switch {
	case len(r.Key) > MaxRequestKeyBytes || !utf8.ValidString(r.Key):
		return &Refusal{BadField, fmt.Sprintf("Idempotency-Key: 1 to %d bytes of UTF-8", MaxRequestKeyBytes)}
	case r.Message.ClientID != "" && r.Message.Sender <= 0:
		return &Refusal{BadField, "client_msg_id: needs sender, whose id it is"}
	case r.Message.ClientID != "" && r.Key != "":
		return &Refusal{BadField, "client_msg_id: not with an Idempotency-Key, both would name the message"}
	case r.Mask&r.Set&message.SenderSync != 0 && r.Message.Sender <= 0:
		return &Refusal{BadFlags, "sender_sync: needs sender"}
	case r.TTL < 0 || r.TTL > c.cfg.MaxTTL:
		return &Refusal{BadField, fmt.Sprintf("ttl_ms: 0 (never expires) to %d", c.cfg.MaxTTL.Milliseconds())}
	case r.Wait < 0 || r.Wait > c.cfg.MaxWait:
		return &Refusal{BadField, fmt.Sprintf("wait_ms: 1 to %d", c.cfg.MaxWait.Milliseconds())}
	case r.Wait > 0 && len(r.Targets) > maxWaited:
		return &Refusal{TooManyTargets, fmt.Sprintf("wait: for %d targets at most", maxWaited)}
	}
	return nil
}

// remember refuses a key that was used for another request. It never answers
// instead of the log: the request that it knows may have failed after it was
// remembered. So a repeat is appended again, and its id makes it one message.
// When the memory is away the push goes on: only the refusal is lost.
func (c *Core) remember(ctx context.Context, r *PushRequest, id message.ID) error {
	if c.requests == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	first, same, err := c.requests.Remember(ctx, r.Key, id, r.sum(), c.cfg.RequestTTL)
	if err != nil {
		c.metrics.presence.Inc(forRequest)
		c.storms.Warn("requests", "an Idempotency-Key is not compared with earlier requests", "error", err)
		return nil
	}
	if !same {
		return &Refusal{KeyReused, fmt.Sprintf("Idempotency-Key: used before for another request, accepted as %v", first)}
	}
	return nil
}

// sum is of all that makes the request this one and no other.
func (r *PushRequest) sum() [sha256.Size]byte {
	h := sha256.New()
	m := &r.Message
	number := func(n int64) {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(n))
		h.Write(b[:])
	}
	text := func(s string) {
		number(int64(len(s)))
		h.Write([]byte(s))
	}
	for _, n := range []int64{int64(m.Op), int64(m.Kind), m.Sender, int64(r.Set & r.Mask), int64(r.Mask), r.TTL.Milliseconds(), int64(len(r.Targets))} {
		number(n)
	}
	for _, s := range []string{m.ClientID, m.Operator, m.Source, m.Conflate} {
		text(s)
	}
	for _, t := range r.Targets {
		number(int64(t.Kind))
		number(t.Mid)
		number(int64(t.Speed))
		text(t.Name)
	}
	number(int64(len(m.Body)))
	h.Write(m.Body)
	return [sha256.Size]byte(h.Sum(nil))
}

// Pauses between two looks for a message that is awaited.
const (
	firstLook = 2 * time.Millisecond
	lastLook  = 100 * time.Millisecond
)

// awaitStored looks for the message in the timelines of the targets until it
// is kept in all of them or the budget is over. That it cannot be found is no
// error: it was accepted.
func (c *Core) awaitStored(ctx context.Context, id message.ID, targets []TargetState, budget time.Duration) (places []timeline.Position, stored bool) {
	places = make([]timeline.Position, len(targets))
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	pause := time.NewTimer(firstLook)
	defer pause.Stop()
	kept := make([]bool, len(targets))
	for wait := firstLook; ; {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return places, false
		}
		missing := 0
		for i := range targets {
			if kept[i] {
				continue
			}
			at, all, err := c.timelines.Find(ctx, targets[i].Target.Timeline(), id)
			if err == nil {
				places[i], kept[i] = at, all
			}
			if !kept[i] {
				missing++
			}
		}
		if missing == 0 {
			return places, true
		}
		wait = min(2*wait, lastLook)
		pause.Reset(wait)
	}
}
