package job

import (
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// meter is what an operator sees of the job.
type meter struct {
	dispatched *obs.CounterSet
	deadLetter *obs.Counter
	toSession  *obs.Histogram
	routed     *obs.Histogram
	laneBytes  *obs.Gauge
	comets     *obs.Gauge
}

func newMeter(m *obs.Metrics) meter {
	return meter{
		dispatched: m.Counter("perseid_dispatch_total",
			"Target sessions by the outcome of their dispatch; a room or all push without an answer counts as one.",
			"outcome", OutcomeNames[:]),
		deadLetter: m.PlainCounter("perseid_dead_letter_total",
			"Unreadable records that went to the dead-letter topic."),
		toSession: m.PlainHistogram("perseid_dispatch_seconds",
			"Time from accept, by the clock of logic, to the answer of the comet that delivered.", obs.Seconds()),
		routed: m.PlainHistogram("perseid_route_seconds",
			"Time that logic took to route a batch.", obs.Seconds()),
		laneBytes: m.PlainGauge("perseid_lane_queue_bytes",
			"Bytes that wait in the lanes for an answer of a comet."),
		comets: m.PlainGauge("perseid_job_comets",
			"Comets that logic lists as alive."),
	}
}

func (m *meter) outcomes(t *Tally) {
	for i, n := range t {
		if n > 0 {
			m.dispatched.Add(i, int(n))
		}
	}
}

func (m *meter) dispatchTook(d time.Duration) { m.toSession.Observe(d.Seconds()) }
