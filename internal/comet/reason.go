package comet

// Reason says why a session ended. It is a value, not an error: metrics, the
// bye packet and the WebSocket close code all come from it. Codes 3000-3499
// tell the client to reconnect with backoff, 3500-3999 to stay away.
type Reason uint8

// The reasons. docs/protocol.md has the line for SDK authors.
const (
	PeerClosed       Reason = iota // the client or the network ended it
	Draining                       // this comet stops
	SlowConsumer                   // the outbox is full
	HeartbeatTimeout               // nothing that counts as a heartbeat came in time
	HandshakeTimeout               // not authenticated in time
	Internal                       // a fault of the server
	LogicUnavailable               // nobody could authenticate the session
	BadToken                       // logic refused the auth packet
	Kicked                         // an operator or policy ended it
	Limits                         // a limit of the connection or the node
	BadFrame                       // the bytes break the protocol
	Replaced                       // a newer connection has the same key
	NotAuthenticated               // a packet other than auth came first
	reasonCount
)

type reasonInfo struct {
	code uint16
	name string
}

func (r Reason) info() reasonInfo {
	switch r {
	case PeerClosed:
		return reasonInfo{1000, "peer_closed"}
	case Draining:
		return reasonInfo{3001, "draining"}
	case SlowConsumer:
		return reasonInfo{3008, "slow_consumer"}
	case HeartbeatTimeout:
		return reasonInfo{3010, "heartbeat_timeout"}
	case HandshakeTimeout:
		return reasonInfo{3011, "handshake_timeout"}
	case LogicUnavailable:
		return reasonInfo{3101, "logic_unavailable"}
	case BadToken:
		return reasonInfo{3500, "bad_token"}
	case Kicked:
		return reasonInfo{3501, "kicked"}
	case Limits:
		return reasonInfo{3502, "limits"}
	case BadFrame:
		return reasonInfo{3503, "bad_frame"}
	case Replaced:
		return reasonInfo{3504, "replaced"}
	case NotAuthenticated:
		return reasonInfo{3505, "not_authenticated"}
	}
	return reasonInfo{3100, "internal"}
}

// Code is the number in the bye packet and the WebSocket close frame.
func (r Reason) Code() uint16 { return r.info().code }

// String is the label in metrics and the reason in the bye packet.
func (r Reason) String() string { return r.info().name }

// Reconnect tells whether the client should come back.
func (r Reason) Reconnect() bool { return r.Code() < 3500 }

// ReasonOf maps a code of logic to a Reason.
func ReasonOf(code uint16) Reason {
	for r := range reasonCount {
		if r.Code() == code {
			return r
		}
	}
	if code >= 3500 && code < 4000 {
		return BadToken
	}
	return Internal
}

// ReasonNames lists the labels of all reasons, indexed by Reason.
func ReasonNames() []string {
	names := make([]string, reasonCount)
	for r := range reasonCount {
		names[r] = r.String()
	}
	return names
}
