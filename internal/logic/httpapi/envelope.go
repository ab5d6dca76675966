package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/perseid-im/perseid/internal/logic"
)

// Codes of goim's envelope.
const (
	codeOK      = 0
	codeRequest = -400
	codeServer  = -500
)

// envelope is goim's answer; data that is a nil interface is left out.
type envelope struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

const jsonType = "application/json; charset=utf-8"

func writeEnvelope(w http.ResponseWriter, status int, e envelope) {
	writeJSON(w, status, jsonType, e)
}

func writeOK(w http.ResponseWriter, data any) {
	writeEnvelope(w, http.StatusOK, envelope{Code: codeOK, Data: data})
}

// writeBindError is what goim answers to parameters of the wrong form. The
// content type is no slip: gin has sent the header by then, and net/http
// guesses.
func writeBindError(w http.ResponseWriter, err error) {
	writeJSON(w, http.StatusBadRequest, "text/plain; charset=utf-8", envelope{Code: codeRequest, Message: err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // all that is answered is made of strings and numbers
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone
}

// goimBusy answers a push above the limit of pushes under way; goim has none.
func goimBusy(w http.ResponseWriter, _ *http.Request) {
	writeEnvelope(w, http.StatusTooManyRequests, envelope{Code: codeServer, Message: "too many pushes under way, try again"})
}

// goimKeysBusy is goimBusy in the way of push/keys.
func goimKeysBusy(w http.ResponseWriter, _ *http.Request) {
	writeEnvelope(w, http.StatusTooManyRequests, envelope{Code: codeRequest})
}

// goimPushError answers a push that was not accepted. silent is the way of
// push/keys, where goim says -400 and nothing else whatever went wrong.
func (s *Server) goimPushError(w http.ResponseWriter, err error, silent bool) {
	status, e := http.StatusOK, envelope{Code: codeServer}
	var refusal *logic.Refusal
	switch {
	case errors.As(err, &refusal):
		e.Code, e.Message = codeRequest, refusal.Message
	case errors.Is(err, logic.ErrDraining):
		// A state that goim does not have; the status lets a balancer go on.
		w.Header().Set("Retry-After", "1")
		status, e.Message = http.StatusServiceUnavailable, logic.ErrDraining.Error()
	default:
		e.Message = logic.ErrLogAway.Error()
		s.logFailure(w, err)
	}
	if silent {
		e.Code, e.Message = codeRequest, ""
	}
	writeEnvelope(w, status, e)
}

func (s *Server) logFailure(w http.ResponseWriter, err error) {
	s.storms.Warn("push", "push not accepted", "error", err, "request", w.Header().Get(headerRequestID))
}
