package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxFileBytes is far above any honest configuration; it keeps a wrong -conf
// (a log, a disk image) from being read into memory.
const maxFileBytes = 1 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("larger than %d bytes: not a configuration", maxFileBytes)
	}
	return data, nil
}

// applyFile is the layer of the TOML file.
func (t *tree) applyFile(name string, data []byte) []Problem {
	var top map[string]toml.Primitive
	meta, err := toml.Decode(string(data), &top)
	if err != nil {
		return []Problem{t.syntaxProblem(name, data, err)}
	}
	r := fileReader{tree: t, name: name, meta: &meta}
	r.table(t.root, top)
	slices.SortStableFunc(r.found, func(a, b located) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return strings.Compare(a.Key, b.Key)
	})
	problems := make([]Problem, len(r.found))
	for i, l := range r.found {
		problems[i] = l.Problem
	}
	return problems
}

func (t *tree) syntaxProblem(name string, data []byte, err error) Problem {
	p := Problem{Source: name, Message: err.Error()}
	var syntax toml.ParseError
	if !errors.As(err, &syntax) {
		return p
	}
	p.Source = fmt.Sprintf("%s:%d", name, syntax.Position.Line)
	p.Message = syntax.Message
	if p.Message == "" {
		p.Message = "not TOML"
	}
	// The library repeats the words it stumbled over.
	if t.secretAt(data, syntax.Position.Line) {
		p.Message = "not TOML near a secret, so without details"
	}
	return p
}

// secretAt tells whether the given line, counted from 1, may belong to the
// value of a secret. The file is not TOML, so it goes by the looks: the nearest
// line from there upwards that sets a known key decides.
func (t *tree) secretAt(data []byte, line int) bool {
	lines := strings.Split(string(data), "\n")
	for i := min(line, len(lines)) - 1; i >= 0; i-- {
		key, _, ok := strings.Cut(lines[i], "=")
		if !ok {
			continue
		}
		name := fold(strings.Trim(key[strings.LastIndexByte(key, '.')+1:], " \t\"'"))
		known := false
		for _, l := range t.leaves {
			if l.key[strings.LastIndexByte(l.key, '.')+1:] != name {
				continue
			}
			if l.secret {
				return true
			}
			known = true
		}
		if known {
			return false
		}
	}
	return false
}

type fileReader struct {
	tree  *tree
	name  string
	meta  *toml.MetaData
	found []located
}

type located struct {
	Problem
	line int
}

func (r *fileReader) report(line int, p Problem) {
	r.found = append(r.found, located{Problem: p, line: line})
}

func (r *fileReader) source(line int) string {
	if line == 0 { // dotted parents have no position
		return r.name
	}
	return fmt.Sprintf("%s:%d", r.name, line)
}

// table applies the entries of one TOML table to a section.
func (r *fileReader) table(s *section, entries map[string]toml.Primitive) {
	for name, primitive := range entries {
		data, line := inspect(r.meta, primitive)
		key := toml.Key(append(append([]string(nil), s.path...), name)).String()
		it, ok := s.child(name)
		switch {
		case !ok:
			r.report(line, unknown(r.source(line), "key", key, r.tree.suggestKey(key)))
		case it.leaf != nil:
			if allowed := assign(it.leaf.value, it.leaf.kind, data); allowed != "" {
				r.refuse(it.leaf, key, primitive, allowed)
				continue
			}
			it.leaf.source = r.source(line)
		default:
			var inner map[string]toml.Primitive
			if _, isTable := data.(map[string]any); !isTable {
				r.report(line, Problem{Source: r.source(line), Key: key, Message: "want a table, [" + key + "]"})
				continue
			}
			if err := r.meta.PrimitiveDecode(primitive, &inner); err != nil {
				r.report(line, Problem{Source: r.source(line), Key: key, Message: err.Error()})
				continue
			}
			r.table(it.sub, inner)
		}
	}
}

// refuse reports a value that does not fit; of a map, the entries that do not.
func (r *fileReader) refuse(l *leaf, key string, primitive toml.Primitive, allowed string) {
	data, line := inspect(r.meta, primitive)
	var entries map[string]toml.Primitive
	if _, isTable := data.(map[string]any); !isTable || !l.kind.isMap() || r.meta.PrimitiveDecode(primitive, &entries) != nil {
		r.report(line, refused(r.source(line), l, key, data, allowed))
		return
	}
	for name, entry := range entries {
		data, line := inspect(r.meta, entry)
		e := reflect.New(l.value.Type().Elem()).Elem()
		if allowed := assign(e, l.kind.elem(), data); allowed != "" {
			r.report(line, refused(r.source(line), l, key+"."+toml.Key{name}.String(), data, allowed))
		}
	}
}

// inspect gives the value behind a primitive and its line, 0 if unknown. The
// library tells positions only in errors, so the probe fails on purpose.
func inspect(meta *toml.MetaData, p toml.Primitive) (data any, line int) {
	var probe probe
	var position toml.ParseError
	if errors.As(meta.PrimitiveDecode(p, &probe), &position) {
		line = position.Position.Line
	}
	return probe.data, line
}

type probe struct{ data any }

var errProbe = errors.New("probe")

// UnmarshalTOML keeps the value and provokes the error that has the position.
func (p *probe) UnmarshalTOML(data any) error {
	p.data = data
	return errProbe
}
