package archtest

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// globals finds init functions and variables of packages that are, or may be,
// state. Allowed are: _ (a guard), errors, embedded files, and values of a
// plain shape (literals, tables, compiled expressions) that no statement of the
// package changes.
func globals(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		if within(p.Path, "benchmarks") || within(p.Path, "examples") || within(p.Path, "api") {
			continue
		}
		changed := changedNames(p)
		for _, f := range p.product() {
			for _, decl := range f.AST.Decls {
				switch decl := decl.(type) {
				case *ast.FuncDecl:
					if decl.Recv == nil && decl.Name.Name == "init" {
						found = append(found, f.finding(decl, "an init function"))
					}
				case *ast.GenDecl:
					if decl.Tok == token.VAR {
						found = append(found, globalVars(f, decl, changed)...)
					}
				}
			}
		}
	}
	return found
}

func globalVars(f *File, decl *ast.GenDecl, changed map[string]bool) []Finding {
	var found []Finding
	for _, spec := range decl.Specs {
		spec := spec.(*ast.ValueSpec)
		if embeds(decl.Doc) || embeds(spec.Doc) {
			continue
		}
		for i, name := range spec.Names {
			var value ast.Expr
			if i < len(spec.Values) {
				value = spec.Values[i]
			}
			if text := stateOf(f, name.Name, value, changed); text != "" {
				finding := f.finding(name, "the variable %s %s", name.Name, text)
				finding.Key = f.Path + ":" + name.Name
				found = append(found, finding)
			}
		}
	}
	return found
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// stateOf says why a variable counts as state, "" if it does not.
func stateOf(f *File, name string, value ast.Expr, changed map[string]bool) string {
	switch {
	case name == "_":
		return ""
	case changed[name]:
		return "is changed by the package"
	case errorName(name) && value != nil:
		return ""
	case value == nil:
		return "has no value: somebody must be going to set it"
	case !isPlain(f, value):
		return "holds what may have state"
	}
	return ""
}

// errorName: ErrClosed, errClosed, but not errors or Errata.
func errorName(name string) bool {
	return len(name) > 3 && strings.EqualFold(name[:3], "err") && name[3] >= 'A' && name[3] <= 'Z'
}

// isPlain: an expression whose value cannot change behind a variable that
// nobody assigns to.
func isPlain(f *File, e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit, *ast.Ident, *ast.FuncLit:
		return true
	case *ast.SelectorExpr: // a name of another package
		_, ok := e.X.(*ast.Ident)
		return ok
	case *ast.UnaryExpr:
		return e.Op != token.AND && e.Op != token.ARROW && isPlain(f, e.X)
	case *ast.BinaryExpr:
		return isPlain(f, e.X) && isPlain(f, e.Y)
	case *ast.ParenExpr:
		return isPlain(f, e.X)
	case *ast.CompositeLit:
		return !hasLock(f, e.Type) && !slices.ContainsFunc(e.Elts, func(elt ast.Expr) bool {
			if pair, ok := elt.(*ast.KeyValueExpr); ok {
				elt = pair.Value
			}
			return !isPlain(f, elt)
		})
	case *ast.CallExpr:
		return makesConstant(f, e)
	}
	return false
}

func hasLock(f *File, typ ast.Expr) bool {
	locked := false
	if typ != nil {
		ast.Inspect(typ, func(n ast.Node) bool {
			locked = locked || n != nil && (selected(n, f.nameOf("sync")) != "" || selected(n, f.nameOf("sync/atomic")) != "")
			return true
		})
	}
	return locked
}

// makesConstant: calls whose result never changes, with plain arguments.
func makesConstant(f *File, call *ast.CallExpr) bool {
	known := map[string][]string{
		"errors": {"New"}, "fmt": {"Errorf", "Sprintf"}, "regexp": {"MustCompile"}, "reflect": {"TypeFor", "TypeOf"},
		"strings": {"NewReplacer", "Repeat"}, "net/netip": {"MustParseAddr", "MustParsePrefix"}, "time": {"Duration", "Unix", "Date"},
	}
	if slices.ContainsFunc(call.Args, func(arg ast.Expr) bool { return !isPlain(f, arg) && !isTypedNil(arg) }) {
		return false
	}
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok { // reflect.TypeFor[T]
		fun = index.X
	}
	switch fun := fun.(type) {
	case *ast.ArrayType, *ast.ParenExpr: // []byte("text"), (T)(x)
		return true
	case *ast.Ident:
		return slices.Contains([]string{"len", "string", "int", "int32", "int64", "uint32", "uint64", "float64", "min", "max"}, fun.Name)
	case *ast.SelectorExpr:
		for imported, names := range known {
			if slices.Contains(names, selected(fun, f.nameOf(imported))) {
				return true
			}
		}
	}
	return false
}

func isTypedNil(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) != 1 {
		return false
	}
	arg, ok := call.Args[0].(*ast.Ident)
	return ok && arg.Name == "nil"
}

// changedNames are the names that the product's functions assign to, count,
// take the address of, delete from, or assign an element of. A local variable
// of the same name counts, too: rename one of them.
func changedNames(p *Package) map[string]bool {
	globals := map[string]bool{}
	for _, f := range p.product() {
		for _, decl := range f.AST.Decls {
			if decl, ok := decl.(*ast.GenDecl); ok && decl.Tok == token.VAR {
				for _, spec := range decl.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						globals[name.Name] = true
					}
				}
			}
		}
	}
	changed := map[string]bool{}
	note := func(e ast.Expr) {
		if name := baseName(e); globals[name] {
			changed[name] = true
		}
	}
	for _, f := range p.product() {
		inspect(f, func(n ast.Node, _ []ast.Node) {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, left := range n.Lhs {
						note(left)
					}
				}
			case *ast.IncDecStmt:
				note(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					note(n.X)
				}
			case *ast.CallExpr:
				if fun, ok := n.Fun.(*ast.Ident); ok && (fun.Name == "delete" || fun.Name == "clear" || fun.Name == "copy") && len(n.Args) > 0 {
					note(n.Args[0])
				}
			}
		})
	}
	return changed
}

// baseName is x for x, x[i], x.field, *x and their combinations.
func baseName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return baseName(e.X)
	case *ast.SelectorExpr:
		return baseName(e.X)
	case *ast.StarExpr:
		return baseName(e.X)
	case *ast.ParenExpr:
		return baseName(e.X)
	}
	return ""
}
