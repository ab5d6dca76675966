package comet

import (
	"github.com/perseid-im/perseid/pkg/wire"
	"github.com/perseid-im/perseid/pkg/ws"
)

// form is one way in which the same packets stand on the wire.
type form uint8

const (
	formStream          form = iota // packets back to back: TCP, version 1
	formPositions                   // formStream with the positions of stored pushes: TCP, version 2
	formWrapped                     // one WebSocket message with goim's op 9 around them: version 1
	formMessage                     // one WebSocket message: version 2
	formWrappedDeflated             // formWrapped with permessage-deflate
	formMessageDeflated             // formMessage with permessage-deflate
	formCount
)

const deflated = formWrappedDeflated - formWrapped

func (s *Session) form() form {
	f := formWrapped
	switch {
	case s.framing == Stream && s.ver >= uint8(wire.V2):
		return formPositions
	case s.framing == Stream:
		return formStream
	case s.ver >= uint8(wire.V2):
		f = formMessage
	}
	if s.deflate {
		f += deflated
	}
	return f
}

// packets is a run of push packets that leave together, encoded once per form
// and shared read-only by all receivers. It belongs to one bucket and is
// reused when no session refers to it any more.
type packets struct {
	forms     [formCount][]byte
	pages     [formCount]inPages
	stored    bool            // some have a position: formPositions is not formStream
	plain     [formCount]bool // a compressed form that would be no shorter
	deflater  ws.Deflater
	deflation *deflation
}

// inPages is where a form is in the loop's Pages.
type inPages struct {
	receivers int // so far
	at        int
	shared    bool // it is at at
}

func (p *packets) reset() {
	for i := range p.forms {
		if cap(p.forms[i]) > maxKeptBuffer {
			p.forms[i] = nil
		}
		p.forms[i] = p.forms[i][:0]
	}
	clear(p.plain[:])
	p.stored = false
}

// add appends a push; at is nil for one without a position. Version 1 gets a
// stored push as any other.
func (p *packets) add(op wire.Op, body []byte, at *wire.Position) {
	if at != nil && !p.stored {
		p.stored = true
		p.forms[formPositions] = append(p.forms[formPositions][:0], p.forms[formStream]...)
	}
	p.forms[formStream] = wire.AppendPacket(p.forms[formStream], wire.Header{Ver: wire.V1, Op: op}, body)
	switch {
	case at != nil:
		p.forms[formPositions] = wire.AppendPositioned(p.forms[formPositions], wire.Header{Ver: wire.V2, Op: op}, at, body)
	case p.stored:
		p.forms[formPositions] = wire.AppendPacket(p.forms[formPositions], wire.Header{Ver: wire.V1, Op: op}, body)
	}
	for i := formWrapped; i < formCount; i++ {
		p.forms[i], p.plain[i] = p.forms[i][:0], false
	}
}

func (p *packets) size() int { return len(p.forms[formStream]) }

// raw is the packets back to back as version 2 gets them.
func (p *packets) raw() []byte {
	if p.stored {
		return p.forms[formPositions]
	}
	return p.forms[formStream]
}

func (p *packets) encoded(f form) []byte {
	if f == formPositions {
		return p.raw()
	}
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
		raw = p.raw()
		p.forms[f] = append(ws.AppendHeader(p.forms[f], ws.OpBinary, true, len(raw)), raw...)
	default:
		return p.compressed(f)
	}
	return p.forms[f]
}

// compressed is encoded for the first receiver of a compressed form; the
// others find it made.
func (p *packets) compressed(f form) []byte {
	raw := p.forms[formStream]
	if f == formMessageDeflated {
		raw = p.raw()
	}
	if len(raw) < p.deflation.minBytes || p.plain[f] {
		return p.encoded(f - deflated)
	}
	message := raw
	if f == formWrappedDeflated {
		whole := p.encoded(formWrapped)
		message = whole[len(whole)-len(raw)-wire.HeaderLen:]
	}
	var ok bool
	if p.forms[f], ok = p.deflater.AppendFrame(p.forms[f], ws.OpBinary, message); !ok {
		p.plain[f] = true
		p.deflation.useless()
		return p.encoded(f - deflated)
	}
	p.deflation.done(len(message), len(p.forms[f]))
	return p.forms[f]
}
