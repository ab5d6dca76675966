package config

import (
	"fmt"
	"strings"
)

// hidden stands for the value of a secret.
const hidden = "***"

// Error is everything that is wrong with a configuration.
type Error struct {
	Problems []Problem
}

// A Problem is one thing to correct.
type Problem struct {
	Source  string // where it was set: "comet.toml:12", "environment PERSEID_X", "-set", "default"
	Key     string // "tcp.bind"; for unknown ones as it was written
	Value   string // as TOML, "***" for a secret, "" when the value does not matter
	Message string // what is allowed

	cause error
}

// Error lists the problems, one line each.
func (e *Error) Error() string {
	var b strings.Builder
	if len(e.Problems) == 1 {
		b.WriteString("config: 1 problem")
	} else {
		fmt.Fprintf(&b, "config: %d problems", len(e.Problems))
	}
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		b.WriteString(p.String())
	}
	return b.String()
}

// Unwrap gives the errors of the operating system, so that a missing file is
// fs.ErrNotExist.
func (e *Error) Unwrap() []error {
	var causes []error
	for _, p := range e.Problems {
		if p.cause != nil {
			causes = append(causes, p.cause)
		}
	}
	return causes
}

// String is the problem on one line: source: key = value: what is allowed.
func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source + ": ")
	}
	switch {
	case p.Value != "":
		b.WriteString(p.Key + " = " + p.Value + ": ")
	case p.Key != "" && !strings.Contains(p.Message, p.Key):
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return oneLine(b.String())
}

// refused is the problem of a value that does not fit its key.
func refused(source string, l *leaf, key string, data any, allowed string) Problem {
	value := show(data)
	if l.secret {
		value = hidden
	}
	return Problem{Source: source, Key: key, Value: value, Message: allowed}
}

// unknown is the problem of a name that is no key. It repeats no value: a
// misspelled secret is still a secret.
func unknown(source, what, name, suggestion string) Problem {
	message := "unknown " + what + " " + name
	if suggestion != "" {
		message += "; did you mean " + suggestion + "?"
	}
	return Problem{Source: source, Key: name, Message: message}
}

// validate asks every section, outermost first, for its own problems.
func (t *tree) validate() []Problem {
	var found []Problem
	var walk func(s *section)
	walk = func(s *section) {
		if f, ok := s.value.Addr().Interface().(problemFinder); ok {
			for _, line := range f.Problems() {
				found = append(found, t.fromSection(s, line))
			}
		}
		for _, it := range s.items {
			if it.sub != nil {
				walk(it.sub)
			}
		}
	}
	walk(t.root)
	return found
}

// fromSection reads a section's "key = value: what is allowed". The value is
// taken from the field, so that a secret cannot slip through.
func (t *tree) fromSection(s *section, line string) Problem {
	prefix := s.key()
	if prefix != "" {
		prefix += "."
	}
	name, rest, ok := strings.Cut(line, " = ")
	if !ok {
		return t.loose(s, line)
	}
	l, _ := t.find(prefix + name)
	if l == nil {
		return t.loose(s, line)
	}
	message := ""
	for _, form := range l.forms() {
		if after, ok := strings.CutPrefix(rest, form+": "); ok {
			message = after
			break
		}
	}
	if message == "" {
		if _, after, ok := strings.Cut(rest, ": "); ok {
			message = after
		} else {
			message = "not allowed"
		}
	}
	source := l.source
	if source == "" {
		source = "default"
	}
	value := clip(render(l.value, l.kind))
	if l.secret {
		value = hidden
	}
	return Problem{Source: source, Key: prefix + name, Value: value, Message: t.censor(message)}
}

// loose is a problem that belongs to no single key.
func (t *tree) loose(s *section, line string) Problem {
	key := s.key()
	message := line
	if key != "" {
		first, _, _ := strings.Cut(line, " ")
		if _, ok := s.child(first); ok {
			message = key + "." + line
		} else {
			message = key + ": " + line
		}
	}
	return Problem{Key: key, Message: t.censor(message)}
}

// forms are the ways in which a section may have printed the value.
func (l *leaf) forms() []string {
	v := l.value.Interface()
	return []string{render(l.value, l.kind), fmt.Sprintf("%v", v), fmt.Sprintf("%q", v)}
}

// censor removes the values of all secrets from a text.
func (t *tree) censor(text string) string {
	for _, l := range t.leaves {
		if !l.secret {
			continue
		}
		for _, secret := range l.texts() {
			// One or two characters are no secret, and replacing them ruins the text.
			if len(secret) > 2 {
				text = strings.ReplaceAll(text, secret, hidden)
			}
		}
	}
	return text
}

// texts are the strings inside a value.
func (l *leaf) texts() []string {
	switch l.kind {
	case kindString:
		return []string{l.value.String()}
	case kindStrings, kindInts:
		list := make([]string, l.value.Len())
		for i := range list {
			list[i] = fmt.Sprint(l.value.Index(i).Interface())
		}
		return list
	case kindStringMap, kindListMap:
		var list []string
		for it := l.value.MapRange(); it.Next(); {
			if l.kind == kindStringMap {
				list = append(list, it.Value().String())
				continue
			}
			for i := range it.Value().Len() {
				list = append(list, it.Value().Index(i).String())
			}
		}
		return list
	}
	return []string{fmt.Sprint(l.value.Interface())}
}
