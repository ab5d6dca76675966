package kafkastream

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	recordv1 "github.com/perseid-im/perseid/api/record/v1"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

const testMaxBody = 4096

// The bytes that a goim logic writes (goim-compat.md, section 4).
var goimRecords = map[string]string{
	"push":      "10e807" + "2206636f6d657431" + "32026b31" + "32026b32" + "3a026869",
	"room":      "0801" + "10e807" + "2a0b6c6976653a2f2f31303030" + "3a026869",
	"broadcast": "0802" + "10e807" + "1864" + "3a026869",
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeGoimRecords(t *testing.T) {
	for name, want := range map[string][]message.Target{
		"push":      {message.ToKey("k1"), message.ToKey("k2")},
		"room":      {message.ToRoom("live://1000")},
		"broadcast": {message.ToAll(100)},
	} {
		m, targets, err := decode(unhex(t, goimRecords[name]), testMaxBody)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !reflect.DeepEqual(m, message.Message{Op: 1000, Body: []byte("hi")}) || !slices.Equal(targets, want) {
			t.Errorf("%s: %+v to %v", name, m, targets)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	push := func(change func(*recordv1.PushMsg)) []byte {
		r := &recordv1.PushMsg{Keys: []string{"k"}, Mids: []int64{1}, Msg: []byte("x"), MsgId: make([]byte, 16)}
		change(r)
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for field, value := range map[string][]byte{
		"type: 3":        push(func(r *recordv1.PushMsg) { r.Type = 3 }),
		"type: -1":       push(func(r *recordv1.PushMsg) { r.Type = -1 }),
		"keys, mids":     push(func(r *recordv1.PushMsg) { r.Keys, r.Mids = nil, nil }),
		"keys[1]: 0":     push(func(r *recordv1.PushMsg) { r.Keys = []string{"a", ""} }),
		"keys[0]: 257":   push(func(r *recordv1.PushMsg) { r.Keys = []string{strings.Repeat("k", 257)} }),
		"mids[1]: 0":     push(func(r *recordv1.PushMsg) { r.Mids = []int64{5, 0} }),
		"mids[0]: -7":    push(func(r *recordv1.PushMsg) { r.Mids = []int64{-7} }),
		"room: ":         push(func(r *recordv1.PushMsg) { r.Type, r.Room = recordv1.PushMsg_ROOM, "live" }),
		"msg: 4097":      push(func(r *recordv1.PushMsg) { r.Msg = make([]byte, testMaxBody+1) }),
		"msg_id: 15":     push(func(r *recordv1.PushMsg) { r.MsgId = make([]byte, 15) }),
		"msg_id: 17":     push(func(r *recordv1.PushMsg) { r.MsgId = make([]byte, 17) }),
		"record: ":       []byte("not a record"),
		"record: keys, ": nil,
	} {
		m, targets, err := decode(value, testMaxBody)
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%q: error %v", field, err)
		}
		if targets != nil || !reflect.DeepEqual(m, message.Message{}) {
			t.Errorf("%q: an unreadable record gave %+v to %v", field, m, targets)
		}
	}
}

func TestDecodeIsLenientForTheFuture(t *testing.T) {
	later := append(unhex(t, goimRecords["room"]), unhex(t, "a206036e6577")...) // field 100
	if _, targets, err := decode(later, testMaxBody); err != nil || len(targets) != 1 {
		t.Errorf("an unknown field: %v, %v", targets, err)
	}
	if m, _, err := decode(append(unhex(t, goimRecords["room"]), 0x98, 0x01, 0x80, 0x80, 0x80, 0x80, 0x08), testMaxBody); err != nil || m.Flags != 1<<31 {
		t.Errorf("an unknown flag: %b, %v", m.Flags, err)
	}
	slow := append(unhex(t, "0802"), append([]byte{0x18}, bytes.Repeat([]byte{0xff}, 9)...)...)
	if _, targets, err := decode(append(slow, 0x01), testMaxBody); err != nil || targets[0].Speed != 0 {
		t.Errorf("a negative speed: %v, %v", targets, err)
	}
}

// Everything that a stored message says of itself comes through, also a kind
// that this version does not know; and everything that a transient one does.
func TestStoredFieldsRoundTrip(t *testing.T) {
	m := message.Message{
		ID: message.ID{1, 15: 2}, Op: 1000, Flags: 1<<32 - 1, Kind: 200, Sender: 1 << 40,
		ClientID: strings.Repeat("c", message.MaxClientIDBytes), Operator: strings.Repeat("o", message.MaxAuditBytes),
		Source: strings.Repeat("s", message.MaxAuditBytes), AcceptedMS: 1_700_000_000_000, ExpiresMS: 1_700_000_060_000,
		Body: []byte("body"),
	}
	conflated := m
	conflated.ClientID, conflated.Conflate = "", strings.Repeat("k", message.MaxConflateBytes)
	for _, m := range []message.Message{m, conflated} {
		testRoundTrip(t, m)
	}
}

func testRoundTrip(t *testing.T, m message.Message) {
	t.Helper()
	s := share{kind: recordv1.PushMsg_ROOM, room: "live://" + strings.Repeat("r", message.MaxRoomBytes-7)}
	value, err := encode(&m, &s)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(value) - len(m.Body); n > recordRoom {
		t.Errorf("%d bytes beside the body, there is room for %d", n, recordRoom)
	}
	got, targets, err := decode(value, testMaxBody)
	if err != nil || len(targets) != 1 || !reflect.DeepEqual(got, m) {
		t.Errorf("round trip: %+v to %v, %v", got, targets, err)
	}
}

func TestDecodeBoundsStoredFields(t *testing.T) {
	for field, m := range map[string]message.Message{
		"sender":    {Sender: -1},
		"client_id": {ClientID: strings.Repeat("c", message.MaxClientIDBytes+1)},
		"operator":  {Operator: strings.Repeat("o", message.MaxAuditBytes+1)},
		"source":    {Source: strings.Repeat("s", message.MaxAuditBytes+1)},
	} {
		value, err := encode(&m, &share{mids: []int64{1}})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decode(value, testMaxBody); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	kind := append(unhex(t, goimRecords["room"]), 0xa0, 0x01, 0x80, 0x02) // field 20 = 256
	if _, _, err := decode(kind, testMaxBody); err == nil || !strings.Contains(err.Error(), "kind") {
		t.Errorf("kind 256: %v", err)
	}
}

// FuzzRecord: no input panics, and what is accepted survives a round trip.
func FuzzRecord(f *testing.F) {
	for _, name := range []string{"push", "room", "broadcast"} {
		f.Add(unhex(f, goimRecords[name]))
	}
	m := message.Message{ID: message.ID{1, 15: 2}, Op: 9, Flags: 33, AcceptedMS: 1_700_000_000_000, Body: []byte("body")}
	for _, s := range []share{
		{keys: []string{"a", "b"}, mids: []int64{1, 1 << 40}},
		{kind: recordv1.PushMsg_ROOM, room: "live://1"},
		{kind: recordv1.PushMsg_BROADCAST, speed: 5},
	} {
		value, err := encode(&m, &s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		m, targets, err := decode(value, testMaxBody)
		if err != nil {
			if len(targets) != 0 || m.Body != nil {
				t.Fatalf("an error and %+v to %v", m, targets)
			}
			return
		}
		if len(targets) == 0 || len(m.Body) > testMaxBody {
			t.Fatalf("accepted: %+v to %v", m, targets)
		}
		shares, err := split(len(m.Body), targets, 1, limits{recordBytes: 1 << 30, targets: 1 << 30})
		if err != nil || len(shares) != 1 {
			t.Fatalf("split: %v, %v", shares, err)
		}
		again, err := encode(&m, &shares[0])
		if err != nil {
			t.Fatal(err)
		}
		m2, targets2, err := decode(again, testMaxBody)
		if err != nil || !slices.Equal(targets, targets2) {
			t.Fatalf("round trip: %v to %v, %v", targets, targets2, err)
		}
		if m2.ID != m.ID || m2.Op != m.Op || m2.Flags != m.Flags || m2.AcceptedMS != m.AcceptedMS ||
			m2.Kind != m.Kind || m2.Sender != m.Sender || m2.ClientID != m.ClientID || m2.ExpiresMS != m.ExpiresMS || !bytes.Equal(m2.Body, m.Body) {
			t.Fatalf("round trip: %+v to %+v", m, m2)
		}
	})
}

func TestSplitKeepsRecordsSmall(t *testing.T) {
	var targets []message.Target
	for i := range 5000 {
		targets = append(targets, message.ToKey(strings.Repeat("k", 200)+strconv.Itoa(i)), message.ToUser(int64(i)<<40+1))
	}
	lim := limits{recordBytes: 20_000, targets: 150}
	m := message.Message{ID: message.ID{1}, Op: -1, Flags: 1 << 31, AcceptedMS: -1, Body: make([]byte, 5000)}
	shares, err := split(len(m.Body), targets, 3, lim)
	if err != nil {
		t.Fatal(err)
	}
	seen, full := 0, 0
	for i := range shares {
		s := &shares[i]
		value, err := encode(&m, s)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(value) + len(s.key); n > lim.recordBytes {
			t.Errorf("record %d has %d bytes", i, n)
		} else if n > lim.recordBytes-recordRoom-300 {
			full++
		}
		if n := len(s.keys) + len(s.mids); n > lim.targets || n == 0 {
			t.Errorf("record %d has %d targets", i, n)
		}
		seen += len(s.keys) + len(s.mids)
	}
	if seen != len(targets) {
		t.Errorf("%d of %d targets", seen, len(targets))
	}
	if full < len(shares)-3 {
		t.Errorf("only %d of %d records are used up", full, len(shares))
	}

	shares, err = split(10, targets, 3, limits{recordBytes: 1 << 30, targets: 150})
	if err != nil || len(shares) > len(targets)/150+3 {
		t.Errorf("%d records of up to 150 for %d targets, %v", len(shares), len(targets), err)
	}
	if _, err := split(lim.recordBytes-recordRoom+1, targets, 3, lim); !errors.Is(err, stream.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := split(1, []message.Target{{}}, 3, lim); err == nil {
		t.Error("a target without a kind was taken")
	}
}
