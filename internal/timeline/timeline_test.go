package timeline

import (
	"errors"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
)

func TestOrderOfOffsetsAndFences(t *testing.T) {
	offsets := []Offset{{0, 9}, {1, 0}, {1, 5}, {2, 1}}
	fences := []Fence{{}, {1, 7}, {2, 0}, {2, 1}}
	for i := range offsets {
		for j := range offsets {
			want := min(1, max(-1, i-j))
			if got := offsets[i].Compare(offsets[j]); got != want {
				t.Errorf("%v to %v: %d", offsets[i], offsets[j], got)
			}
			if got := fences[i].Compare(fences[j]); got != want {
				t.Errorf("%v to %v: %d", fences[i], fences[j], got)
			}
		}
	}
}

func TestRange(t *testing.T) {
	for _, c := range []struct {
		r    Range
		seq  uint64
		want bool
	}{{Range{}, 1, true}, {Range{Min: 5}, 5, false}, {Range{Min: 5}, 6, true}, {Range{Min: 5, Max: 7}, 7, true}, {Range{Max: 7}, 8, false}} {
		if got := c.r.Contains(c.seq); got != c.want {
			t.Errorf("%v contains %d: %v", c.r, c.seq, got)
		}
	}
}

func TestErrorsSayWhatTheyAre(t *testing.T) {
	stale, conflict := error(&StaleFence{Fence{41, 3}}), error(&Conflict{"u:1", 77, message.ID{1}, message.ID{2}})
	if !errors.Is(stale, ErrStaleFence) || !strings.Contains(stale.Error(), "41") {
		t.Error(stale)
	}
	if !errors.Is(conflict, ErrConflict) || !strings.Contains(conflict.Error(), "u:1 77") {
		t.Error(conflict)
	}
}

func TestRecentIsByKind(t *testing.T) {
	if Recent("u:1") != RecentInbox || Recent("r:live://1") != RecentRoom || Recent(message.AllTimeline) != RecentRoom {
		t.Error("the format changed")
	}
}
