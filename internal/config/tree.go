package config

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strings"
)

// A tree is the struct seen as sections and keys.
type tree struct {
	root     *section
	leaves   []*leaf             // in field order, depth first
	byKey    map[string]*leaf    // "tcp.bind"
	byEnv    map[string]*leaf    // "TCP_BIND"
	sections map[string]*section // "tcp"; the root is ""
}

type section struct {
	path  []string
	doc   string
	value reflect.Value
	items []item // field order
}

// An item is a key or a section.
type item struct {
	name string
	leaf *leaf
	sub  *section
}

type leaf struct {
	key    string
	env    string // without prefix
	doc    string
	secret bool
	kind   kind
	value  reflect.Value
	source string // the layer that set it last; "" means the default stands
}

// problemFinder is what a section may implement to judge its own values. It
// must not call its nested sections: the loader does.
type problemFinder interface{ Problems() []string }

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// plant builds the tree of the struct that dst points to.
func plant(dst any) (*tree, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: want a pointer to a struct, got %T", dst)
	}
	t := &tree{
		byKey:    make(map[string]*leaf),
		byEnv:    make(map[string]*leaf),
		sections: make(map[string]*section),
	}
	t.root = &section{value: v.Elem()}
	t.sections[""] = t.root
	if err := t.grow(t.root); err != nil {
		return nil, err
	}
	return t, nil
}

// plantValue also takes a struct by value, for the functions that only read.
func plantValue(src any) *tree {
	if v := reflect.ValueOf(src); v.Kind() == reflect.Struct {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		src = p.Interface()
	}
	t, err := plant(src)
	if err != nil {
		panic(err)
	}
	return t
}

func (t *tree) grow(s *section) error {
	typ := s.value.Type()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "-" {
			continue
		}
		where := typ.String() + "." + f.Name
		if !nameRE.MatchString(name) {
			return fmt.Errorf(`config: %s: toml tag %q is not snake_case; use "-" to keep the field out`, where, name)
		}
		path := append(append([]string(nil), s.path...), name)
		key := strings.Join(path, ".")
		if t.byKey[key] != nil || t.sections[key] != nil {
			return fmt.Errorf("config: %s: key %s is taken by another field", where, key)
		}
		if k := kindOf(f.Type); k != kindNone {
			if err := t.addLeaf(s, name, key, f, s.value.Field(i), k); err != nil {
				return fmt.Errorf("config: %s: %w", where, err)
			}
			continue
		}
		if f.Type.Kind() != reflect.Struct {
			return fmt.Errorf("config: %s: type %s cannot be configured", where, f.Type)
		}
		sub := &section{path: path, doc: f.Tag.Get("doc"), value: s.value.Field(i)}
		t.sections[key] = sub
		s.items = append(s.items, item{name: name, sub: sub})
		if err := t.grow(sub); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) addLeaf(s *section, name, key string, f reflect.StructField, v reflect.Value, k kind) error {
	l := &leaf{
		key:    key,
		env:    strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
		doc:    f.Tag.Get("doc"),
		secret: f.Tag.Get("secret") == "true",
		kind:   k,
		value:  v,
	}
	if other := t.byEnv[l.env]; other != nil {
		return fmt.Errorf("environment variable %s is the one of key %s too", l.env, other.key)
	}
	// TOML's integers are 64 bits with sign; a larger default could not be written.
	if k == kindUint && v.Uint() > math.MaxInt64 {
		return fmt.Errorf("default %d is above %d", v.Uint(), int64(math.MaxInt64))
	}
	t.leaves = append(t.leaves, l)
	t.byKey[key] = l
	t.byEnv[l.env] = l
	s.items = append(s.items, item{name: name, leaf: l})
	return nil
}

// child finds the key or section of that name in s.
func (s *section) child(name string) (item, bool) {
	for _, it := range s.items {
		if it.name == name {
			return it, true
		}
	}
	return item{}, false
}

func (s *section) key() string { return strings.Join(s.path, ".") }

// find resolves "tcp.bind", and "regions.bj" for the entry bj of a map.
func (t *tree) find(key string) (l *leaf, entry string) {
	if l := t.byKey[key]; l != nil {
		return l, ""
	}
	for i := len(key) - 1; i > 0; i-- {
		if key[i] != '.' {
			continue
		}
		if l := t.byKey[key[:i]]; l != nil {
			if l.kind.isMap() && i+1 < len(key) {
				return l, key[i+1:]
			}
			return nil, ""
		}
	}
	return nil, ""
}
