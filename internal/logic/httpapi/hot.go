package httpapi

import (
	"net/http"

	"github.com/perseid-im/perseid/internal/logic"
)

// hotRooms is GET /v1/rooms/hot.
func (s *Server) hotRooms(w http.ResponseWriter, r *http.Request) {
	limit, ok := listLimit(w, r.URL)
	if !ok {
		return
	}
	ranking, window, ok := s.core.HotRooms(limit)
	if !ok {
		writeProblem(w, http.StatusBadRequest, logic.NotSupported, "this installation counts no speakers")
		return
	}
	type room struct {
		Room     string `json:"room"`
		Speakers int    `json:"speakers"`
	}
	reply := struct {
		Rooms    []room `json:"rooms"`
		BuiltMS  int64  `json:"built_ms"`
		WindowMS int64  `json:"window_ms"`
	}{make([]room, len(ranking.Rooms)), ranking.BuiltMS, window.Milliseconds()}
	for i, at := range ranking.Rooms {
		reply.Rooms[i] = room{at.Name, at.Speakers}
	}
	writeJSON(w, http.StatusOK, jsonType, reply)
}
