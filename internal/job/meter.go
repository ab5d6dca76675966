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
	archived   *obs.Histogram
	rows       *obs.CounterSet
	held       *obs.Gauge
	full       *obs.Counter
	rewinds    *obs.Counter
	stopped    *obs.Gauge
}

// The values of the label result of perseid_archive_rows_total.
const (
	rowsWritten = iota
	rowsDropped
)

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
		archived: m.PlainHistogram("perseid_archive_seconds",
			"Time that logic took to archive a batch.", obs.Seconds()),
		rows: m.Counter("perseid_archive_rows_total",
			"Rows for the archive by what became of them; only rows that nothing waits for are dropped.",
			"result", []string{rowsWritten: "written", rowsDropped: "dropped"}),
		held: m.PlainGauge("perseid_held_records",
			"Stored records that are not archived yet and must be."),
		full: m.PlainCounter("perseid_window_full_total",
			"Times that a partition waited for the archive because a window was full."),
		rewinds: m.PlainCounter("perseid_rewinds_total",
			"Times that a partition was appended again from the archive on, because the store of positions forgot something."),
		stopped: m.PlainGauge("perseid_partitions_stopped",
			"Partitions that stopped because a position has two messages."),
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
