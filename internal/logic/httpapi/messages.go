package httpapi

import (
	"net/http"
	"strconv"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

const badLimit = logic.BadLimit

// readInto reads a small JSON request, or answers why not.
func (s *Server) readInto(w http.ResponseWriter, r *http.Request, into any) bool {
	raw, ok := readJSON(w, r, maxSmallRequest)
	if !ok {
		return false
	}
	if err := decodeStrict(raw, into); err != nil {
		s.timelineFailed(w, err)
		return false
	}
	return true
}

// revoke is POST /v1/messages/revoke.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Timeline message.Timeline `json:"timeline"`
		Seq      *uint64          `json:"seq"`
		MsgID    *string          `json:"msg_id"`
		By       int64            `json:"by"`
	}
	if !s.readInto(w, r, &request) {
		return
	}
	var seq uint64
	var id message.ID
	ok := (request.Seq == nil) != (request.MsgID == nil)
	switch {
	case ok && request.Seq != nil:
		seq = *request.Seq
		ok = seq > 0
	case ok:
		id, ok = message.ParseID(*request.MsgID)
	}
	if !ok {
		s.timelineFailed(w, badField("exactly one of seq (1 or more) and msg_id (32 of 0-9 and a-f)"))
		return
	}
	done, err := s.core.Revoke(r.Context(), request.Timeline, seq, id, request.By)
	if err != nil {
		s.timelineFailed(w, err)
		return
	}
	writeJSON(w, http.StatusOK, jsonType, struct {
		Seq   uint64 `json:"seq"`
		MsgID string `json:"msg_id"`
		Event string `json:"event_msg_id"`
	}{done.Seq, done.ID.String(), done.Event.String()})
}

// hide is POST /v1/users/{mid}/hide.
func (s *Server) hide(w http.ResponseWriter, r *http.Request) {
	mid, ok := s.midOf(w, r, pathHide)
	if !ok {
		return
	}
	var request struct {
		Timeline message.Timeline `json:"timeline"`
		Seqs     []uint64         `json:"seqs"`
	}
	if s.readInto(w, r, &request) {
		s.done(w, s.core.Hide(r.Context(), mid, request.Timeline, request.Seqs))
	}
}

// clear is POST /v1/users/{mid}/clear.
func (s *Server) clear(w http.ResponseWriter, r *http.Request) {
	mid, ok := s.midOf(w, r, pathClear)
	if !ok {
		return
	}
	var request struct {
		Timeline message.Timeline `json:"timeline"`
		UpTo     uint64           `json:"up_to"`
	}
	if s.readInto(w, r, &request) {
		s.done(w, s.core.Clear(r.Context(), mid, request.Timeline, request.UpTo))
	}
}

// unread is GET /v1/users/{mid}/unread.
func (s *Server) unread(w http.ResponseWriter, r *http.Request) {
	mid, ok := s.midOf(w, r, pathUnread)
	if !ok {
		return
	}
	named := r.URL.Query()["timeline"]
	if len(named) == 0 {
		named = []string{string(message.Inbox(mid))}
	}
	tls := make([]message.Timeline, len(named))
	for i, name := range named {
		tls[i] = message.Timeline(name)
	}
	list, err := s.core.Unread(r.Context(), mid, tls)
	if err != nil {
		s.timelineFailed(w, err)
		return
	}
	type standing struct {
		Timeline message.Timeline `json:"timeline"`
		Epoch    uint32           `json:"epoch"`
		Acked    uint64           `json:"acked"`
		Read     uint64           `json:"read"`
		Unread   int              `json:"unread"`
	}
	reply := struct {
		Timelines []standing `json:"timelines"`
	}{make([]standing, len(list))}
	for i, t := range list {
		reply.Timelines[i] = standing{t.Timeline, t.Epoch, t.Acked, t.Read, t.Unread}
	}
	writeJSON(w, http.StatusOK, jsonType, reply)
}

// entry is the JSON of a position.
type entry struct {
	Seq        uint64 `json:"seq"`
	MsgID      string `json:"msg_id"`
	Kind       string `json:"kind"`
	Gone       string `json:"gone,omitempty"` // hidden, revoked, expired, lost; then nothing below is there
	AcceptedMS int64  `json:"accepted_ms"`
	Op         int32  `json:"op,omitempty"`
	Flags      uint32 `json:"flags,omitempty"`
	Sender     int64  `json:"sender,omitempty"`
	ClientID   string `json:"client_msg_id,omitempty"`
	Operator   string `json:"operator,omitempty"`
	Source     string `json:"source,omitempty"`
	ExpiresMS  int64  `json:"expires_ms,omitempty"`
	Body       []byte `json:"body_base64,omitempty"`
}

var goneNames = [...]string{timeline.Here: "", timeline.Hidden: "hidden", timeline.Revoked: "revoked", timeline.Expired: "expired", timeline.Lost: "lost"}

func asEntry(e *timeline.Entry) entry {
	m := &e.Message
	j := entry{Seq: e.Seq, MsgID: m.ID.String(), Kind: m.Kind.String(), AcceptedMS: m.AcceptedMS}
	if e.Gone != timeline.Here {
		j.Gone = "lost"
		if int(e.Gone) < len(goneNames) {
			j.Gone = goneNames[e.Gone]
		}
		return j
	}
	j.Op, j.Flags, j.Sender, j.ClientID, j.Operator, j.Source = m.Op, uint32(m.Flags), m.Sender, m.ClientID, m.Operator, m.Source
	j.ExpiresMS, j.Body = m.ExpiresMS, m.Body
	return j
}

// messages is GET /v1/messages.
func (s *Server) messages(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	mid := q.number("mid", 64)
	if q.err != nil || mid < 0 {
		s.timelineFailed(w, badField("mid: the user who reads; without it everything is shown"))
		return
	}
	part := timeline.Part{Timeline: message.Timeline(q.values.Get("timeline"))}
	named := 0
	for at, name := range map[timeline.At]string{timeline.Before: "before", timeline.After: "after", timeline.Around: "around"} {
		text := q.values.Get(name)
		if text == "" {
			continue
		}
		seq, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			s.timelineFailed(w, badField(name+": a position, 0 or more"))
			return
		}
		part.At, part.Seq, named = at, seq, named+1
	}
	limit, ok := listLimit(w, r.URL)
	if !ok {
		return
	}
	if named > 1 {
		s.timelineFailed(w, badField("before, after, around: one of them at most; none = the newest"))
		return
	}
	page, err := s.core.Messages(r.Context(), mid, part, timeline.Limit{Entries: min(limit, timeline.MaxPageEntries)})
	if err != nil {
		s.timelineFailed(w, err)
		return
	}
	reply := struct {
		Timeline  message.Timeline `json:"timeline"`
		Epoch     uint32           `json:"epoch"`
		Messages  []entry          `json:"messages"`
		Next      uint64           `json:"next"`
		HasMore   bool             `json:"has_more"`
		Top       uint64           `json:"top"`
		Floor     uint64           `json:"floor"`
		Reset     bool             `json:"reset,omitempty"`
		Truncated bool             `json:"truncated,omitempty"`
	}{page.Timeline, page.Epoch, make([]entry, len(page.Entries)), page.Next, page.HasMore, page.Top, page.Floor, page.Reset, page.Truncated}
	for i := range page.Entries {
		reply.Messages[i] = asEntry(&page.Entries[i])
	}
	writeJSON(w, http.StatusOK, jsonType, reply)
}
