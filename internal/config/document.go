package config

import (
	"log/slog"
	"strings"
)

// Document writes the values of a configuration as the TOML that loads back to
// them, each key and section under its doc tag. Secrets are written as they
// are: it is for the defaults, never for a log (that is Redacted).
func Document(dst any) string {
	t := plantValue(dst)
	var b strings.Builder
	writeSection(&b, t.root)
	return b.String()
}

// writeSection writes the plain keys first: a TOML table extends to the next
// header, so maps and sections, which need a header, follow.
func writeSection(b *strings.Builder, s *section) {
	first := true
	for _, it := range s.items {
		if it.leaf == nil || it.leaf.kind.isMap() {
			continue
		}
		if !first {
			b.WriteByte('\n')
		}
		first = false
		writeDoc(b, it.leaf.doc)
		b.WriteString(it.name + " = " + render(it.leaf.value, it.leaf.kind) + "\n")
	}
	for _, it := range s.items {
		switch {
		case it.sub != nil:
			writeHeader(b, it.sub.doc, it.sub.key())
			writeSection(b, it.sub)
		case it.leaf.kind.isMap():
			writeHeader(b, it.leaf.doc, it.leaf.key)
			for _, line := range renderEntries(it.leaf.value, it.leaf.kind) {
				b.WriteString(line + "\n")
			}
		}
	}
}

func writeHeader(b *strings.Builder, doc, key string) {
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	writeDoc(b, doc)
	b.WriteString("[" + key + "]\n")
}

func writeDoc(b *strings.Builder, doc string) {
	if doc == "" {
		return
	}
	for line := range strings.Lines(doc) {
		b.WriteString("# " + oneLine(strings.TrimRight(line, "\n")) + "\n")
	}
}

// A Key describes one setting, for documentation.
type Key struct {
	Path    string // "tcp.bind"
	Env     string // "PERSEID_TCP_BIND"
	Type    string // "duration", "list of strings", ...
	Default string // as TOML; "***" for a secret that is set
	Doc     string
	Secret  bool
}

// Keys lists the settings of a configuration in the order of its fields, with
// the current values as defaults.
func Keys(dst any) []Key {
	t := plantValue(dst)
	keys := make([]Key, 0, len(t.leaves))
	for _, l := range t.leaves {
		keys = append(keys, Key{
			Path:    l.key,
			Env:     DefaultEnvPrefix + l.env,
			Type:    l.kind.String(),
			Default: l.public(),
			Doc:     l.doc,
			Secret:  l.secret,
		})
	}
	return keys
}

// Redacted is the configuration for a log: slog.Any("config", Redacted(cfg)).
// Secrets that are set are shown as "***".
func Redacted(dst any) slog.Value {
	return redacted(plantValue(dst).root)
}

func redacted(s *section) slog.Value {
	attrs := make([]slog.Attr, 0, len(s.items))
	for _, it := range s.items {
		switch {
		case it.sub != nil:
			attrs = append(attrs, slog.Attr{Key: it.name, Value: redacted(it.sub)})
		case it.leaf.kind == kindString && !it.leaf.secret:
			attrs = append(attrs, slog.String(it.name, it.leaf.value.String()))
		default:
			attrs = append(attrs, slog.String(it.name, it.leaf.public()))
		}
	}
	return slog.GroupValue(attrs...)
}

// public is the value as TOML, unless it is a secret. An unset secret is shown
// as unset: that it is missing is worth knowing.
func (l *leaf) public() string {
	if l.secret && !l.value.IsZero() {
		return hidden
	}
	return render(l.value, l.kind)
}
