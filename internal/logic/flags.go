package logic

import (
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// ResolveFlags are the flags of a message for one target: those of mask as the
// caller set them, the others as the kind has them. The error is a *Refusal:
// what cannot be done is not dropped silently.
func (c *Core) ResolveFlags(kind message.Kind, set, mask message.Flags, t message.Target) (message.Flags, error) {
	set &= mask
	inbox := t.Kind == message.User
	if set.Has(message.Archive) {
		if mask.Has(message.Store) && !set.Has(message.Store) {
			return 0, &Refusal{BadFlags, "archive: true needs store"}
		}
		set, mask = set|message.Store, mask|message.Store
	}
	flags := kind.Defaults(!inbox)&^mask | set
	if !flags.Has(message.Store) {
		// What only stored messages can have goes with it, if nobody asked for it.
		if asked := set & (message.Unread | message.SenderSync); asked != 0 {
			return 0, &Refusal{BadFlags, "unread, sender_sync: only with store"}
		}
		return flags &^ (message.Archive | message.Unread | message.SenderSync | message.OfflinePush&^set), nil
	}
	tl := t.Timeline()
	if err := c.canStore(t); err != nil {
		return 0, err
	}
	archived := c.timelines.ModeOf(tl) != timeline.Off
	switch {
	case set.Has(message.Archive) && !archived:
		return 0, &Refusal{NoArchive, "archive: messages of " + string(tl) + " are not archived here"}
	case mask.Has(message.Archive) && !set.Has(message.Archive) && archived:
		return 0, &Refusal{BadFlags, "archive: all stored messages of " + string(tl) + " are archived"}
	case archived:
		flags |= message.Archive
	default:
		flags &^= message.Archive
	}
	if set.Has(message.Urgent) && t.Kind == message.Room {
		return 0, &Refusal{BadFlags, "priority high (urgent): not with store to a room; what is stored keeps its order"}
	}
	if !inbox {
		if set.Has(message.SenderSync) {
			return 0, &Refusal{BadFlags, "sender_sync: for users only; the sender reads the timeline of the room"}
		}
		flags &^= message.SenderSync
	}
	return flags, nil
}

// canStore tells whether a message for the target can have a position.
func (c *Core) canStore(t message.Target) error {
	if c.timelines == nil {
		return &Refusal{NotSupported, "store: this installation keeps no messages, it only pushes to who is online"}
	}
	if t.Kind == message.Room && !t.Timeline().CanStore() {
		return &Refusal{BadFlags, "store: the name of the room is too long, at most 253 bytes"}
	}
	if !t.Timeline().CanStore() {
		return &Refusal{BadFlags, "store: a message to a key cannot be stored, only one to a user, a room or all"}
	}
	return nil
}
