package kafkastream

import (
	"fmt"
	"math/bits"

	"google.golang.org/protobuf/proto"

	recordv1 "github.com/perseid-im/perseid/api/record/v1"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

// share is what one record carries: the targets of one partition that may
// share a body, or one room, or all.
type share struct {
	kind      recordv1.PushMsg_Type
	partition int32
	key       message.Timeline // Kafka key: the timeline of the first target
	keys      []string
	mids      []int64
	room      string
	speed     int32
	bytes     int // of keys and mids in the record
}

// limits of one record.
type limits struct {
	recordBytes int
	targets     int
}

// split deals the targets out to records, in their order. Keys and users of a
// partition share records; each room, and all, has its own.
func split(bodyBytes int, targets []message.Target, partitions int32, lim limits) ([]share, error) {
	if limit := lim.recordBytes - recordRoom; bodyBytes > limit {
		return nil, fmt.Errorf("body of %d bytes, allowed are %d: %w", bodyBytes, limit, stream.ErrTooLarge)
	}
	shares := make([]share, 0, 1)
	var open map[int32]int // partition -> index of the share that takes more targets
	for _, t := range targets {
		timeline := t.Timeline()
		s := share{partition: timeline.Partition(partitions), key: timeline}
		switch t.Kind {
		case message.Room:
			s.kind, s.room = recordv1.PushMsg_ROOM, t.Name
			shares = append(shares, s)
			continue
		case message.All:
			s.kind, s.speed = recordv1.PushMsg_BROADCAST, t.Speed
			shares = append(shares, s)
			continue
		case message.Key, message.User:
		default:
			return nil, fmt.Errorf("target of unknown kind %d", t.Kind)
		}
		i, shared := open[s.partition]
		size := targetBytes(t)
		if shared {
			have := &shares[i]
			shared = len(have.keys)+len(have.mids) < lim.targets &&
				bodyBytes+recordRoom+have.bytes+size <= lim.recordBytes
		}
		if !shared {
			i = len(shares)
			shares = append(shares, s)
			if len(targets) > 1 {
				if open == nil {
					open = make(map[int32]int)
				}
				open[s.partition] = i
			}
		}
		have := &shares[i]
		have.bytes += size
		if t.Kind == message.Key {
			have.keys = append(have.keys, t.Name)
		} else {
			have.mids = append(have.mids, t.Mid)
		}
	}
	return shares, nil
}

// targetBytes is the size of a key or mid in a record, with its tag and length.
func targetBytes(t message.Target) int {
	if t.Kind == message.Key {
		return 1 + varintBytes(uint64(len(t.Name))) + len(t.Name)
	}
	return varintBytes(uint64(t.Mid)) // packed: one tag for all, in recordRoom
}

func varintBytes(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// encode is the value of the record.
func encode(m *message.Message, s *share) ([]byte, error) {
	record := recordv1.PushMsg{
		Type:       s.kind,
		Operation:  m.Op,
		Speed:      s.speed,
		Room:       s.room,
		Keys:       s.keys,
		Msg:        m.Body,
		Mids:       s.mids,
		AcceptedMs: m.AcceptedMS,
		Flags:      uint32(m.Flags),
		Kind:       uint32(m.Kind),
		Sender:     m.Sender,
		ClientId:   m.ClientID,
		ExpiresMs:  m.ExpiresMS,
		Operator:   m.Operator,
		Source:     m.Source,
		Conflate:   m.Conflate,
	}
	if m.ID != (message.ID{}) {
		record.MsgId = m.ID[:]
	}
	value, err := proto.Marshal(&record)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return value, nil
}
