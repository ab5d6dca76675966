package job

import (
	"github.com/perseid-im/perseid/internal/timeline"
)

// kept is a stored record whose rows are not archived yet, in the order of the
// log. One with a required archive is held: if the store forgets it, the worker
// appends it again.
type kept struct {
	record   *record // completes with the rows; nil: nobody waits for them
	stored   *timeline.Record
	appended []timeline.Appended // the first answer: clients may have seen it
	places   []timeline.Place    // rows to write; empty: nothing is left to do
	bytes    int64
}

// keptBytes is what a kept record takes beside its body and names.
const keptBytes = 256

func newKept(r *record, stored *timeline.Record, appended []timeline.Appended) *kept {
	k := &kept{stored: stored, appended: appended, places: places(stored, appended, timeline.BestEffort)}
	if len(k.places) == 0 {
		return nil
	}
	k.bytes = int64(len(stored.Message.Body)) + keptBytes
	for _, p := range k.places {
		k.bytes += int64(len(p.Timeline)) + keptBytes/4
		if p.Mode == timeline.Required {
			k.record = r
		}
	}
	return k
}

// held tells whether the record may not be lost.
func (k *kept) held() bool { return k.record != nil }

// again takes the positions of a replay. What was shown in one epoch must not
// change. Rows that nobody waits for are not written by a replay.
func (k *kept) again(appended []timeline.Appended) error {
	k.places = nil
	for i, a := range appended {
		was := k.appended[i]
		if !has(was) || was.Mode != timeline.Required || a.Seq == 0 || a.Mode != timeline.Required {
			continue // no row was owed, or it is there, or it is not owed any more
		}
		if a.Epoch == was.Epoch && a.Seq != was.Seq {
			return &timeline.Conflict{Timeline: k.stored.Timelines[i], Seq: was.Seq, Stands: k.stored.Message.ID}
		}
		k.places = append(k.places, timeline.Place{Timeline: k.stored.Timelines[i], Position: a.Position, Mode: a.Mode})
	}
	return nil
}
