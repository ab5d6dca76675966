// Package obs is what an operator sees of a process: logs, metrics, health and
// the admin listener that serves them.
//
// The rooms get a *slog.Logger and handles (Counter, GaugeSet, ...) and never
// meet the metrics library. Names of metrics start with perseid_, label values
// are a closed list given at construction and all exist from the first scrape,
// at zero.
//
// # Ownership
//
// internal/app makes one Metrics, one Health and one Admin per process. A room
// asks Metrics for its handles once, when it is built; asking twice for the
// same name gives the same handle, so that several rooms of one process may
// share a metric.
//
// # Concurrency
//
// Everything here may be used from any goroutine. Handles are single atomic
// operations without allocation or lock, fit for an event loop. A nil handle,
// and a nil *Metrics, do nothing.
//
// # Guarantees
//
// Wrong use of Metrics (a name without prefix, a label value twice, one name
// in two shapes) panics when the handle is made, never later. No check, scrape
// or profile blocks another; a stuck health check makes the process unready
// and costs one goroutine, however often it is asked. The admin listener never
// touches http.DefaultServeMux, and this package does not import
// net/http/pprof, which would.
package obs
