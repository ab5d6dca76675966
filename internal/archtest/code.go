package archtest

import (
	"go/ast"
	"slices"
	"strings"
)

// environment looks at names of package os only: what opens files through
// others (tls.LoadX509KeyPair, sql.Open) gets its path from a Config.
func environment(t *Tree) []Finding {
	process := []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv"}
	files := []string{"Open", "OpenFile", "OpenRoot", "Create", "CreateTemp", "ReadFile", "WriteFile", "ReadDir", "DirFS", "Stat", "Lstat",
		"Mkdir", "MkdirAll", "MkdirTemp", "Remove", "RemoveAll", "Rename", "Truncate"}
	var found []Finding
	for _, p := range t.Packages {
		// embedded owns the data folder of the all-in-one and its lock.
		if within(p.Path, "internal/config") || within(p.Path, "benchmarks") || within(p.Path, "examples") {
			continue
		}
		for _, f := range p.product() {
			inspect(f, func(n ast.Node, _ []ast.Node) {
				name := selected(n, f.nameOf("os"))
				if slices.Contains(process, name) || slices.Contains(files, name) && !within(p.Path, "internal/embedded") {
					found = append(found, f.finding(n, "os.%s", name))
				}
			})
			for _, spec := range f.AST.Imports {
				if imported := importPath(spec); imported == "io/ioutil" || imported == "flag" && !within(p.Path, "cmd") && !within(p.Path, "internal/app") {
					found = append(found, f.finding(spec, "imports %s", imported))
				}
			}
		}
	}
	return found
}

func skips(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		if within(p.Path, "internal/testdeps") {
			continue
		}
		for _, f := range p.written() {
			inspect(f, func(n ast.Node, _ []ast.Node) {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					return
				}
				// Without types: the receivers that tests are called by.
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) {
					found = append(found, f.finding(n, "%s.%s", x.Name, sel.Sel.Name))
				}
			})
		}
	}
	return found
}

func sleeps(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		for _, f := range p.written() {
			if !f.Test && !supportsTests(p.Path) {
				continue // .golangci.yml has the rule for the product
			}
			inspect(f, func(n ast.Node, around []ast.Node) {
				if selected(n, f.nameOf("time")) == "Sleep" && !inBubble(f, around) {
					found = append(found, f.finding(n, "time.Sleep outside synctest.Test"))
				}
			})
		}
	}
	return found
}

// inBubble: inside a function literal that is given to synctest.Test.
func inBubble(f *File, around []ast.Node) bool {
	return slices.ContainsFunc(around, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		return ok && selected(call.Fun, f.nameOf("testing/synctest")) == "Test"
	})
}

const leakMarker = "//archtest:leaks "

func leaks(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		if !within(p.Path, "internal") && !within(p.Path, "pkg") {
			continue
		}
		start, where := firstGoroutine(p)
		if start == nil {
			continue
		}
		checked, stale := leakChecked(p)
		found = append(found, stale...)
		if !checked {
			finding := where.finding(start, "package %s starts goroutines here, and its tests do not look for what is left", where.AST.Name.Name)
			finding.Key = p.Path
			found = append(found, finding)
		}
	}
	return found
}

// firstGoroutine finds a go statement, or a call of a method Go with one
// argument, which is how WaitGroup, errgroup and their like start one.
func firstGoroutine(p *Package) (start ast.Node, where *File) {
	for _, f := range p.product() {
		inspect(f, func(n ast.Node, _ []ast.Node) {
			if start == nil && startsGoroutine(n) {
				start, where = n, f
			}
		})
	}
	return start, where
}

func startsGoroutine(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		return true
	case *ast.CallExpr:
		sel, ok := n.Fun.(*ast.SelectorExpr)
		return ok && sel.Sel.Name == "Go" && len(n.Args) == 1
	}
	return false
}

// leakChecked: a test calls leakcheck, or the function that a marker names. A
// marker whose function no test calls is a finding of its own.
func leakChecked(p *Package) (checked bool, stale []Finding) {
	called := map[string]bool{}
	markers := map[string]Finding{}
	for _, f := range p.written() {
		if !f.Test {
			continue
		}
		inspect(f, func(n ast.Node, _ []ast.Node) {
			if call, ok := n.(*ast.CallExpr); ok {
				called[calleeName(call.Fun)] = true
			}
		})
		for _, group := range f.AST.Comments {
			for _, comment := range group.List {
				if name, ok := strings.CutPrefix(comment.Text, leakMarker); ok {
					name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
					markers[name] = f.finding(comment, "the marker names %s, which no test of the package calls", name)
				}
			}
		}
	}
	checked = called["leakcheck.Main"] || called["leakcheck.Check"]
	for name, finding := range markers {
		if called[name] {
			checked = true
		} else {
			stale = append(stale, finding)
		}
	}
	return checked, stale
}

func calleeName(fun ast.Expr) string {
	switch fun := fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}
