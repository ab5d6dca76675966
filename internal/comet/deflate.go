package comet

import "github.com/perseid-im/perseid/internal/obs"

// deflation is how this comet compresses; all loops share it.
type deflation struct {
	minBytes int // shorter runs of packets are not compressed
	sessions *obs.Counter
	runs     *obs.CounterSet
	bytes    *obs.CounterSet
}

func newDeflation(cfg Config, m *obs.Metrics) deflation {
	return deflation{
		minBytes: cfg.DeflateMinBytes,
		sessions: m.PlainCounter("perseid_session_deflate_total", "WebSocket connections that agreed on permessage-deflate."),
		runs:     m.Counter("perseid_deflate_total", "Messages that were compressed, each once for all its receivers on a loop, or left plain as that was not longer.", "result", []string{"deflated", "plain"}),
		bytes:    m.Counter("perseid_deflate_bytes_total", "Size of the compressed messages, counted once for all their receivers.", "side", []string{"before", "after"}),
	}
}

func (d *deflation) done(before, after int) {
	d.runs.Inc(0)
	d.bytes.Add(0, before)
	d.bytes.Add(1, after)
}

func (d *deflation) useless() { d.runs.Inc(1) }

// Deflates tells whether WebSocket clients may agree on permessage-deflate.
func (g *Gateway) Deflates() bool { return g.cfg.Deflate }
