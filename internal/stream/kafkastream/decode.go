package kafkastream

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	recordv1 "github.com/perseid-im/perseid/api/record/v1"
	"github.com/perseid-im/perseid/internal/message"
)

// decode reads the value of a record. It takes what encode writes and what a
// goim logic writes (fields 1 to 7), and ignores fields it does not know. It
// is strict about the rest: a record that is not exactly clear is an error that
// names the field, and goes to the dead letters as a whole.
//
// A negative speed means "no limit", as goim's comet reads it.
func decode(value []byte, maxBodyBytes int) (message.Message, []message.Target, error) {
	var r recordv1.PushMsg
	if err := proto.Unmarshal(value, &r); err != nil {
		return message.Message{}, nil, fmt.Errorf("record: %w", err)
	}
	m := message.Message{
		Op:         r.Operation,
		Flags:      message.Flags(r.Flags),
		Kind:       message.Kind(r.Kind),
		Sender:     r.Sender,
		ClientID:   r.ClientId,
		Operator:   r.Operator,
		Source:     r.Source,
		AcceptedMS: r.AcceptedMs,
		ExpiresMS:  r.ExpiresMs,
		Conflate:   r.Conflate,
		Body:       r.Msg,
	}
	if len(r.Msg) > maxBodyBytes {
		return message.Message{}, nil, fmt.Errorf("record: msg: %d bytes, allowed are %d", len(r.Msg), maxBodyBytes)
	}
	if err := checkNames(&r); err != nil {
		return message.Message{}, nil, fmt.Errorf("record: %w", err)
	}
	switch len(r.MsgId) {
	case 0: // from goim
	case len(m.ID):
		copy(m.ID[:], r.MsgId)
	default:
		return message.Message{}, nil, fmt.Errorf("record: msg_id: %d bytes, allowed are 0 and %d", len(r.MsgId), len(m.ID))
	}
	targets, err := decodeTargets(&r)
	if err != nil {
		return message.Message{}, nil, fmt.Errorf("record: %w", err)
	}
	return m, targets, nil
}

// checkNames bounds what storage has columns for.
func checkNames(r *recordv1.PushMsg) error {
	switch {
	case r.Kind > math.MaxUint8:
		return fmt.Errorf("kind: %d, allowed are 0 to %d", r.Kind, math.MaxUint8)
	case r.Sender < 0:
		return fmt.Errorf("sender: %d, allowed are 0 and positive numbers", r.Sender)
	case len(r.ClientId) > message.MaxClientIDBytes:
		return fmt.Errorf("client_id: %d bytes, allowed are %d", len(r.ClientId), message.MaxClientIDBytes)
	case len(r.Operator) > message.MaxAuditBytes:
		return fmt.Errorf("operator: %d bytes, allowed are %d", len(r.Operator), message.MaxAuditBytes)
	case len(r.Source) > message.MaxAuditBytes:
		return fmt.Errorf("source: %d bytes, allowed are %d", len(r.Source), message.MaxAuditBytes)
	case len(r.Conflate) > message.MaxConflateBytes:
		return fmt.Errorf("conflate: %d bytes, allowed are %d", len(r.Conflate), message.MaxConflateBytes)
	}
	return nil
}

func decodeTargets(r *recordv1.PushMsg) ([]message.Target, error) {
	switch r.Type {
	case recordv1.PushMsg_PUSH:
		if len(r.Keys)+len(r.Mids) == 0 {
			return nil, fmt.Errorf("keys, mids: a push has no target")
		}
		targets := make([]message.Target, 0, len(r.Keys)+len(r.Mids))
		for i, key := range r.Keys {
			if key == "" || len(key) > message.MaxKeyBytes {
				return nil, fmt.Errorf("keys[%d]: %d bytes, allowed are 1 to %d", i, len(key), message.MaxKeyBytes)
			}
			targets = append(targets, message.ToKey(key))
		}
		for i, mid := range r.Mids {
			if mid <= 0 {
				return nil, fmt.Errorf("mids[%d]: %d, allowed are positive numbers", i, mid)
			}
			targets = append(targets, message.ToUser(mid))
		}
		return targets, nil
	case recordv1.PushMsg_ROOM:
		if err := message.CheckRoomKey(r.Room); err != nil {
			return nil, fmt.Errorf("room: %w", err)
		}
		return []message.Target{message.ToRoom(r.Room)}, nil
	case recordv1.PushMsg_BROADCAST:
		return []message.Target{message.ToAll(max(r.Speed, 0))}, nil
	}
	return nil, fmt.Errorf("type: %d is unknown", r.Type)
}
