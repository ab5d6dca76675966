package httpapi

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Reasons that this package adds to those of logic; api/push/errors.md lists
// all of them.
const (
	BadJSON              logic.Reason = "bad_json"
	UnknownField         logic.Reason = "unknown_field"
	BadField                          = logic.BadField
	NotFound             logic.Reason = "not_found"
	MethodNotAllowed     logic.Reason = "method_not_allowed"
	UnsupportedMediaType logic.Reason = "unsupported_media_type"
	TooManyRequests      logic.Reason = "too_many_requests"
	Draining             logic.Reason = "draining"
	LogUnavailable       logic.Reason = "log_unavailable"
	PresenceUnavailable  logic.Reason = "presence_unavailable"
	StoreUnavailable     logic.Reason = "store_unavailable"
)

// problem is the body of every error under /v1.
type problem struct {
	Code    int          `json:"code"` // the HTTP status
	Reason  logic.Reason `json:"reason"`
	Message string       `json:"message"`
}

func writeProblem(w http.ResponseWriter, status int, reason logic.Reason, text string) {
	writeJSON(w, status, jsonType, problem{status, reason, text})
}

func v1Busy(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, http.StatusTooManyRequests, TooManyRequests, "too many pushes under way, try again")
}

// pushFailed answers a push that was not accepted.
func (s *Server) pushFailed(w http.ResponseWriter, err error) {
	var refusal *logic.Refusal
	switch {
	case errors.As(err, &refusal):
		status := http.StatusBadRequest
		switch refusal.Reason {
		case logic.TooLarge:
			status = http.StatusRequestEntityTooLarge
		case logic.KeyReused:
			status = http.StatusConflict
		}
		writeProblem(w, status, refusal.Reason, refusal.Message)
	case errors.Is(err, logic.ErrDraining):
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, Draining, "this node is stopping, try again on another one")
	default:
		s.logFailure(w, err)
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, LogUnavailable,
			"the push was not confirmed in time; some targets may get it all the same")
	}
}

// timelineFailed answers what could not be done with a timeline.
func (s *Server) timelineFailed(w http.ResponseWriter, err error) {
	var refusal *logic.Refusal
	switch {
	case errors.As(err, &refusal), errors.Is(err, logic.ErrDraining), errors.Is(err, logic.ErrLogAway):
		s.pushFailed(w, err)
	case errors.Is(err, logic.ErrNotStored):
		writeProblem(w, http.StatusBadRequest, logic.NotSupported, "this installation keeps no messages")
	case errors.Is(err, timeline.ErrNoArchive):
		writeProblem(w, http.StatusBadRequest, logic.NoArchive, "this installation has no archive, or the timeline none")
	case errors.Is(err, timeline.ErrTooMany):
		writeProblem(w, http.StatusBadRequest, BadField, err.Error())
	case errors.Is(err, timeline.ErrForbidden):
		writeProblem(w, http.StatusForbidden, logic.Forbidden, "the user may not read this timeline")
	case errors.Is(err, timeline.ErrNotFound):
		writeProblem(w, http.StatusNotFound, logic.UnknownMessage, "no such message in this timeline, or not any more")
	default:
		s.storms.Warn("timelines", "a request about stored messages failed", "error", err, "request", w.Header().Get(headerRequestID))
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, StoreUnavailable, "Redis or SQL did not answer in time, or is being rebuilt; a change may have worked all the same and can be repeated")
	}
}

func itoa(i int) string { return strconv.Itoa(i) }
