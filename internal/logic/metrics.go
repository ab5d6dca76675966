package logic

import (
	"errors"

	"github.com/perseid-im/perseid/internal/obs"
)

// metrics are the counters of the core; the constants are their indexes.
type metrics struct {
	accept   *obs.CounterSet
	connect  *obs.CounterSet
	presence *obs.CounterSet // failed calls
}

const (
	acceptOK = iota
	acceptRefused
	acceptDraining
	acceptLogAway
)

const (
	connectOK = iota
	connectBadToken
	connectUnavailable
)

const (
	forConnect = iota
	forDisconnect
	forRefresh
	forLeave
	forRoute
	forState
	forOnline
	forBroadcast
	forRequest
)

func newMetrics(m *obs.Metrics) metrics {
	return metrics{
		accept: m.Counter("perseid_accept_total", "Pushes by what became of them at the API.",
			"result", []string{"ok", "refused", "draining", "log_away"}),
		connect: m.Counter("perseid_connect_total", "Sessions that wanted in, by the answer.",
			"result", []string{"ok", "bad_token", "unavailable"}),
		presence: m.Counter("perseid_presence_errors_total", "Presence calls that failed, by what they were for.",
			"purpose", []string{"connect", "disconnect", "refresh", "leave", "route", "state", "online", "broadcast", "request"}),
	}
}

func acceptResult(err error) int {
	var refusal *Refusal
	switch {
	case err == nil:
		return acceptOK
	case errors.As(err, &refusal):
		return acceptRefused
	case errors.Is(err, ErrDraining):
		return acceptDraining
	}
	return acceptLogAway
}

func connectResult(code uint32) int {
	switch code {
	case 0:
		return connectOK
	case CodeBadToken:
		return connectBadToken
	}
	return connectUnavailable
}
