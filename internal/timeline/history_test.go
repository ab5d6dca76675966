package timeline_test

import (
	"slices"
	"testing"

	"github.com/perseid-im/perseid/internal/timeline"
)

// Symptom: one question for the history of a timeline asked Redis or SQL up to
// 200 times, one after the other, and read up to 12 MiB of large messages to
// answer a few. Cause: what the bytes do not hold was read from the oldest on,
// in parts as small as the answer.
func TestHistoryIsReadFromItsEnd(t *testing.T) {
	small, large := newWorld(t, true, asItIs), newWorld(t, true, asItIs)
	small.say(room, 200)
	large.body = make([]byte, 64<<10)
	large.say(room, 200)
	for _, tc := range []struct {
		w     *world
		bytes int
		want  []uint64
	}{{small, 1, []uint64{200}}, {small, 300, []uint64{198, 199, 200}}, {large, 200_000, []uint64{198, 199, 200}}} {
		w := tc.w
		reads := 0
		count := func(method string) (bool, error) {
			if method == "Read" {
				reads++
			}
			return false, nil
		}
		w.window.SetFault(count)
		w.archive.SetFault(count)
		p, err := w.store.History(w.ctx, timeline.Reader{}, timeline.Part{Timeline: room}, timeline.Limit{Entries: 200, Bytes: tc.bytes})
		if err != nil || !slices.Equal(seqs(p.Entries), tc.want) || !p.HasMore {
			t.Fatalf("%v, %v", p, err)
		}
		if reads > 8 {
			t.Errorf("%d bytes: %d reads", tc.bytes, reads)
		}
	}
}
