package ws

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/big"
	"regexp"
)

// model is RFC 6455 read a second time, slowly and from the whole wire at once:
// what FuzzFrames compares the Reader with. It shares no code with it, not even
// the standard library's UTF-8.
func model(wire []byte, maxMessage int, server, deflate bool) []string {
	var (
		trace     []string
		assembled []byte
		inside    bool
		textual   bool
		packed    bool
		count     int
		empty     int
	)
	violation := func(code int) []string { return append(trace, failed(code)) }
	for {
		frame := wire
		take := func(n int) ([]byte, bool) {
			if len(frame) < n {
				return nil, false
			}
			part := frame[:n]
			frame = frame[n:]
			return part, true
		}

		b, ok := take(1)
		if !ok {
			return trace
		}
		last, rsv, op := b[0] >= 128, b[0]/16%8, b[0]%16
		control := op == 8 || op == 9 || op == 10
		compressed := deflate && rsv == 4 && (op == 1 || op == 2)
		if (rsv != 0 && !compressed) || (op > 2 && !control) || (control && !last) ||
			(op == 0 && !inside) || (op != 0 && !control && inside) {
			return violation(1002)
		}

		if b, ok = take(1); !ok {
			return trace
		}
		masked, n := b[0] >= 128, big.NewInt(int64(b[0]%128))
		if masked == server || (control && b[0]%128 > 125) {
			return violation(1002)
		}
		if more := map[byte]int{126: 2, 127: 8}[b[0]%128]; more > 0 {
			if b, ok = take(more); !ok {
				return trace
			}
			n.SetBytes(b)
			least := map[int]int64{2: 126, 8: 65536}[more]
			if n.Cmp(big.NewInt(least)) < 0 || n.BitLen() > 63 {
				return violation(1002)
			}
		}
		if !control {
			total := new(big.Int).Add(n, big.NewInt(int64(len(assembled))))
			limit := int64(maxMessage)
			if compressed || (inside && packed) {
				limit += limit/16 + 64
			}
			if total.Cmp(big.NewInt(limit)) > 0 || count == MaxFragments ||
				(n.Sign() == 0 && empty == MaxEmptyFragments) {
				return violation(1009)
			}
		}

		var mask []byte
		if masked {
			if mask, ok = take(4); !ok {
				return trace
			}
		}
		data, ok := take(int(n.Int64()))
		if !ok {
			return trace
		}
		var payload []byte
		for i, c := range data {
			if masked {
				c ^= mask[i%4]
			}
			payload = append(payload, c)
		}

		switch op {
		case 8:
			if len(payload) == 0 {
				return append(trace, closed(1005, ""))
			}
			if len(payload) == 1 {
				return violation(1002)
			}
			code := int(payload[0])*256 + int(payload[1])
			if !modelCode(code) {
				return violation(1002)
			}
			if valid, _ := modelUTF8(payload[2:]); !valid {
				return violation(1007)
			}
			return append(trace, closed(code, string(payload[2:])))
		case 9:
			trace = append(trace, ping(string(payload)))
		case 10:
			trace = append(trace, pong(string(payload)))
		default:
			if !inside {
				textual, packed = op == 1, compressed
			}
			count++
			if len(payload) == 0 {
				empty++
			}
			assembled = append(assembled, payload...)
			if packed && last {
				var code int
				if assembled, code = modelInflate(assembled, maxMessage); code != 0 {
					return violation(code)
				}
			}
			if textual && (last || !packed) {
				valid, hope := modelUTF8(assembled)
				if (last && !valid) || !hope {
					return violation(1007)
				}
			}
			inside = !last
			if last {
				kind := binaryMsg
				if textual {
					kind = text
				}
				trace = append(trace, kind(string(assembled)))
				assembled, count, empty = nil, 0, 0
			}
		}
		wire = frame
	}
}

// modelInflate knows the standard library's inflater only.
func modelInflate(payload []byte, maxMessage int) (message []byte, code int) {
	sent := len(payload)
	src := bytes.NewReader(append(bytes.Clone(payload), 0, 0, 0xFF, 0xFF, 1, 0, 0, 0xFF, 0xFF))
	for last := 1; ; last++ {
		part, err := io.ReadAll(io.LimitReader(flate.NewReader(src), int64(maxMessage+1-len(message))))
		message = append(message, part...)
		if len(message) > maxMessage {
			return nil, 1009
		}
		var corrupt flate.CorruptInputError
		if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, 1007
		}
		if int(src.Size())-src.Len() >= sent {
			return message, 0
		}
		if last == 17 {
			return nil, 1009
		}
	}
}

func modelCode(code int) bool {
	switch code {
	case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014:
		return true
	}
	return code/1000 == 3 || code/1000 == 4
}

// modelUTF8 follows the grammar of RFC 3629, section 4. hope: something could
// still be appended to make b valid.
func modelUTF8(b []byte) (valid, hope bool) {
	type span struct{ lo, hi byte }
	tail := span{0x80, 0xBF}
	forms := [][]span{
		{{0x00, 0x7F}},
		{{0xC2, 0xDF}, tail},
		{{0xE0, 0xE0}, {0xA0, 0xBF}, tail},
		{{0xE1, 0xEC}, tail, tail},
		{{0xED, 0xED}, {0x80, 0x9F}, tail},
		{{0xEE, 0xEF}, tail, tail},
		{{0xF0, 0xF0}, {0x90, 0xBF}, tail, tail},
		{{0xF1, 0xF3}, tail, tail, tail},
		{{0xF4, 0xF4}, {0x80, 0x8F}, tail, tail},
	}
next:
	for len(b) > 0 {
		for _, form := range forms {
			matched := 0
			for matched < min(len(form), len(b)) && form[matched].lo <= b[matched] && b[matched] <= form[matched].hi {
				matched++
			}
			if matched == len(form) {
				b = b[matched:]
				continue next
			}
			if matched == len(b) {
				return false, true
			}
		}
		return false, false
	}
	return true, true
}

// modelAccept is AcceptDeflate in regular expressions.
func modelAccept(offers string) string {
	const (
		token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
		param = `[ \t]*;[ \t]*(` + token + `)(?:[ \t]*(=)[ \t]*(` + token + `|"(?:[^"\\]|\\.)*"))?`
		name  = `(` + token + `)`
		item  = name + `((?:` + param + `)*)`
	)
	whole := regexp.MustCompile(`(?s)^[ \t,]*(?:` + item + `(?:[ \t]*,[ \t,]*` + item + `)*)?[ \t,]*$`)
	if !whole.MatchString(offers) {
		return "400"
	}
	unescape := regexp.MustCompile(`(?s)\\(.)`)
	bits := regexp.MustCompile(`^(8|9|1[0-5])$`)
	accepted := ""
	for _, element := range regexp.MustCompile(`(?s)`+item).FindAllStringSubmatch(offers, -1) {
		answer, declined := deflateAnswer, element[1] != "permessage-deflate"
		seen := map[string]bool{}
		for _, p := range regexp.MustCompile(`(?s)`+param).FindAllStringSubmatch(element[2], -1) {
			key, valued, value := p[1], p[2] != "", p[3]
			if len(value) > 1 && value[0] == '"' {
				value = unescape.ReplaceAllString(value[1:len(value)-1], "$1")
				if !regexp.MustCompile(`^` + token + `$`).MatchString(value) {
					return "400"
				}
			}
			valid := map[string]bool{
				"server_no_context_takeover": !valued,
				"client_no_context_takeover": !valued,
				"client_max_window_bits":     !valued || bits.MatchString(value),
				"server_max_window_bits":     value == "15",
			}
			declined = declined || !valid[key] || seen[key]
			seen[key] = true
			if key == "server_max_window_bits" {
				answer += "; server_max_window_bits=15"
			}
		}
		if !declined && accepted == "" {
			accepted = answer
		}
	}
	return accepted
}
