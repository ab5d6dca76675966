package job

// Outcome is how the delivery to one target session ended.
type Outcome uint8

const (
	// Delivered: in the outbox of the session.
	Delivered Outcome = iota
	// NotHere: the session or its comet is gone.
	NotHere
	// Offline: a key or user without any session.
	Offline
	// Filtered: the session does not accept the operation.
	Filtered
	// Slow: the outbox of the session is full.
	Slow
	// Repeat: the comet had applied the record before.
	Repeat
	// Draining: the comet takes no more pushes.
	Draining
	// Unreachable: no answer from the comet within the dispatch timeout, or
	// nobody listens at its address.
	Unreachable
	// Canceled: the push to all was canceled before the comet got it.
	Canceled
	// Conflated: a later push to the room with the same conflate took its place.
	Conflated
	// Expired: the message was past its time before it was handed to a comet.
	Expired

	// Outcomes is the number of outcomes.
	Outcomes = iota
)

// OutcomeNames are the values of the label outcome of perseid_dispatch_total,
// indexed by Outcome.
var OutcomeNames = [Outcomes]string{
	"delivered", "not_here", "offline", "filtered", "slow", "repeat", "draining", "unreachable", "canceled", "conflated", "expired",
}

// String is the outcome as metrics spell it.
func (o Outcome) String() string {
	if int(o) < len(OutcomeNames) {
		return OutcomeNames[o]
	}
	return "unknown"
}

// Tally counts outcomes.
type Tally [Outcomes]uint64

// Sum is the number of all outcomes.
func (t *Tally) Sum() uint64 {
	var n uint64
	for _, c := range t {
		n += c
	}
	return n
}

func (t *Tally) add(other *Tally) {
	for i, c := range other {
		t[i] += c
	}
}
