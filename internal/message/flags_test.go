package message

import (
	"strings"
	"testing"
)

func TestKindNamesRoundTrip(t *testing.T) {
	for k := None; k <= System; k++ {
		if got, ok := ParseKind(k.String()); !ok || got != k {
			t.Errorf("ParseKind(%q) = %v, %v", k, got, ok)
		}
	}
	if _, ok := ParseKind("unknown"); ok {
		t.Error(`"unknown" is a kind`)
	}
	if Kind(200).String() != "unknown" || Kind(200).Defaults(false) != 0 {
		t.Errorf("kind 200: %v, %b", Kind(200), Kind(200).Defaults(false))
	}
}

// The table of docs/http-api.md, "Stored messages".
func TestDefaultsByKind(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		room bool
		want Flags
	}{
		{None, false, 0},
		{Chat, false, Store | Archive | Unread | OfflinePush | SenderSync},
		{Chat, true, Store},
		{Notice, false, Store | Archive},
		{Signal, false, Urgent},
		{Signal, true, Urgent},
	} {
		if got := c.kind.Defaults(c.room); got != c.want {
			t.Errorf("%v, room %v: %b, want %b", c.kind, c.room, got, c.want)
		}
	}
	if got := (Archive | 1<<30).Normal(); got != Archive|Store|1<<30 {
		t.Errorf("archive implies store: %b", got)
	}
}

func TestStoredTargets(t *testing.T) {
	for target, want := range map[Target]bool{ToKey("k"): false, ToUser(1): true, ToRoom("live://1"): true, ToAll(3): true,
		ToRoom("live://" + strings.Repeat("x", 246)): true, ToRoom("live://" + strings.Repeat("x", 247)): false} {
		if got := target.Timeline().CanStore(); got != want {
			t.Errorf("%s: %v", target.Timeline(), got)
		}
	}
	if mid, ok := Inbox(42).Mid(); !ok || mid != 42 || Inbox(42) != ToUser(42).Timeline() {
		t.Errorf("inbox of 42: %d, %v", mid, ok)
	}
	for _, tl := range []Timeline{"", "u:", "u:x", "u:-1", "u:0", "u:01", "u:+1", "r:live://1", "k:1"} {
		if mid, ok := tl.Mid(); ok {
			t.Errorf("%q is the inbox of %d", tl, mid)
		}
	}
	if room, ok := Timeline("r:live://1").Room(); !ok || room != "live://1" {
		t.Errorf("room %q, %v", room, ok)
	}
	if _, ok := Timeline("r:live").Room(); ok {
		t.Error("r:live is a room")
	}
	if (&Message{ExpiresMS: 5}).Expired(4) || !(&Message{ExpiresMS: 5}).Expired(5) || (&Message{}).Expired(1<<60) {
		t.Error("expiry")
	}
}

func TestDerivedIDs(t *testing.T) {
	seen := map[ID]bool{}
	for _, c := range [][2]string{{"a", "b"}, {"ab", ""}, {"", "ab"}, {"b", "a"}} {
		id := DeriveID(c[0], c[1])
		if id != DeriveID(c[0], c[1]) || seen[id] {
			t.Errorf("%q: %v is not of its own", c, id)
		}
		seen[id] = true
	}
}
