package httpapi

import (
	"slices"
	"time"

	"github.com/perseid-im/perseid/internal/obs"
)

// metrics count requests by class of the status, and their time by route.
type metrics struct {
	requests *obs.CounterSet
	seconds  *obs.HistogramSet
	routes   []string // the labels of seconds; the last is for all other paths
}

func newMetrics(m *obs.Metrics) metrics {
	routes := []string{
		pathPush, pathBroadcasts, pathBroadcast, pathMembers, pathRoomsOf, pathUnread, pathHide, pathClear, pathMessages, pathRevoke, pathHotRooms,
		pathPushKeys, pathPushMids, pathPushRoom, pathPushAll,
		pathOnlineTop, pathOnlineRoom, pathOnlineTotal,
		pathNodesWeighted, pathNodesInstances, "other",
	}
	return metrics{
		routes: routes,
		requests: m.Counter("perseid_http_requests_total", "HTTP requests by class of the answer; goim's routes answer most errors with 2xx.",
			"class", []string{"1xx", "2xx", "3xx", "4xx", "5xx"}),
		seconds: m.Histogram("perseid_http_request_seconds", "Time to answer an HTTP request.",
			obs.Seconds(), "route", routes),
	}
}

// request counts one request; status 0 is a handler that wrote nothing, which
// net/http answers with 200.
func (m metrics) request(path string, status int, start time.Time) {
	if status == 0 {
		status = 200
	}
	m.requests.Inc(min(max(status/100, 1), 5) - 1)
	i := slices.Index(m.routes, routeOf(path))
	if i < 0 {
		i = len(m.routes) - 1
	}
	m.seconds.Since(i, start)
}
