package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

var (
	// ErrClosed is the end of a connection that this side closed.
	ErrClosed = errors.New("connection closed by this side")
	// ErrVersion says that something needs version 2 of the protocol: a method
	// on a connection of version 1, or this client from a server that speaks
	// only version 1.
	ErrVersion = errors.New("version 2 of the protocol needed")
	// errTooLarge says that something does not fit into a packet. It was not sent.
	errTooLarge = errors.New("too large")
)

// RefusedError is the server's no to one request (version 2).
type RefusedError struct {
	Op        wire.Op // of the request; wire.OpAuth is a refused connection
	Code      int
	Reason    string
	Reconnect bool // of a refused connection: a later one may be accepted
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s refused with code %d: %.200q", opName(e.Op), e.Code, e.Reason)
}

// CloseError is the server's end of a connection: its bye (version 2), or the
// code of its WebSocket close frame. Codes 3000-3499 ask for a reconnect,
// 3500-3999 to stay away.
type CloseError struct {
	Code       int
	Reason     string
	Reconnect  bool
	RetryAfter time.Duration // the server asks to stay away for this long; 0 = not said
	Node       string        // the comet that said it, if it told
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the server with code %d: %.200q", e.Code, e.Reason)
}

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = time.Hour

// stayAway tells whether a connection that ended like this is not to be
// repeated.
func stayAway(err error) bool {
	if refused, ok := errors.AsType[*RefusedError](err); ok && refused.Op == wire.OpAuth {
		return !refused.Reconnect
	}
	if closed, ok := errors.AsType[*CloseError](err); ok {
		return !closed.Reconnect
	}
	return errors.Is(err, ErrVersion)
}

// retryAfter is the pause that the server asked for.
func retryAfter(err error) time.Duration {
	if closed, ok := errors.AsType[*CloseError](err); ok {
		return closed.RetryAfter
	}
	return 0
}

// byeError reads the body of a bye packet.
func byeError(body []byte) error {
	var bye struct {
		Code      int    `json:"code"`
		Reason    string `json:"reason"`
		Reconnect bool   `json:"reconnect"`
		RetryMS   int64  `json:"retry_ms"`
		Node      string `json:"node"`
	}
	if err := json.Unmarshal(body, &bye); err != nil {
		return fmt.Errorf("bye: %w", err)
	}
	wait := min(max(bye.RetryMS, 0), maxRetryAfter.Milliseconds())
	return &CloseError{
		Code: bye.Code, Reason: bye.Reason, Reconnect: bye.Reconnect,
		RetryAfter: time.Duration(wait) * time.Millisecond, Node: bye.Node,
	}
}

// closeFrameError is the end by a WebSocket close frame without a bye.
func closeFrameError(ev ws.Event) error {
	return &CloseError{Code: int(ev.Code), Reason: ev.Reason, Reconnect: ev.Code < 3500 || ev.Code > 3999}
}

func opName(op wire.Op) string {
	switch op {
	case wire.OpHeartbeat:
		return "heartbeat"
	case wire.OpAuth:
		return "auth"
	case wire.OpChangeRoom:
		return "change room"
	case wire.OpSub:
		return "sub"
	case wire.OpUnsub:
		return "unsub"
	case wire.OpJoin:
		return "join"
	case wire.OpLeave:
		return "leave"
	case wire.OpSendMsg:
		return "publish"
	case wire.OpSync:
		return "sync"
	case wire.OpAck:
		return "ack"
	case wire.OpRead:
		return "read"
	case wire.OpHistory:
		return "history"
	}
	return fmt.Sprintf("op %d", op)
}
