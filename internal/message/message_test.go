package message

import (
	"bytes"
	"crypto/rand"
	"hash/fnv"
	"strconv"
	"strings"
	"testing"
)

func TestIDKeepsTimeAndSorts(t *testing.T) {
	early, err := NewID(1_700_000_000_123, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	late, err := NewID(1_700_000_000_124, bytes.NewReader(make([]byte, 10)))
	if err != nil {
		t.Fatal(err)
	}
	if early.UnixMS() != 1_700_000_000_123 {
		t.Errorf("time in id = %d", early.UnixMS())
	}
	if bytes.Compare(early[:], late[:]) >= 0 {
		t.Errorf("%s does not sort before %s", early, late)
	}
	if _, err := NewID(1, bytes.NewReader(nil)); err == nil {
		t.Error("an id without randomness was made")
	}
}

func TestParseID(t *testing.T) {
	id, err := NewID(1_700_000_000_123, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := ParseID(id.String()); !ok || got != id {
		t.Errorf("%v is read as %v, %v", id, got, ok)
	}
	for _, text := range []string{"", "0", id.String() + "0", id.String()[1:], strings.ToUpper("a" + id.String()[1:]), "g" + id.String()[1:], " " + id.String()[1:]} {
		if got, ok := ParseID(text); ok {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func TestTimelinesAreDistinct(t *testing.T) {
	seen := map[Timeline]Target{}
	for _, target := range []Target{ToKey("1"), ToUser(1), ToRoom("live://1"), ToAll(0)} {
		tl := target.Timeline()
		if other, ok := seen[tl]; ok {
			t.Errorf("%v and %v share %s", target, other, tl)
		}
		seen[tl] = target
	}
	if ToAll(0).Timeline() != ToAll(7).Timeline() {
		t.Error("speed changes the timeline of all")
	}
}

func TestLanesOfOnePartitionSpread(t *testing.T) {
	lanes := map[int]int{}
	for i := range 10_000 {
		tl := ToKey(strconv.Itoa(i)).Timeline()
		if tl.Partition(4) == 0 {
			lanes[tl.Lane(4)]++
		}
	}
	if len(lanes) != 4 {
		t.Fatalf("lanes used: %v", lanes)
	}
	for lane, n := range lanes {
		if n < 400 {
			t.Errorf("lane %d got %d of about 625", lane, n)
		}
	}
}

func TestCheckRoomKey(t *testing.T) {
	for key, good := range map[string]bool{
		"live://1000": true, "live://a/b:c": true, "": false, "live": false, "://1": false, "live://": false,
		"live://" + strings.Repeat("x", MaxRoomBytes): false,
	} {
		if err := CheckRoomKey(key); (err == nil) != good {
			t.Errorf("CheckRoomKey(%q) = %v", key, err)
		}
	}
}

// Partitions must not move when the hash is written anew: the order of a
// timeline depends on it.
func TestHashIsFNV1a(t *testing.T) {
	for _, tl := range []Timeline{"", "u:1", "r:live://1000", "k:\x00\xff"} {
		h := fnv.New32a()
		_, _ = h.Write([]byte(tl))
		if tl.hash() != h.Sum32() {
			t.Errorf("hash of %q is %d, want %d", tl, tl.hash(), h.Sum32())
		}
	}
}
