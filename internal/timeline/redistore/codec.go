package redistore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// markerKey names the life of the data; see the package.
const markerKey = "perseid:incarnation"

// tagged is a key of a timeline: its tag, and the name where the tag is not
// the name.
func tagged(tl message.Timeline, what string) string {
	if !strings.ContainsAny(string(tl), "{}") {
		return "tl:{" + string(tl) + "}:" + what
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(tl))
	return "tl:{" + strconv.FormatUint(h.Sum64(), 16) + "}:" + what + ":" + string(tl)
}

func metaKey(tl message.Timeline) string { return tagged(tl, "meta") }
func logKey(tl message.Timeline) string  { return tagged(tl, "log") }
func ringKey(tl message.Timeline) string { return tagged(tl, "ids") }

func cursorKey(mid int64) string { return "cur:{u:" + strconv.FormatInt(mid, 10) + "}" }

// maxNumber is what a number of Lua holds exactly. No position comes near it;
// a client's number may.
const maxNumber = 1 << 53

// number is a position in an argument of a script.
func number(n uint64) string { return strconv.FormatUint(min(n, maxNumber), 10) }

// A value is "<gen> <off> " and then, big-endian: version u8, gone u8, id 16,
// kind u8, accepted ms i64; and unless it is gone: flags u32, op i32, sender
// i64, expires ms i64, and client id, operator and source with a length u8
// each; the rest is the body. revoke.lua knows the part that stays.
const (
	valueVersion = 1
	headBytes    = 27
	fixedBytes   = headBytes + 24
)

var errValue = errors.New("a value that cannot be read")

func encode(at timeline.Offset, m *message.Message) []byte {
	b := make([]byte, 0, 32+fixedBytes+3+len(m.ClientID)+len(m.Operator)+len(m.Source)+len(m.Body))
	b = append(strconv.AppendUint(b, uint64(at.Generation), 10), ' ')
	b = append(strconv.AppendInt(b, at.Offset, 10), ' ')
	b = append(b, valueVersion, byte(timeline.Here))
	b = append(b, m.ID[:]...)
	b = append(b, byte(m.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(m.AcceptedMS))
	b = binary.BigEndian.AppendUint32(b, uint32(m.Flags))
	b = binary.BigEndian.AppendUint32(b, uint32(m.Op))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Sender))
	b = binary.BigEndian.AppendUint64(b, uint64(m.ExpiresMS))
	for _, text := range [...]string{m.ClientID, m.Operator, m.Source} {
		text = text[:min(len(text), 255)]
		b = append(append(b, byte(len(text))), text...)
	}
	return append(b, m.Body...)
}

// decode reads what encode wrote; the body aliases value.
func decode(seq uint64, value []byte) (timeline.Entry, error) {
	e, ok := parse(value)
	if !ok {
		return timeline.Entry{}, fmt.Errorf("%w at %d", errValue, seq)
	}
	e.Seq = seq
	return e, nil
}

func parse(value []byte) (e timeline.Entry, ok bool) {
	gen, rest, ok1 := bytes.Cut(value, []byte{' '})
	off, b, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 || len(b) < headBytes || b[0] != valueVersion {
		return e, false
	}
	g, err1 := strconv.ParseUint(string(gen), 10, 32)
	o, err2 := strconv.ParseInt(string(off), 10, 64)
	if err1 != nil || err2 != nil {
		return e, false
	}
	e.At = timeline.Offset{Generation: uint32(g), Offset: o}
	m := &e.Message
	e.Gone, m.ID, m.Kind = timeline.Gone(b[1]), message.ID(b[2:18]), message.Kind(b[18])
	m.AcceptedMS = int64(binary.BigEndian.Uint64(b[19:]))
	if e.Gone != timeline.Here {
		return e, true
	}
	if len(b) < fixedBytes {
		return e, false
	}
	m.Flags = message.Flags(binary.BigEndian.Uint32(b[27:]))
	m.Op = int32(binary.BigEndian.Uint32(b[31:]))
	m.Sender = int64(binary.BigEndian.Uint64(b[35:]))
	m.ExpiresMS = int64(binary.BigEndian.Uint64(b[43:]))
	b = b[fixedBytes:]
	for _, text := range [...]*string{&m.ClientID, &m.Operator, &m.Source} {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return e, false
		}
		*text = string(b[1 : 1+int(b[0])])
		b = b[1+int(b[0]):]
	}
	if len(b) > 0 {
		m.Body = b
	}
	return e, true
}

// encodeRing puts the ids of a seed where append.lua looks for them.
func encodeRing(tl message.Timeline, s *timeline.Seed) []byte {
	length := uint64(timeline.Recent(tl))
	ring := make([]byte, min(length, s.Top)*16)
	for _, r := range s.IDs {
		if r.Seq > 0 && r.Seq <= s.Top && s.Top-r.Seq < length {
			copy(ring[(r.Seq-1)%length*16:], r.ID[:])
		}
	}
	return ring
}

func encodeSeed(s *timeline.Seed) string {
	return fmt.Sprintf("%d %d %d %d %d %d", s.Epoch, s.Top, s.Off.Generation, max(s.Off.Offset, 0), s.Floor, s.AskedMS)
}
