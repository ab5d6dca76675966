package comet

import (
	"log/slog"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// stats is everything this comet counts.
type stats struct {
	transports  *obs.CounterSet
	ended       *obs.CounterSet
	turnedAway  *obs.CounterSet
	outcomes    *obs.CounterSet
	packets     *obs.Counter
	ignored     *obs.Counter
	panics      *obs.Counter
	unconfirmed *obs.Counter
	logicErrors *obs.CounterSet
	limited     *obs.Limited
}

// Indices of the outcome labels follow Outcome.
func newStats(m *obs.Metrics, g *Gateway) *stats {
	m.GaugeFunc("perseid_sessions", "Open connections, authenticated or not.", func() float64 { return float64(g.Sessions()) })
	m.GaugeFunc("perseid_rooms", "Rooms with members on this comet.", func() float64 { return float64(g.rooms.count()) })
	return &stats{
		transports:  m.Counter("perseid_session_opened_total", "Connections accepted.", "transport", []string{"tcp", "websocket"}),
		ended:       m.Counter("perseid_session_closed_total", "Sessions ended.", "reason", ReasonNames()),
		turnedAway:  m.Counter("perseid_session_refused_total", "Connections closed at accept.", "reason", []string{"draining", "limits"}),
		outcomes:    m.Counter("perseid_deliver_total", "Pushes by what became of them, per session.", "outcome", []string{"not_here", "delivered", "filtered", "slow", "repeat", "conflated", "canceled"}),
		packets:     m.PlainCounter("perseid_packets_in_total", "Packets from authenticated clients."),
		ignored:     m.PlainCounter("perseid_upstream_ignored_total", "Application packets from clients: answered, and dropped as by goim's stock logic."),
		panics:      m.PlainCounter("perseid_panics_total", "Handlers that panicked; each cost one session."),
		unconfirmed: m.PlainCounter("perseid_join_unconfirmed_total", "First joins of a room told to the client before every job confirmed them."),
		logicErrors: m.Counter("perseid_logic_errors_total", "Failed calls to logic.", "call", logicCalls()),
		limited:     obs.NewLimited(g.log, 10*time.Second),
	}
}

func logicCalls() []string {
	return []string{"connect", "disconnect", "refresh", "resync", "sync", "history", "ack", "read", "publish", "tops"}
}

func (s *stats) opened(f Framing)  { s.transports.Inc(int(f)) }
func (s *stats) closed(r Reason)   { s.ended.Inc(int(r)) }
func (s *stats) packetIn()         { s.packets.Inc() }
func (s *stats) upstreamIgnored()  { s.ignored.Inc() }
func (s *stats) panicked()         { s.panics.Inc() }
func (s *stats) missed()           { s.outcomes.Inc(int(NotHere)) }
func (s *stats) filtered()         { s.outcomes.Inc(int(Filtered)) }
func (s *stats) outcome(o Outcome) { s.outcomes.Inc(int(o)) }

func (s *stats) delivered(delivered, slow int) {
	s.outcomes.Add(int(Delivered), delivered)
	s.outcomes.Add(int(Slow), slow)
}

func (s *stats) refused(r Reason) {
	if r == Draining {
		s.turnedAway.Inc(0)
		return
	}
	s.turnedAway.Inc(1)
}

func (s *stats) logicFailed(call string, err error) {
	for i, name := range logicCalls() {
		if name == call {
			s.logicErrors.Inc(i)
		}
	}
	s.limited.Warn(call, "a call to logic failed", slog.String("call", call), slog.Any("error", err))
}
