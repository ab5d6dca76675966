package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// kind is how a key is written.
type kind int

const (
	kindNone kind = iota // not a key
	kindString
	kindBool
	kindInt
	kindUint
	kindFloat
	kindDuration
	kindStrings
	kindInts
	kindStringMap // map[string]string
	kindListMap   // map[string][]string
)

var durationType = reflect.TypeFor[time.Duration]()

func kindOf(t reflect.Type) kind {
	if t == durationType {
		return kindDuration
	}
	switch t.Kind() {
	case reflect.String:
		return kindString
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return kindInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return kindUint
	case reflect.Float32, reflect.Float64:
		return kindFloat
	case reflect.Slice:
		switch kindOf(t.Elem()) {
		case kindString:
			return kindStrings
		case kindInt:
			return kindInts
		}
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return kindNone
		}
		switch kindOf(t.Elem()) {
		case kindString:
			return kindStringMap
		case kindStrings:
			return kindListMap
		}
	}
	return kindNone
}

func (k kind) isMap() bool { return k == kindStringMap || k == kindListMap }

func (k kind) String() string {
	switch k {
	case kindString:
		return "string"
	case kindBool:
		return "bool"
	case kindInt, kindUint:
		return "integer"
	case kindFloat:
		return "number"
	case kindDuration:
		return "duration"
	case kindStrings:
		return "list of strings"
	case kindInts:
		return "list of integers"
	case kindStringMap:
		return "table of strings"
	case kindListMap:
		return "table of string lists"
	}
	return "none"
}

// fromText turns the text of a variable or setting into what the TOML library
// would have decoded. Text that is not of the kind stays a string, for assign
// to refuse.
func fromText(k kind, text string) any {
	switch k {
	case kindBool:
		if b, err := strconv.ParseBool(text); err == nil {
			return b
		}
	case kindInt, kindUint:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	case kindFloat:
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	case kindStrings, kindInts:
		list := []any{}
		if strings.TrimSpace(text) == "" {
			return list
		}
		elem := kindString
		if k == kindInts {
			elem = kindInt
		}
		for part := range strings.SplitSeq(text, ",") {
			list = append(list, fromText(elem, strings.TrimSpace(part)))
		}
		return list
	case kindStringMap, kindListMap:
		table := map[string]any{}
		for part := range strings.SplitSeq(text, ";") {
			if strings.TrimSpace(part) == "" {
				continue
			}
			name, value, ok := strings.Cut(part, "=")
			if !ok {
				return text
			}
			table[strings.TrimSpace(name)] = fromText(k.elem(), strings.TrimSpace(value))
		}
		return table
	}
	return text
}

// elem is the kind of a map's values.
func (k kind) elem() kind {
	if k == kindListMap {
		return kindStrings
	}
	return kindString
}

// assign sets v to a decoded TOML value, or returns what would be allowed and
// leaves v as it was. It never writes into a list or map that v shares.
func assign(v reflect.Value, k kind, data any) (allowed string) {
	switch k {
	case kindString:
		if s, ok := data.(string); ok {
			v.SetString(s)
			return ""
		}
	case kindBool:
		if b, ok := data.(bool); ok {
			v.SetBool(b)
			return ""
		}
	case kindInt:
		if n, ok := data.(int64); ok && !v.OverflowInt(n) {
			v.SetInt(n)
			return ""
		}
	case kindUint:
		if n, ok := data.(int64); ok && n >= 0 && !v.OverflowUint(uint64(n)) {
			v.SetUint(uint64(n))
			return ""
		}
	case kindFloat:
		f, ok := data.(float64)
		if n, isInt := data.(int64); isInt {
			f, ok = float64(n), true
		}
		if ok && (math.IsInf(f, 0) || !v.OverflowFloat(f)) {
			v.SetFloat(f)
			return ""
		}
	case kindDuration:
		if s, ok := data.(string); ok {
			if d, err := time.ParseDuration(strings.TrimSpace(s)); err == nil {
				v.SetInt(int64(d))
				return ""
			}
		}
	case kindStrings, kindInts:
		if assignList(v, data) {
			return ""
		}
	case kindStringMap, kindListMap:
		if assignMap(v, k, data) {
			return ""
		}
	}
	return allowedFor(v, k)
}

func assignList(v reflect.Value, data any) bool {
	list, ok := data.([]any)
	if !ok {
		return false
	}
	if len(list) == 0 {
		v.SetZero()
		return true
	}
	fresh := reflect.MakeSlice(v.Type(), len(list), len(list))
	elem := kindOf(v.Type().Elem())
	for i, e := range list {
		if assign(fresh.Index(i), elem, e) != "" {
			return false
		}
	}
	v.Set(fresh)
	return true
}

func assignMap(v reflect.Value, k kind, data any) bool {
	table, ok := data.(map[string]any)
	if !ok {
		return false
	}
	if len(table) == 0 {
		v.SetZero()
		return true
	}
	fresh := reflect.MakeMapWithSize(v.Type(), len(table))
	for name, e := range table {
		if !setEntry(fresh, k, name, e) {
			return false
		}
	}
	v.Set(fresh)
	return true
}

// assignEntry replaces one entry of a map, in a copy of it.
func assignEntry(v reflect.Value, k kind, name string, data any) (allowed string) {
	fresh := reflect.MakeMapWithSize(v.Type(), v.Len()+1)
	for it := v.MapRange(); it.Next(); {
		fresh.SetMapIndex(it.Key(), it.Value())
	}
	if !setEntry(fresh, k, name, data) {
		return allowedFor(v, k)
	}
	v.Set(fresh)
	return ""
}

func setEntry(m reflect.Value, k kind, name string, data any) bool {
	e := reflect.New(m.Type().Elem()).Elem()
	if assign(e, k.elem(), data) != "" {
		return false
	}
	m.SetMapIndex(reflect.ValueOf(name).Convert(m.Type().Key()), e)
	return true
}

func allowedFor(v reflect.Value, k kind) string {
	bits := func() int { return v.Type().Bits() }
	switch k {
	case kindString:
		return "want a string"
	case kindBool:
		return "want true or false"
	case kindInt:
		return fmt.Sprintf("want an integer from %d to %d", int64(-1)<<(bits()-1), int64(math.MaxInt64)>>(64-bits()))
	case kindUint:
		return fmt.Sprintf("want an integer from 0 to %d", min(math.MaxInt64, uint64(math.MaxUint64)>>(64-bits())))
	case kindFloat:
		return "want a number"
	case kindDuration:
		return `want a duration with unit, such as "500ms", "1.5s" or "2m"`
	case kindStrings:
		return "want a list of strings"
	case kindInts:
		return "want a list of integers"
	case kindStringMap:
		return "want a table of strings"
	default:
		return "want a table of lists of strings"
	}
}
