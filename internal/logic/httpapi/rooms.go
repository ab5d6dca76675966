package httpapi

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// maxSmallRequest is the largest request that carries no message.
const maxSmallRequest = 256 << 10

// Lists are given in pages.
const (
	defaultListed = 100
	maxListed     = timeline.MaxListed
)

// member is the JSON of a member of a room.
type member struct {
	Mid       int64  `json:"mid"`
	Role      string `json:"role"`
	JoinedSeq uint64 `json:"joined_seq"`
}

var roleNames = [...]string{timeline.Plain: "plain", timeline.Admin: "admin", timeline.Owner: "owner"}

func roleName(r timeline.Role) string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return "unknown"
}

// members is GET, POST and DELETE /v1/rooms/{type}/{id}/members.
func (s *Server) members(w http.ResponseWriter, r *http.Request) {
	names, _ := match(pathMembers, r.URL.Path)
	room := message.RoomKey(names[0], names[1])
	switch r.Method {
	case http.MethodPost:
		s.join(w, r, room)
	case http.MethodDelete:
		s.leave(w, r, room)
	default:
		s.listMembers(w, r, room)
	}
}

func (s *Server) join(w http.ResponseWriter, r *http.Request, room string) {
	raw, ok := readJSON(w, r, maxSmallRequest)
	if !ok {
		return
	}
	var request struct {
		Members []struct {
			Mid  int64   `json:"mid"`
			Role *string `json:"role"`
		} `json:"members"`
	}
	if err := decodeStrict(raw, &request); err != nil {
		s.timelineFailed(w, err)
		return
	}
	members := make([]timeline.Member, len(request.Members))
	for i, m := range request.Members {
		members[i].Mid = m.Mid
		if m.Role == nil {
			continue
		}
		role := -1
		for n, name := range roleNames {
			if name == *m.Role {
				role = n
			}
		}
		if role < 0 {
			s.timelineFailed(w, badField("members["+itoa(i)+"]: role: one of plain, admin and owner"))
			return
		}
		members[i].Role = timeline.Role(role)
	}
	s.done(w, s.core.JoinRoom(r.Context(), room, members))
}

func (s *Server) leave(w http.ResponseWriter, r *http.Request, room string) {
	q := newQuery(r.URL)
	mids := q.numbers("mid", 64)
	if q.err != nil {
		s.timelineFailed(w, badField("mid: integers"))
		return
	}
	s.done(w, s.core.LeaveRoom(r.Context(), room, mids))
}

// done answers a change.
func (s *Server) done(w http.ResponseWriter, err error) {
	if err != nil {
		s.timelineFailed(w, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonType, struct{}{})
}

func (s *Server) listMembers(w http.ResponseWriter, r *http.Request, room string) {
	limit, ok := listLimit(w, r.URL)
	if !ok {
		return
	}
	q := newQuery(r.URL)
	after := q.number("after", 64)
	if q.err != nil || after < 0 {
		s.timelineFailed(w, badField("after: the mid that a page ended with"))
		return
	}
	list, err := s.core.Members(r.Context(), room, after, limit)
	if err != nil {
		s.timelineFailed(w, err)
		return
	}
	reply := struct {
		Members []member `json:"members"`
		After   *int64   `json:"after,omitempty"` // there may be more
	}{Members: make([]member, len(list))}
	for i, m := range list {
		reply.Members[i] = member{m.Mid, roleName(m.Role), m.JoinedSeq}
	}
	if len(list) == limit {
		reply.After = &list[limit-1].Mid
	}
	writeJSON(w, http.StatusOK, jsonType, reply)
}

// roomsOf is GET /v1/users/{mid}/rooms.
func (s *Server) roomsOf(w http.ResponseWriter, r *http.Request) {
	mid, ok := s.midOf(w, r, pathRoomsOf)
	if !ok {
		return
	}
	limit, ok := listLimit(w, r.URL)
	if !ok {
		return
	}
	list, err := s.core.RoomsOf(r.Context(), mid, r.URL.Query().Get("after"), limit)
	if err != nil {
		s.timelineFailed(w, err)
		return
	}
	type room struct {
		Room string `json:"room"`
		Role string `json:"role"`
	}
	reply := struct {
		Rooms []room `json:"rooms"`
		After string `json:"after,omitempty"` // there may be more
	}{Rooms: make([]room, 0, len(list))}
	for _, m := range list {
		if name, ok := m.Timeline.Room(); ok {
			reply.Rooms = append(reply.Rooms, room{name, roleName(m.Role)})
		}
	}
	if n := len(reply.Rooms); n > 0 && len(list) == limit {
		reply.After = reply.Rooms[n-1].Room
	}
	writeJSON(w, http.StatusOK, jsonType, reply)
}

// midOf is the user that a path names, or an answer.
func (s *Server) midOf(w http.ResponseWriter, r *http.Request, template string) (int64, bool) {
	names, _ := match(template, r.URL.Path)
	mid, err := strconv.ParseInt(names[0], 10, 64)
	if err != nil || mid <= 0 {
		s.timelineFailed(w, badField("mid: a user has a number of 1 or more"))
		return 0, false
	}
	return mid, true
}

// listLimit is how many the caller wants in a page, or an answer.
func listLimit(w http.ResponseWriter, u *url.URL) (int, bool) {
	text := u.Query().Get("limit")
	if text == "" {
		return defaultListed, true
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxListed {
		writeProblem(w, http.StatusBadRequest, badLimit, "limit: 1 to "+itoa(maxListed))
		return 0, false
	}
	return limit, true
}
