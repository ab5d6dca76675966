package archtest

import (
	"path"
	"slices"
	"strings"
)

// eachImport reports the imports of the files for which broken returns a text.
func eachImport(files []*File, broken func(imported string) string) []Finding {
	var found []Finding
	for _, f := range files {
		for _, spec := range f.AST.Imports {
			if text := broken(importPath(spec)); text != "" {
				found = append(found, f.finding(spec, "%s", text))
			}
		}
	}
	return found
}

func processCores() []string { return []string{"internal/comet", "internal/logic", "internal/job"} }

func portCores() []string {
	return []string{"internal/timeline", "internal/presence", "internal/stream", "internal/hotrooms"}
}

const (
	nouns   = "internal/message"
	handles = "internal/obs"
)

func isCore(p string) bool {
	return p == nouns || slices.Contains(processCores(), p) || slices.Contains(portCores(), p)
}

// roomOf is the core or other room of internal/ that a package belongs to.
func roomOf(p string) string {
	parts := strings.Split(p, "/")
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// processOf is the core of the process that a package belongs to, "" if none.
func processOf(p string) string {
	if room := roomOf(p); slices.Contains(processCores(), room) {
		return room
	}
	return ""
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func isStd(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// supportsTests: packages that only tests import.
func supportsTests(p string) bool {
	return within(p, "internal/testdeps") || within(p, "internal/leakcheck") || within(p, "internal/archtest") ||
		(within(p, "internal") || within(p, "pkg")) && strings.HasSuffix(path.Base(p), "test")
}

func processes(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		own := processOf(p.Path)
		if own == "" {
			continue
		}
		found = append(found, eachImport(p.written(), func(imported string) string {
			local, ok := t.local(imported)
			if other := processOf(local); ok && other != "" && other != own {
				return own + " imports " + local
			}
			return ""
		})...)
	}
	return found
}

func layers(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		found = append(found, eachImport(p.product(), func(imported string) string {
			local, ok := t.local(imported)
			if !ok || mayKnow(p.Path, local) {
				return ""
			}
			return p.Path + " must not know " + local
		})...)
	}
	return found
}

// mayKnow is the picture of the layers for the product's own packages. The
// rules processes, leaves, api and testsupport judge what it leaves open.
func mayKnow(from, to string) bool {
	room := roomOf(from)
	ports := slices.Contains(portCores(), to)
	switch {
	case to == "internal/failpoint":
		return true // it is nothing but in builds for tests
	case processOf(from) != "" && processOf(to) != "" && processOf(from) != processOf(to), supportsTests(to), within(to, "api"):
		return true // judged by other rules
	case within(to, "cmd"), to == "internal/app" && !within(from, "cmd"):
		return false
	case within(from, "internal/app"), within(from, "benchmarks"), within(from, "pkg"), from == nouns:
		return true
	case within(to, "pkg"):
		return true
	case within(from, "cmd"):
		return slices.Contains([]string{"internal/app", "internal/config", handles, "benchmarks/scenario"}, to)
	case within(from, "examples"):
		return false
	case processOf(from) != "" && from == room:
		return to == nouns || to == handles || ports
	case processOf(from) != "":
		return to == room || within(to, adapterOf(from)) || to == nouns || to == handles || ports || to == "internal/registry"
	case slices.Contains(portCores(), from):
		return to == nouns || to == handles
	case slices.Contains(portCores(), room):
		return to == room || within(to, adapterOf(from)) || to == nouns || to == handles ||
			to == "internal/redisconn" && strings.HasPrefix(path.Base(from), "redis")
	default: // the other rooms: obs, config, registry, embedded ...
		return within(to, room) || to == handles && room != handles
	}
}

// adapterOf is the folder below the core: an adapter may consist of several.
func adapterOf(p string) string {
	parts := strings.Split(p, "/")
	return strings.Join(parts[:min(3, len(parts))], "/")
}

func cores(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		if !isCore(p.Path) {
			continue
		}
		found = append(found, eachImport(p.product(), func(imported string) string {
			if _, local := t.local(imported); local || strings.HasPrefix(imported, "golang.org/x/sync/") {
				return ""
			}
			if isStd(imported) && imported != "net/http" && imported != "database/sql" {
				return ""
			}
			return "the core " + p.Path + " imports " + imported
		})...)
	}
	return found
}

func leaves(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		if p.Path != nouns && !within(p.Path, "pkg") {
			continue
		}
		for _, f := range p.written() {
			found = append(found, eachImport([]*File{f}, func(imported string) string {
				if leafMay(t, p.Path, imported, f.Test || supportsTests(p.Path)) {
					return ""
				}
				return p.Path + " imports " + imported
			})...)
		}
	}
	return found
}

func leafMay(t *Tree, from, imported string, test bool) bool {
	local, ok := t.local(imported)
	switch {
	case isStd(imported):
		return true
	case ok:
		return test && supportsTests(local) || within(local, from) || within(from, "pkg") && within(local, "pkg")
	default: // small, without dependencies, alive
		leaves := []string{"github.com/gobwas/", "github.com/klauspost/compress/flate", "golang.org/x/sync/"}
		return test || within(from, "pkg") && slices.ContainsFunc(leaves, func(l string) bool { return strings.HasPrefix(imported, l) })
	}
}

func apis(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		base := path.Base(p.Path)
		translates := within(p.Path, "internal") &&
			(base == "grpcapi" || base == "httpapi" || base == "kafkastream" || strings.HasSuffix(base, "client"))
		if translates || within(p.Path, "api") {
			continue
		}
		found = append(found, eachImport(p.product(), func(imported string) string {
			if local, ok := t.local(imported); ok && within(local, "api") {
				return p.Path + " imports " + local
			}
			return ""
		})...)
	}
	return found
}

// home says who may import a library.
type home struct {
	library string
	places  string // for people
	is      func(p string) bool
}

func homes() []home {
	at := func(dirs ...string) func(string) bool {
		return func(p string) bool {
			return slices.ContainsFunc(dirs, func(dir string) bool { return within(p, dir) })
		}
	}
	named := func(match func(base string) bool) func(string) bool {
		return func(p string) bool { return within(p, "internal") && match(path.Base(p)) }
	}
	speaksRPC := func(base string) bool {
		return base == "grpcapi" || base == "httpapi" || strings.HasSuffix(base, "client")
	}
	wired := func(p string) bool {
		return named(speaksRPC)(p) || at("internal/app", "internal/registry", handles)(p)
	}
	redis := named(func(base string) bool { return strings.HasPrefix(base, "redis") })
	sqlStore := named(func(base string) bool { return strings.HasPrefix(base, "sql") })
	return []home{
		{"github.com/panjf2000/gnet", "internal/comet/gnetio", at("internal/comet/gnetio")},
		// embedded asks and configures the broker it runs.
		{"github.com/IBM/sarama", "internal/stream/kafkastream", at("internal/stream/kafkastream", "internal/embedded")},
		{"github.com/gomodule/redigo", "redis* adapters", redis},
		{"database/sql", "sql* adapters", sqlStore},
		{"github.com/go-sql-driver", "sql* adapters", sqlStore},
		{"modernc.org/sqlite", "sql* adapters", sqlStore},
		{"github.com/prometheus/client_golang", handles, at(handles)},
		{"github.com/BurntSushi/toml", "internal/config", at("internal/config")},
		{"github.com/alicebob/miniredis", "internal/embedded and tests", at("internal/embedded")},
		{"github.com/twmb/franz-go", "internal/embedded and tests", at("internal/embedded")},
		{"github.com/go-kratos/kratos", "grpcapi, httpapi, *client, internal/{app,registry,obs}", wired},
		{"google.golang.org/grpc", "grpcapi, httpapi, *client, internal/{app,registry,obs}", wired},
		{"github.com/bilibili/discovery", "tests (it registers global flags on import; internal/registry/discovery speaks its HTTP API)", at()},
	}
}

func libraries(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		if within(p.Path, "api") || within(p.Path, "benchmarks") || within(p.Path, "examples") {
			continue
		}
		found = append(found, eachImport(p.product(), func(imported string) string {
			for _, h := range homes() {
				if within(imported, h.library) && !h.is(p.Path) {
					return p.Path + " imports " + imported + ", whose home is " + h.places
				}
			}
			return ""
		})...)
	}
	return found
}

func testSupport(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		found = append(found, eachImport(p.product(), func(imported string) string {
			if local, ok := t.local(imported); ok && supportsTests(local) {
				return p.Path + " imports " + local
			}
			if imported == "testing" || strings.HasPrefix(imported, "testing/") {
				return p.Path + " imports " + imported
			}
			return ""
		})...)
	}
	return found
}
