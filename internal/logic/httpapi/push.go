package httpapi

import (
	"errors"
	"io"
	"net/http"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// headerMsgID names a goim push to all, for the routes under /v1/push/all, and
// one that is stored.
const headerMsgID = "X-Msg-Id"

// readBody reads a body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close") // the rest is not read
		return nil, &http.MaxBytesError{Limit: limit}
	}
	if rec, ok := w.(*recorder); ok {
		w = rec.ResponseWriter // net/http closes the connection through it
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
}

// goimBody reads the message of a goim push, or answers as goim does when it
// cannot read it.
func (s *Server) goimBody(w http.ResponseWriter, r *http.Request) (body []byte, ok bool) {
	body, err := readBody(w, r, int64(s.core.MaxBodyBytes()))
	if err != nil {
		var tooLarge *http.MaxBytesError
		text := "the body could not be read"
		if errors.As(err, &tooLarge) {
			text = err.Error()
		}
		writeEnvelope(w, http.StatusOK, envelope{Code: codeRequest, Message: text})
		return nil, false
	}
	return body, true
}

// goimPush is a push of goim's routes.
type goimPush struct {
	op     int32
	body   []byte
	flags  message.Flags
	silent bool // the way of push/keys, where goim says -400 and nothing else whatever went wrong
}

// store reads store=1, which goim does not have: the message gets a position
// in the timeline of each target.
func (q *query) store() message.Flags {
	switch q.values.Get("store") {
	case "", "0":
	case "1":
		return message.Store
	default:
		q.missing = append(q.missing, errors.New("store: 0 or 1"))
	}
	return 0
}

// accept hands a goim push in. Targets that no session can have are offline
// for sure and skipped, as goim skips who is offline; not so if something is
// to be kept for them.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, p goimPush, targets []message.Target) {
	possible := targets
	if p.flags == 0 {
		possible = targets[:0:0]
		for _, t := range targets {
			if logic.CheckTarget(t) == nil {
				possible = append(possible, t)
			}
		}
	}
	if len(possible) > 0 {
		pushed, err := s.core.Push(r.Context(), logic.PushRequest{
			Message: message.Message{Op: p.op, Body: p.body}, Set: p.flags, Mask: p.flags, Targets: possible,
		})
		if err != nil {
			s.goimPushError(w, err, p.silent)
			return
		}
		if possible[0].Kind == message.All || p.flags != 0 {
			w.Header().Set(headerMsgID, pushed.ID.String()) // goim's body has no place for it
		}
	}
	writeOK(w, nil)
}

func (s *Server) pushKeys(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	op := int32(q.number("operation", 32))
	keys, flags := q.values["keys"], q.store()
	if err := q.failed(); err != nil {
		writeBindError(w, err)
		return
	}
	body, ok := s.goimBody(w, r)
	if !ok {
		return
	}
	if len(keys) == 0 {
		writeEnvelope(w, http.StatusOK, envelope{Code: codeRequest})
		return
	}
	targets := make([]message.Target, len(keys))
	for i, key := range keys {
		targets[i] = message.ToKey(key)
	}
	s.accept(w, r, goimPush{op, body, flags, true}, targets)
}

func (s *Server) pushMids(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	op := int32(q.number("operation", 32))
	mids, flags := q.numbers("mids", 64), q.store()
	if err := q.failed(); err != nil {
		writeBindError(w, err)
		return
	}
	body, ok := s.goimBody(w, r)
	if !ok {
		return
	}
	targets := make([]message.Target, len(mids))
	for i, mid := range mids {
		targets[i] = message.ToUser(mid)
	}
	s.accept(w, r, goimPush{op, body, flags, false}, targets)
}

func (s *Server) pushRoom(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	op := int32(q.number("operation", 32))
	typ, room := q.values.Get("type"), q.values.Get("room")
	q.require("Op", op != 0)
	q.require("Type", typ != "")
	q.require("Room", room != "")
	flags := q.store()
	if err := q.failed(); err != nil {
		writeBindError(w, err)
		return
	}
	body, ok := s.goimBody(w, r)
	if !ok {
		return
	}
	pushed, err := s.core.Push(r.Context(), logic.PushRequest{
		Message: message.Message{Op: op, Body: body}, Set: flags, Mask: flags,
		Targets: []message.Target{message.ToRoom(message.RoomKey(typ, room))},
	})
	if err != nil {
		s.goimPushError(w, err, false)
		return
	}
	if flags != 0 {
		w.Header().Set(headerMsgID, pushed.ID.String())
	}
	writeOK(w, nil)
}

func (s *Server) pushAll(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL)
	op, speed := int32(q.number("operation", 32)), int32(q.number("speed", 32))
	q.require("Op", op != 0)
	flags := q.store()
	if err := q.failed(); err != nil {
		writeBindError(w, err)
		return
	}
	body, ok := s.goimBody(w, r)
	if !ok {
		return
	}
	// A negative speed means no limit, as in goim's comet.
	s.accept(w, r, goimPush{op, body, flags, false}, []message.Target{message.ToAll(max(0, speed))})
}
