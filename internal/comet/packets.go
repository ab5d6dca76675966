package comet

import (
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// form is one way in which the same packets stand on the wire.
type form uint8

const (
	formStream  form = iota // packets back to back: TCP
	formWrapped             // one WebSocket message with goim's op 9 around them: version 1
	formMessage             // one WebSocket message: version 2
	formCount
)

func (s *Session) form() form {
	switch {
	case s.framing == Stream:
		return formStream
	case s.ver >= uint8(wire.V2):
		return formMessage
	}
	return formWrapped
}

// packets is a run of push packets that leave together, encoded once per form
// and shared read-only by all receivers. It belongs to one bucket and is
// reused when no session refers to it any more.
type packets struct {
	forms [formCount][]byte
}

func (p *packets) reset() {
	for i := range p.forms {
		if cap(p.forms[i]) > maxKeptBuffer {
			p.forms[i] = nil
		}
		p.forms[i] = p.forms[i][:0]
	}
}

func (p *packets) add(op wire.Op, body []byte) {
	p.forms[formStream] = wire.AppendPacket(p.forms[formStream], wire.Header{Ver: wire.V1, Op: op}, body)
	p.forms[formWrapped], p.forms[formMessage] = p.forms[formWrapped][:0], p.forms[formMessage][:0]
}

func (p *packets) size() int { return len(p.forms[formStream]) }

func (p *packets) encoded(f form) []byte {
	if len(p.forms[f]) > 0 || len(p.forms[formStream]) == 0 {
		return p.forms[f]
	}
	raw := p.forms[formStream]
	switch f {
	case formWrapped:
		b := ws.AppendHeader(p.forms[f], ws.OpBinary, true, wire.HeaderLen+len(raw))
		b = wire.AppendHeader(b, wire.Header{Ver: wire.V1, Op: wire.OpRaw}, len(raw))
		p.forms[f] = append(b, raw...)
	case formMessage:
		p.forms[f] = append(ws.AppendHeader(p.forms[f], ws.OpBinary, true, len(raw)), raw...)
	}
	return p.forms[f]
}
