package httpapi

import (
	"errors"
	"net/http"
	"strings"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// progress is the JSON of a push to all at a speed.
type progress struct {
	MsgID      string               `json:"msg_id"`
	State      logic.BroadcastState `json:"state"`
	Speed      int64                `json:"speed"`
	AcceptedMS int64                `json:"accepted_ms"`
	StartedMS  int64                `json:"started_ms,omitempty"`
	CanceledMS int64                `json:"canceled_ms,omitempty"`

	Comets     int `json:"comets"`
	CometsDone int `json:"comets_done"`
	CometsLost int `json:"comets_lost"`

	Total    int64          `json:"sessions_total"`
	Done     int64          `json:"sessions_done"`
	Outcomes progressCounts `json:"outcomes"`
}

type progressCounts struct {
	Delivered int64 `json:"delivered"`
	Filtered  int64 `json:"filtered"`
	Slow      int64 `json:"slow"`
	Canceled  int64 `json:"canceled"`
}

func asProgress(p *logic.Progress) progress {
	return progress{
		MsgID: p.ID.String(), State: p.State, Speed: p.Speed,
		AcceptedMS: p.AcceptedMS, StartedMS: p.StartedMS, CanceledMS: p.CanceledMS,
		Comets: p.Comets, CometsDone: p.CometsDone, CometsLost: p.CometsLost,
		Total: p.Total, Done: p.Done(),
		Outcomes: progressCounts{p.Delivered, p.Filtered, p.Slow, p.Canceled},
	}
}

// broadcasts is GET /v1/push/all: those under way.
func (s *Server) broadcasts(w http.ResponseWriter, r *http.Request) {
	list, err := s.core.Broadcasts(r.Context())
	if err != nil {
		s.broadcastFailed(w, err)
		return
	}
	reply := struct {
		Pushes []progress `json:"pushes"`
	}{make([]progress, len(list))}
	for i := range list {
		reply.Pushes[i] = asProgress(&list[i])
	}
	writeJSON(w, http.StatusOK, jsonType, reply)
}

// broadcast is GET and DELETE /v1/push/all/{msg_id}.
func (s *Server) broadcast(w http.ResponseWriter, r *http.Request) {
	id, ok := message.ParseID(strings.TrimPrefix(r.URL.Path, pathBroadcasts+"/"))
	if !ok {
		writeProblem(w, http.StatusBadRequest, BadField, "msg_id: 32 of 0-9 and a-f, as POST "+pathPush+" answers it")
		return
	}
	do := s.core.Broadcast
	if r.Method == http.MethodDelete {
		do = s.core.CancelBroadcast
	}
	p, err := do(r.Context(), id)
	if err != nil {
		s.broadcastFailed(w, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonType, asProgress(&p))
}

func (s *Server) broadcastFailed(w http.ResponseWriter, err error) {
	var refusal *logic.Refusal
	if errors.As(err, &refusal) {
		writeProblem(w, http.StatusNotFound, refusal.Reason, refusal.Message)
		return
	}
	s.storms.Warn("broadcast", "a push to all cannot be looked up or canceled", "error", err, "request", w.Header().Get(headerRequestID))
	w.Header().Set("Retry-After", "1")
	writeProblem(w, http.StatusServiceUnavailable, PresenceUnavailable, "what is known about pushes to all could not be read in time; a cancel may have worked all the same")
}
