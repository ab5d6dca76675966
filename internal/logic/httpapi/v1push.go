package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// pushRequest is the body of POST /v1/push.
type pushRequest struct {
	Op         *int32       `json:"op"`
	Body       *string      `json:"body"`
	BodyBase64 *string      `json:"body_base64"`
	Targets    []pushTarget `json:"targets"`
	Urgent     bool         `json:"urgent"`
	Store      bool         `json:"store"`
}

// pushTarget is one of {"key"}, {"mid"}, {"room"} and {"all":true,"speed"}.
type pushTarget struct {
	Key   *string `json:"key,omitempty"`
	Mid   *int64  `json:"mid,omitempty"`
	Room  *string `json:"room,omitempty"`
	All   *bool   `json:"all,omitempty"`
	Speed *int32  `json:"speed,omitempty"`
}

type pushReply struct {
	MsgID   string       `json:"msg_id"`
	Results []pushResult `json:"results"`
}

type pushResult struct {
	Target pushTarget  `json:"target"`
	State  logic.State `json:"state"`
}

// push is POST /v1/push.
func (s *Server) push(w http.ResponseWriter, r *http.Request) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		writeProblem(w, http.StatusUnsupportedMediaType, UnsupportedMediaType, "Content-Type: application/json")
		return
	}
	raw, err := readBody(w, r, s.maxRequestBytes())
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			writeProblem(w, http.StatusRequestEntityTooLarge, logic.TooLarge, err.Error())
			return
		}
		writeProblem(w, http.StatusBadRequest, BadJSON, "the body could not be read")
		return
	}
	request, bad := parsePush(raw)
	if bad != nil {
		s.pushFailed(w, bad)
		return
	}
	flags := message.Flags(0)
	if request.urgent {
		flags |= message.Urgent
	}
	if request.store {
		flags |= message.Store
	}
	id, states, err := s.core.Push(r.Context(), request.op, flags, request.body, request.targets)
	if err != nil {
		s.pushFailed(w, err)
		return
	}
	reply := pushReply{MsgID: id.String(), Results: make([]pushResult, len(states))}
	for i, ts := range states {
		reply.Results[i] = pushResult{asPushTarget(ts.Target), ts.State}
	}
	writeJSON(w, http.StatusAccepted, jsonType, reply)
}

// maxRequestBytes leaves room for what JSON and base64 add to the largest
// record; the record itself is checked by the core.
func (s *Server) maxRequestBytes() int64 { return 2*int64(s.core.MaxBodyBytes()) + 64<<10 }

// parsedPush is a push that is well formed.
type parsedPush struct {
	op            int32
	body          []byte
	targets       []message.Target
	urgent, store bool
}

// parsePush reads a request strictly; the error is a *logic.Refusal.
func parsePush(raw []byte) (parsedPush, error) {
	var request pushRequest
	if err := decodeStrict(raw, &request); err != nil {
		return parsedPush{}, err
	}
	if request.Op == nil {
		return parsedPush{}, &logic.Refusal{Reason: BadField, Message: "op: missing, an integer of 32 bits"}
	}
	p := parsedPush{op: *request.Op, urgent: request.Urgent, store: request.Store}
	switch {
	case (request.Body == nil) == (request.BodyBase64 == nil):
		return parsedPush{}, &logic.Refusal{Reason: BadField, Message: "body: exactly one of body (text) and body_base64"}
	case request.Body != nil:
		p.body = []byte(*request.Body)
	default:
		var err error
		if p.body, err = base64.StdEncoding.Strict().DecodeString(*request.BodyBase64); err != nil {
			return parsedPush{}, &logic.Refusal{Reason: BadField, Message: "body_base64: standard base64 with padding"}
		}
	}
	for i, t := range request.Targets {
		target, ok := asTarget(t)
		if !ok {
			return parsedPush{}, &logic.Refusal{Reason: logic.BadTarget,
				Message: "target " + itoa(i) + `: exactly one of {"key":"..."}, {"mid":1}, {"room":"type://id"} and {"all":true}, which may have "speed"`}
		}
		p.targets = append(p.targets, target)
	}
	return p, nil
}

// decodeStrict reads exactly one JSON object with known fields only.
func decodeStrict(raw []byte, into any) error {
	// encoding/json would replace bad bytes and so change the message.
	if !utf8.Valid(raw) {
		return &logic.Refusal{Reason: BadJSON, Message: "the body is not UTF-8"}
	}
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return &logic.Refusal{Reason: BadJSON, Message: "the body is one JSON object"}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			return &logic.Refusal{Reason: BadJSON, Message: "something follows the JSON object"}
		}
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return &logic.Refusal{Reason: BadField, Message: wrong.Field + ": " + wrong.Value + " where " + wrong.Type.String() + " is needed"}
	}
	// The decoder has no type for this one.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &logic.Refusal{Reason: UnknownField, Message: "unknown field " + name + ": op, body, body_base64, targets (key, mid, room, all, speed), urgent, store"}
	}
	return &logic.Refusal{Reason: BadJSON, Message: "the body is not valid JSON"}
}

func asTarget(t pushTarget) (target message.Target, ok bool) {
	named := 0
	if t.Key != nil {
		target, named = message.ToKey(*t.Key), named+1
	}
	if t.Mid != nil {
		target, named = message.ToUser(*t.Mid), named+1
	}
	if t.Room != nil {
		target, named = message.ToRoom(*t.Room), named+1
	}
	if t.All != nil && *t.All {
		target, named = message.ToAll(0), named+1
		if t.Speed != nil {
			target.Speed = *t.Speed
		}
	} else if t.All != nil || t.Speed != nil {
		return message.Target{}, false
	}
	return target, named == 1
}

func asPushTarget(t message.Target) pushTarget {
	switch t.Kind {
	case message.Key:
		return pushTarget{Key: &t.Name}
	case message.User:
		return pushTarget{Mid: &t.Mid}
	case message.Room:
		return pushTarget{Room: &t.Name}
	}
	all := true
	return pushTarget{All: &all, Speed: &t.Speed}
}
