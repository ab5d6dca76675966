package httpapi

import (
	"errors"
	"net/http"

	"github.com/perseid-im/perseid/internal/logic"
)

func (s *Server) onlineTop(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	typ := q.values.Get("type")
	limit := int(q.number("limit", 0))
	q.require("Type", typ != "")
	q.require("Limit", limit != 0)
	if err := q.failed(); err != nil {
		writeBindError(w, err)
		return
	}
	tops, err := s.core.OnlineTop(typ, limit)
	if err != nil {
		e := envelope{Code: codeRequest}
		var refusal *logic.Refusal
		if errors.As(err, &refusal) {
			e.Message = refusal.Message
		}
		writeEnvelope(w, http.StatusOK, e)
		return
	}
	writeOK(w, tops)
}

func (s *Server) onlineRoom(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	typ, rooms := q.values.Get("type"), q.values["rooms"]
	q.require("Type", typ != "")
	q.require("Rooms", rooms != nil)
	if err := q.failed(); err != nil {
		writeBindError(w, err)
		return
	}
	writeOK(w, s.core.OnlineRooms(typ, rooms))
}

func (s *Server) onlineTotal(w http.ResponseWriter, _ *http.Request) {
	conns, ips := s.core.OnlineTotal()
	writeOK(w, map[string]int64{"conn_count": conns, "ip_count": ips})
}
