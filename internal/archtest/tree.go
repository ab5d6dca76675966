package archtest

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Tree is the parsed source of a module.
type Tree struct {
	Module   string
	Packages []*Package
	Sources  []Source
	Design   []byte // internal/DESIGN.md, nil if there is none
}

// Package is a folder with Go files, tests included.
type Package struct {
	Path  string // from the module's root: "internal/comet", "." for the root
	Files []*File
}

// File is a parsed Go file.
type File struct {
	Path      string // from the module's root
	AST       *ast.File
	Test      bool
	Generated bool
	set       *token.FileSet
}

// Source is a file of code in any language.
type Source struct {
	Path      string
	Lines     int
	Generated bool
}

// Finding is one broken rule at one place.
type Finding struct {
	Path string
	Line int
	Key  string // what an exception names: a path, or path:symbol
	Text string
}

func (f Finding) String() string { return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text) }

// codeSuffixes are the languages that are read by people and written by hand.
func codeSuffixes() []string {
	return []string{".go", ".lua", ".sh", ".bash", ".proto", ".py", ".js", ".mjs", ".html", ".css"}
}

// Load parses a module. Other modules inside it, testdata, hidden folders and
// the build output are left out.
func Load(root fs.FS) (*Tree, error) {
	mod, err := fs.ReadFile(root, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	first, _, _ := strings.Cut(string(mod), "\n")
	t := &Tree{Module: strings.TrimSpace(strings.TrimPrefix(first, "module "))}
	t.Design, err = fs.ReadFile(root, "internal/DESIGN.md")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load: %w", err)
	}
	byPath := map[string]*Package{}
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && leftOut(root, name):
			return fs.SkipDir
		case entry.IsDir() || !slices.Contains(codeSuffixes(), path.Ext(name)):
			return nil
		}
		return t.add(root, name, byPath)
	})
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return t, nil
}

func leftOut(root fs.FS, dir string) bool {
	if dir == "." {
		return false
	}
	base := path.Base(dir)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || dir == "target" || base == "testdata" || base == "node_modules" {
		return true
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}

func (t *Tree) add(root fs.FS, name string, byPath map[string]*Package) error {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	source := Source{Path: name, Lines: bytes.Count(text, []byte("\n"))}
	if path.Ext(name) == ".go" {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		source.Generated = ast.IsGenerated(parsed)
		dir := path.Dir(name)
		if byPath[dir] == nil {
			byPath[dir] = &Package{Path: dir}
			t.Packages = append(t.Packages, byPath[dir])
		}
		byPath[dir].Files = append(byPath[dir].Files, &File{
			Path: name, AST: parsed, set: set,
			Test: strings.HasSuffix(name, "_test.go"), Generated: source.Generated,
		})
	}
	t.Sources = append(t.Sources, source)
	return nil
}

// local is the path of an import inside the module.
func (t *Tree) local(imported string) (string, bool) {
	return strings.CutPrefix(imported, t.Module+"/")
}

// written are the files that people write.
func (p *Package) written() []*File {
	return slices.DeleteFunc(slices.Clone(p.Files), func(f *File) bool { return f.Generated })
}

// product are the written files that are part of the program.
func (p *Package) product() []*File {
	if supportsTests(p.Path) {
		return nil
	}
	return slices.DeleteFunc(p.written(), func(f *File) bool { return f.Test })
}

func (f *File) line(pos token.Pos) int { return f.set.Position(pos).Line }

func (f *File) finding(at ast.Node, text string, args ...any) Finding {
	return Finding{Path: f.Path, Line: f.line(at.Pos()), Key: f.Path, Text: fmt.Sprintf(text, args...)}
}

// nameOf is the name under which the file knows an import, "" if it does not.
func (f *File) nameOf(imported string) string {
	for _, spec := range f.AST.Imports {
		if importPath(spec) != imported {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

func importPath(spec *ast.ImportSpec) string { return strings.Trim(spec.Path.Value, "`\"") }

// selected tells which name of an imported package an expression means:
// selected(n, "os") is "Getenv" for os.Getenv.
func selected(n ast.Node, pkg string) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || pkg == "" {
		return ""
	}
	if x, ok := sel.X.(*ast.Ident); ok && x.Name == pkg {
		return sel.Sel.Name
	}
	return ""
}
