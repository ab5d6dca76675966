package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// DefaultEnvPrefix is used when Options names none.
const DefaultEnvPrefix = "PERSEID_"

// Options are the layers above the defaults.
type Options struct {
	File      string   // TOML file, "" for none
	Env       []string // in the form of os.Environ; see Environ
	EnvPrefix string   // "" means DefaultEnvPrefix
	Sets      []string // "section.key=value", each from one -set flag
}

// Environ is the environment of the process. It stands here because no other
// package reads it.
func Environ() []string { return os.Environ() }

// Load applies the layers to dst, a pointer to a struct filled with defaults,
// and then asks its sections for problems. A wrong configuration gives an
// *Error with all problems; dst is then not to be used.
func Load(dst any, opts Options) error {
	t, err := plant(dst)
	if err != nil {
		return err
	}
	if opts.EnvPrefix == "" {
		opts.EnvPrefix = DefaultEnvPrefix
	}
	var problems []Problem
	if opts.File != "" {
		data, err := readFile(opts.File)
		if err != nil {
			problems = append(problems, unreadable(opts.File, err))
		} else {
			problems = append(problems, t.applyFile(opts.File, data)...)
		}
	}
	problems = append(problems, t.applyEnv(opts.EnvPrefix, opts.Env)...)
	problems = append(problems, t.applySets(opts.Sets)...)
	problems = append(problems, t.validate()...)
	if len(problems) == 0 {
		return nil
	}
	return &Error{Problems: distinct(problems)}
}

func unreadable(name string, err error) Problem {
	message := err.Error()
	var path *fs.PathError
	if errors.As(err, &path) {
		message = path.Err.Error()
	}
	return Problem{Source: name, Message: "cannot read the file: " + message, cause: err}
}

// distinct drops repetitions: a section that checks its parts by itself and
// the loader may both have found the same.
func distinct(problems []Problem) []Problem {
	seen := make(map[string]bool, len(problems))
	return slices.DeleteFunc(problems, func(p Problem) bool {
		line := p.String()
		dup := seen[line]
		seen[line] = true
		return dup
	})
}

// serviceLinkRE matches the variables that Kubernetes puts into a pod for each
// service of its namespace: a service named perseid would otherwise keep the
// daemons from starting.
var serviceLinkRE = regexp.MustCompile(`^([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

func exempt(name, value string) bool {
	switch {
	case strings.HasPrefix(name, "TEST_"), name == "CACHE", name == "FAIL":
		return true // for the tests and scripts of the project
	case serviceLinkRE.MatchString(name):
		return true
	case name == "PORT" || strings.HasSuffix(name, "_PORT"):
		scheme, _, ok := strings.Cut(value, "://")
		return ok && (scheme == "tcp" || scheme == "udp" || scheme == "sctp")
	}
	return false
}

// applyEnv is the layer of the environment.
func (t *tree) applyEnv(prefix string, env []string) []Problem {
	var problems []Problem
	// The order of an environment means nothing; errors should not depend on it.
	// Stable, since of two values for one name the later one counts.
	env = slices.Clone(env)
	name := func(s string) string { before, _, _ := strings.Cut(s, "="); return before }
	slices.SortStableFunc(env, func(a, b string) int { return strings.Compare(name(a), name(b)) })
	for _, variable := range env {
		full, value, _ := strings.Cut(variable, "=")
		short, ok := strings.CutPrefix(full, prefix)
		if !ok {
			continue
		}
		source := "environment " + full
		l := t.byEnv[short]
		if l == nil {
			if !exempt(short, value) {
				problems = append(problems, unknown("environment", "variable", full, t.suggestEnv(prefix, short)))
			}
			continue
		}
		data := fromText(l.kind, value)
		if allowed := assign(l.value, l.kind, data); allowed != "" {
			problems = append(problems, refused(source, l, l.key, data, allowed))
			continue
		}
		l.source = source
	}
	return problems
}

func (t *tree) suggestEnv(prefix, short string) string {
	candidates := make([]string, 0, len(t.leaves))
	for _, l := range t.leaves {
		candidates = append(candidates, l.env)
	}
	if s := nearest(short, candidates); s != "" {
		return prefix + s
	}
	return ""
}

// applySets is the layer of the -set flags, in their order.
func (t *tree) applySets(sets []string) []Problem {
	const source = "-set"
	var problems []Problem
	for _, set := range sets {
		key, value, ok := strings.Cut(set, "=")
		key = strings.TrimSpace(key)
		l, entry := t.find(key)
		switch {
		case !ok || key == "":
			// What stands there may be a secret: its key is repeated, if it is one.
			if l == nil {
				key = ""
			}
			problems = append(problems, Problem{Source: source, Key: key, Message: "want section.key=value"})
			continue
		case l == nil && t.sections[key] != nil:
			problems = append(problems, Problem{Source: source, Key: key, Message: fmt.Sprintf("%s is a section; set one of its keys", key)})
			continue
		case l == nil:
			problems = append(problems, unknown(source, "key", key, t.suggestKey(key)))
			continue
		}
		var data any
		var allowed string
		if entry != "" {
			data = fromText(l.kind.elem(), value)
			allowed = assignEntry(l.value, l.kind, entry, data)
		} else {
			data = fromText(l.kind, value)
			allowed = assign(l.value, l.kind, data)
		}
		if allowed != "" {
			problems = append(problems, refused(source, l, key, data, allowed))
			continue
		}
		l.source = source
	}
	return problems
}
