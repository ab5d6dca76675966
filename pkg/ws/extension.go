package ws

import "strings"

// The answer to an offer of permessage-deflate (RFC 7692). Both sides compress
// every message alone: so a server can share one compressed message among all
// receivers, and nobody keeps a window for an idle connection.
const (
	deflateName   = "permessage-deflate"
	deflateAnswer = deflateName + "; server_no_context_takeover; client_no_context_takeover"
)

// AcceptDeflate reads what a client offers in Sec-WebSocket-Extensions
// ([Handshake.Extensions]) and returns the answer to give to
// [AppendUpgradeWith]: the first offer of permessage-deflate that can be met,
// or "" if there is none. An offer with a parameter that is unknown, repeated
// or has a wrong value is declined (RFC 7692, section 7), and so is one that
// wants a server_max_window_bits below 15: the compressor's window is 32 KiB.
// Other extensions are passed over. A list that breaks the grammar is a
// *[HandshakeError] (RFC 6455, section 9.1).
func AcceptDeflate(offers string) (answer string, err error) {
	for rest := (list{offers}); ; {
		if rest.take(',') { // empty elements do not count
			continue
		}
		if rest.s == "" {
			return answer, nil
		}
		name, ok := rest.token()
		o := offer{declined: name != deflateName}
		for ok && rest.take(';') {
			var p parameter
			if p, ok = rest.parameter(); ok {
				o.add(p)
			}
		}
		if !ok || (!rest.take(',') && rest.s != "") {
			return "", badRequest("malformed Sec-WebSocket-Extensions")
		}
		if answer == "" && !o.declined {
			answer = deflateAnswer
			if o.serverWindow {
				answer += "; server_max_window_bits=15" // what is asked for is repeated (section 7.1.2.1)
			}
		}
	}
}

// offer is what one element of the list asks for.
type offer struct {
	declined     bool
	serverWindow bool
	seen         [4]bool
}

func (o *offer) add(p parameter) {
	at, valid := 0, false
	switch p.name {
	case "server_no_context_takeover":
		at, valid = 0, !p.valued
	case "client_no_context_takeover":
		at, valid = 1, !p.valued
	case "client_max_window_bits": // a client that could use less; it need not
		at, valid = 2, !p.valued || isWindowBits(p.value)
	case "server_max_window_bits":
		at, valid = 3, p.value == "15"
		o.serverWindow = true
	}
	if !valid || o.seen[at] {
		o.declined = true
	}
	o.seen[at] = true
}

// isWindowBits: 8 to 15 without leading zeros.
func isWindowBits(v string) bool {
	return v == "8" || v == "9" || (len(v) == 2 && v[0] == '1' && '0' <= v[1] && v[1] <= '5')
}

// list is what is left to read of a list with parameters.
type list struct{ s string }

type parameter struct {
	name, value string
	valued      bool
}

// take takes c, if it is next, and the blanks around it.
func (l *list) take(c byte) bool {
	l.s = strings.TrimLeft(l.s, " \t")
	if l.s == "" || l.s[0] != c {
		return false
	}
	l.s = strings.TrimLeft(l.s[1:], " \t")
	return true
}

func (l *list) token() (string, bool) {
	n := 0
	for n < len(l.s) && isTokenByte(l.s[n]) {
		n++
	}
	token := l.s[:n]
	l.s = l.s[n:]
	return token, n > 0
}

func (l *list) parameter() (p parameter, ok bool) {
	if p.name, ok = l.token(); !ok || !l.take('=') {
		return p, ok
	}
	p.valued = true
	if l.s != "" && l.s[0] == '"' {
		p.value, ok = l.quoted()
	} else {
		p.value, ok = l.token()
	}
	return p, ok
}

// quoted reads a quoted string, which must hold a token.
func (l *list) quoted() (string, bool) {
	var value []byte
	for i := 1; i < len(l.s); i++ {
		switch c := l.s[i]; {
		case c == '"':
			l.s = l.s[i+1:]
			return string(value), isToken(value)
		case c == '\\' && i+1 < len(l.s):
			i++
			value = append(value, l.s[i])
		default:
			value = append(value, c)
		}
	}
	return "", false
}
