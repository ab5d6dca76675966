package timeline

import (
	"testing"

	"github.com/perseid-im/perseid/internal/message"
)

// Symptom: after a save that failed, a cursor of an epoch that was over took
// the place of the one that had moved meanwhile. Cause: what could not be saved
// was put back as if it were the newest.
func TestWhatIsPutBackIsOlder(t *testing.T) {
	u := unsavedCursors{moved: map[int64]map[message.Timeline]UserCursor{}}
	u.put(7, UserCursor{Timeline: "u:7", Epoch: 2, Acked: 50}, true)
	taken := u.take()[7][0]
	u.put(7, UserCursor{Timeline: "u:7", Epoch: 3, Acked: 4, Read: 1}, true)
	u.putBack(7, taken)
	if got := u.take()[7][0]; got.Epoch != 3 || got.Acked != 4 || got.Read != 1 {
		t.Errorf("%+v", got)
	}
	u.put(7, UserCursor{Timeline: "u:7", Epoch: 3, Acked: 6, Read: 1}, true)
	u.putBack(7, UserCursor{Timeline: "u:7", Epoch: 3, Acked: 5, Read: 5})
	u.putBack(8, UserCursor{Timeline: "u:8", Epoch: 1, Acked: 1})
	all := u.take()
	if got := all[7][0]; got.Acked != 6 || got.Read != 5 || len(all[8]) != 1 {
		t.Errorf("%+v", all)
	}
}
