package config

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

var bareKeyRE = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// render writes a value as TOML, on one line.
func render(v reflect.Value, k kind) string {
	switch k {
	case kindString:
		return quote(v.String())
	case kindBool:
		return strconv.FormatBool(v.Bool())
	case kindInt:
		return strconv.FormatInt(v.Int(), 10)
	case kindUint:
		return strconv.FormatUint(v.Uint(), 10)
	case kindFloat:
		return renderFloat(v.Float(), v.Type().Bits())
	case kindDuration:
		return quote(renderDuration(time.Duration(v.Int())))
	case kindStrings, kindInts:
		elem := kindOf(v.Type().Elem())
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = render(v.Index(i), elem)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case kindStringMap, kindListMap:
		if v.Len() == 0 {
			return "{}"
		}
		return "{ " + strings.Join(renderEntries(v, k), ", ") + " }"
	}
	return ""
}

// renderEntries writes the entries of a map as "name = value", sorted.
func renderEntries(v reflect.Value, k kind) []string {
	names := v.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	lines := make([]string, len(names))
	for i, name := range names {
		text := name.String()
		if !bareKeyRE.MatchString(text) {
			text = quote(text)
		}
		lines[i] = text + " = " + render(v.MapIndex(name), k.elem())
	}
	return lines
}

// renderDuration drops the zero units that time.Duration prints: "1m", not "1m0s".
func renderDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func renderFloat(f float64, bits int) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	s := strconv.FormatFloat(f, 'g', -1, bits)
	if !strings.ContainsAny(s, ".e") {
		s += ".0" // TOML tells integers and floats apart
	}
	return s
}

// quote writes a TOML basic string. strconv.Quote is not it: TOML has no \x
// escape and no \a or \v.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r) // an invalid byte arrives as U+FFFD: TOML is UTF-8
		}
	}
	b.WriteByte('"')
	return b.String()
}

// show writes a decoded TOML value for an error: one line, not too long.
func show(data any) string {
	switch d := data.(type) {
	case string:
		return clip(quote(d))
	case []any:
		parts := make([]string, 0, len(d))
		for _, e := range d {
			parts = append(parts, show(e))
		}
		return clip("[" + strings.Join(parts, ", ") + "]")
	case map[string]any, []map[string]any:
		return "a table"
	case float64:
		return renderFloat(d, 64)
	}
	return clip(oneLine(fmt.Sprint(data)))
}

// maxShown bounds what an error repeats of a value, in bytes.
const maxShown = 80

func clip(s string) string {
	if len(s) <= maxShown {
		return s
	}
	end := maxShown
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

// oneLine keeps a problem on its line: control characters become escapes.
func oneLine(s string) string {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if !strings.ContainsFunc(s, control) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if control(r) {
			q := quote(string(r))
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
