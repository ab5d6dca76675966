package httpapi_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	khttp "github.com/go-kratos/kratos/v2/transport/http"
)

// reasonsInCode are the values of all constants of type Reason in a folder.
func reasonsInCode(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !isReason(spec.Type) {
				return true
			}
			for _, v := range spec.Values {
				literal, ok := v.(*ast.BasicLit)
				if !ok {
					t.Errorf("%s: a reason that is no literal", name)
					continue
				}
				reason, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons = append(reasons, reason)
			}
			return true
		})
	}
	return reasons
}

func isReason(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "Reason"
	case *ast.SelectorExpr:
		return e.Sel.Name == "Reason"
	}
	return false
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../api/push", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func firstGroups(re, text string) []string {
	var found []string
	for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return found
}

// The catalogue, the OpenAPI document and the code name the same reasons.
func TestCatalogueOfReasons(t *testing.T) {
	code := append(reasonsInCode(t, ".."), reasonsInCode(t, ".")...)
	slices.Sort(code)
	if len(code) < 10 {
		t.Fatalf("only %d reasons found in the code: %v", len(code), code)
	}
	if listed := firstGroups("(?m)^\\| `([a-z_]+)` \\|", read(t, "errors.md")); !slices.Equal(listed, code) {
		t.Errorf("errors.md\n has %v\nneeds %v", listed, code)
	}
	if listed := firstGroups(`(?m)^ {12}- ([a-z_]+)$`, read(t, "openapi.yaml")); !slices.Equal(listed, code) {
		t.Errorf("openapi.yaml\n has %v\nneeds %v", listed, code)
	}
}

// Every path of the OpenAPI document is served with the method it has there,
// and every route of the server is in the document.
func TestOpenAPIPaths(t *testing.T) {
	server := bareServer(t)
	served := map[string]bool{}
	if err := server.WalkRoute(func(r khttp.RouteInfo) error { served[r.Method+" "+r.Path] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	text := read(t, "openapi.yaml")
	documented := map[string]bool{}
	path := ""
	for _, m := range regexp.MustCompile(`(?m)^(?:  (/\S+)|    (get|post|delete)):$`).FindAllStringSubmatch(text, -1) {
		if m[1] != "" {
			path = m[1]
		} else {
			documented[strings.ToUpper(m[2])+" "+path] = true
		}
	}
	if len(documented) != 23 {
		t.Errorf("%d routes in the document", len(documented))
	}
	for route := range served {
		if !documented[route] {
			t.Errorf("%s is not in openapi.yaml", route)
		}
	}
	for route := range documented {
		if !served[route] {
			t.Errorf("%s is not served", route)
		}
	}
}
