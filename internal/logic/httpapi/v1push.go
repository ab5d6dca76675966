package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// pushRequest is the body of POST /v1/push. A flag that is absent is as the
// kind has it.
type pushRequest struct {
	Op          *int32       `json:"op"`
	Body        *string      `json:"body"`
	BodyBase64  *string      `json:"body_base64"`
	Targets     []pushTarget `json:"targets"`
	Kind        *string      `json:"kind"`
	Store       *bool        `json:"store"`
	Archive     *bool        `json:"archive"`
	Unread      *bool        `json:"unread"`
	OfflinePush *bool        `json:"offline_push"`
	SenderSync  *bool        `json:"sender_sync"`
	Urgent      *bool        `json:"urgent"`
	Priority    *string      `json:"priority"`
	Conflate    string       `json:"conflate"`
	Sender      int64        `json:"sender"`
	ClientMsgID string       `json:"client_msg_id"`
	Operator    string       `json:"operator"`
	Source      string       `json:"source"`
	TTLMS       *int64       `json:"ttl_ms"`
	Wait        *string      `json:"wait"`
	WaitMS      *int64       `json:"wait_ms"`
	Results     *bool        `json:"results"`
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
	Stored  *bool        `json:"stored,omitempty"` // with wait
	Results []pushResult `json:"results,omitempty"`
}

type pushResult struct {
	Target pushTarget  `json:"target"`
	State  logic.State `json:"state"`
	Epoch  uint32      `json:"epoch,omitempty"` // with wait, once it is stored
	Seq    uint64      `json:"seq,omitempty"`
}

// headerKey makes a repeated request the same request.
const headerKey = "Idempotency-Key"

// push is POST /v1/push.
func (s *Server) push(w http.ResponseWriter, r *http.Request) {
	raw, ok := readJSON(w, r, s.maxRequestBytes())
	if !ok {
		return
	}
	request, bad := parsePush(raw)
	if bad != nil {
		s.pushFailed(w, bad)
		return
	}
	if request.Key, bad = requestKey(r.Header); bad != nil {
		s.pushFailed(w, bad)
		return
	}
	pushed, err := s.core.Push(r.Context(), request)
	if err != nil {
		s.pushFailed(w, err)
		return
	}
	reply := pushReply{MsgID: pushed.ID.String(), Results: make([]pushResult, len(pushed.States))}
	for i, ts := range pushed.States {
		reply.Results[i] = pushResult{Target: asPushTarget(ts.Target), State: ts.State}
		if pushed.Places != nil {
			reply.Results[i].Epoch, reply.Results[i].Seq = pushed.Places[i].Epoch, pushed.Places[i].Seq
		}
	}
	if request.Wait > 0 {
		reply.Stored = &pushed.Stored
	}
	writeJSON(w, http.StatusAccepted, jsonType, reply)
}

// readJSON reads a body that says it is JSON, or answers why not.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64) (raw []byte, ok bool) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		writeProblem(w, http.StatusUnsupportedMediaType, UnsupportedMediaType, "Content-Type: application/json")
		return nil, false
	}
	raw, err := readBody(w, r, limit)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			writeProblem(w, http.StatusRequestEntityTooLarge, logic.TooLarge, err.Error())
			return nil, false
		}
		writeProblem(w, http.StatusBadRequest, BadJSON, "the body could not be read")
		return nil, false
	}
	return raw, true
}

// requestKey is the Idempotency-Key; "" = none.
func requestKey(h http.Header) (string, error) {
	values := h.Values(headerKey)
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || values[0] == "":
		return "", badField(headerKey + ": once, 1 to " + itoa(logic.MaxRequestKeyBytes) + " bytes of UTF-8")
	}
	return values[0], nil
}

// maxRequestBytes leaves room for what JSON and base64 add to the largest
// record; the record itself is checked by the core.
func (s *Server) maxRequestBytes() int64 { return 2*int64(s.core.MaxBodyBytes()) + 64<<10 }

// parsePush reads a request strictly; the error is a *logic.Refusal.
func parsePush(raw []byte) (logic.PushRequest, error) {
	var request pushRequest
	if err := decodeStrict(raw, &request); err != nil {
		return logic.PushRequest{}, err
	}
	if request.Op == nil {
		return logic.PushRequest{}, badField("op: missing, an integer of 32 bits")
	}
	p := logic.PushRequest{States: true, Message: message.Message{
		Op: *request.Op, Sender: request.Sender, ClientID: request.ClientMsgID,
		Operator: request.Operator, Source: request.Source, Conflate: request.Conflate,
	}}
	switch {
	case (request.Body == nil) == (request.BodyBase64 == nil):
		return logic.PushRequest{}, badField("body: exactly one of body (text) and body_base64")
	case request.Body != nil:
		p.Message.Body = []byte(*request.Body)
	default:
		var err error
		if p.Message.Body, err = base64.StdEncoding.Strict().DecodeString(*request.BodyBase64); err != nil {
			return logic.PushRequest{}, badField("body_base64: standard base64 with padding")
		}
	}
	if request.Kind != nil {
		kind, ok := message.ParseKind(*request.Kind)
		if !ok {
			return logic.PushRequest{}, badField("kind: one of none, chat, notice, receipt, signal, revoke and system")
		}
		p.Message.Kind = kind
	}
	if err := request.times(&p); err != nil {
		return logic.PushRequest{}, err
	}
	if err := request.flags(&p); err != nil {
		return logic.PushRequest{}, err
	}
	if request.Results != nil && !*request.Results {
		if p.Wait > 0 {
			return logic.PushRequest{}, badField("results: true with wait, which answers in them")
		}
		p.States = false
	}
	p.Targets = make([]message.Target, 0, len(request.Targets))
	for i, t := range request.Targets {
		target, ok := asTarget(t)
		if !ok {
			return logic.PushRequest{}, &logic.Refusal{Reason: logic.BadTarget,
				Message: "target " + itoa(i) + `: exactly one of {"key":"..."}, {"mid":1}, {"room":"type://id"} and {"all":true}, which may have "speed"`}
		}
		p.Targets = append(p.Targets, target)
	}
	return p, nil
}

func badField(text string) error { return &logic.Refusal{Reason: BadField, Message: text} }

// defaultWaitMS is how long wait waits that does not say.
const defaultWaitMS = 1000

// maxMS keeps milliseconds of a caller inside time.Duration.
const maxMS = math.MaxInt64 / int64(time.Millisecond)

// times reads the two durations; the core knows their limits.
func (r *pushRequest) times(p *logic.PushRequest) error {
	if r.TTLMS != nil {
		if *r.TTLMS < 0 || *r.TTLMS > maxMS {
			return badField("ttl_ms: 0 (never expires) or milliseconds")
		}
		p.TTL = time.Duration(*r.TTLMS) * time.Millisecond
	}
	switch {
	case r.Wait == nil && r.WaitMS == nil:
		return nil
	case r.Wait == nil || *r.Wait != "stored":
		return badField(`wait: "stored", which may have wait_ms`)
	}
	ms := int64(defaultWaitMS)
	if r.WaitMS != nil {
		ms = *r.WaitMS
	}
	if ms < 1 || ms > maxMS {
		return badField("wait_ms: 1 or more milliseconds")
	}
	p.Wait = time.Duration(ms) * time.Millisecond
	return nil
}

// flags reads what the caller says of flags.
func (r *pushRequest) flags(p *logic.PushRequest) error {
	for _, f := range []struct {
		flag message.Flags
		said *bool
	}{
		{message.Store, r.Store}, {message.Archive, r.Archive}, {message.Unread, r.Unread},
		{message.OfflinePush, r.OfflinePush}, {message.SenderSync, r.SenderSync}, {message.Urgent, r.Urgent},
	} {
		if f.said == nil {
			continue
		}
		p.Mask |= f.flag
		if *f.said {
			p.Set |= f.flag
		}
	}
	if r.Priority == nil {
		return nil
	}
	if r.Urgent != nil {
		return badField(`priority: not with urgent, which is priority "high"`)
	}
	p.Mask |= message.Urgent | message.Low
	switch *r.Priority {
	case "low":
		p.Set |= message.Low
	case "normal":
	case "high":
		p.Set |= message.Urgent
	default:
		return badField("priority: one of low, normal and high")
	}
	return nil
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
		return &logic.Refusal{Reason: UnknownField, Message: "unknown field " + name + ": api/push/openapi.yaml lists those that exist"}
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
