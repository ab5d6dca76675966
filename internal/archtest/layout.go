package archtest

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	hardLook = 600
	never    = 1000
	mainMax  = 60
)

func packageDocs(t *Tree) []Finding {
	var found []Finding
	for _, p := range t.Packages {
		files := p.written()
		if product := slices.DeleteFunc(slices.Clone(files), func(f *File) bool { return f.Test }); len(product) > 0 {
			files = append(product, documented(slices.DeleteFunc(slices.Clone(files), func(f *File) bool { return !f.Test }))...)
		}
		if len(files) > 0 {
			found = append(found, docOf(p, files)...)
		}
	}
	return found
}

func documented(files []*File) []*File {
	return slices.DeleteFunc(files, func(f *File) bool { return f.AST.Doc == nil })
}

// docOf judges the one doc comment of a package; files are those that count.
func docOf(p *Package, files []*File) []Finding {
	with := documented(slices.Clone(files))
	switch len(with) {
	case 0:
		return []Finding{files[0].finding(files[0].AST.Name, "package %s has no doc comment", files[0].AST.Name.Name)}
	case 1:
		f := with[0]
		start := "Package " + f.AST.Name.Name + " "
		if f.AST.Name.Name == "main" {
			start = "Command " + path.Base(p.Path) + " "
		}
		text := strings.Join(strings.Fields(f.AST.Doc.Text()), " ")
		sentence, _, _ := strings.Cut(text, ". ")
		if !strings.HasPrefix(sentence, start) || len(strings.Fields(sentence)) < 5 {
			return []Finding{f.finding(f.AST.Name, "the first sentence of the doc comment is %q: say the job after %q", sentence, start)}
		}
		return nil
	default:
		return []Finding{with[1].finding(with[1].AST.Name, "package %s has two doc comments, the other is in %s", with[1].AST.Name.Name, with[0].Path)}
	}
}

func fileSizes(t *Tree) []Finding {
	reasons, found := longFiles(t.Design)
	for _, s := range t.Sources {
		if s.Generated {
			continue
		}
		reason, listed := reasons[s.Path]
		delete(reasons, s.Path)
		text := ""
		switch {
		case s.Lines > never:
			text = fmt.Sprintf("%d lines, more than %d", s.Lines, never)
		case s.Lines > hardLook && reason == "":
			text = fmt.Sprintf("%d lines, more than %d without a reason in internal/DESIGN.md", s.Lines, hardLook)
		case s.Lines <= hardLook && listed:
			text = fmt.Sprintf("%d lines: take it out of the long files in internal/DESIGN.md", s.Lines)
		case path.Base(s.Path) == "main.go" && within(s.Path, "cmd") && s.Lines > mainMax:
			text = fmt.Sprintf("%d lines, more than %d in a cmd's main.go", s.Lines, mainMax)
		}
		if text != "" {
			found = append(found, Finding{Path: s.Path, Line: 1, Key: s.Path, Text: text})
		}
	}
	for file := range reasons {
		found = append(found, Finding{Path: "internal/DESIGN.md", Line: 1, Key: file, Text: "the long file " + file + " is not there"})
	}
	return found
}

// longFiles reads the section "Files above 600 lines": "- `path`: reason".
func longFiles(design []byte) (map[string]string, []Finding) {
	reasons := map[string]string{}
	var found []Finding
	inside := false
	entry := regexp.MustCompile("^[-*] `?([^`: ]+)`?: (.+)$")
	for i, line := range strings.Split(string(design), "\n") {
		if strings.HasPrefix(line, "#") {
			inside = strings.Contains(line, "Files above 600 lines")
			continue
		}
		if !inside || !strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "*") {
			continue
		}
		match := entry.FindStringSubmatch(line)
		if match == nil {
			found = append(found, Finding{Path: "internal/DESIGN.md", Line: i + 1, Text: "not of the form \"- `path`: reason\": " + line})
			continue
		}
		reasons[match[1]] = match[2]
	}
	return reasons, found
}

func folderNames(t *Tree) []Finding {
	forbidden := []string{"util", "utils", "common", "base", "model", "models", "dao", "manager", "managers", "helper", "helpers", "types", "errors", "misc"}
	seen := map[string]bool{}
	var found []Finding
	report := func(file, where, name string) {
		if slices.Contains(forbidden, name) && !seen[where] {
			seen[where] = true
			found = append(found, Finding{Path: file, Line: 1, Key: where, Text: "the name of " + where + " says nothing about what is inside: " + name})
		}
	}
	for _, s := range t.Sources {
		for dir := path.Dir(s.Path); dir != "."; dir = path.Dir(dir) {
			report(s.Path, dir, path.Base(dir))
		}
	}
	for _, p := range t.Packages {
		for _, f := range p.written() {
			if name := f.AST.Name.Name; name != path.Base(p.Path) {
				report(f.Path, "package "+name, name)
			}
		}
	}
	return found
}

func promises(t *Tree) []Finding {
	broken := regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK|WIP)\b|(?i:\bfor now(?:[\s,;:)]|\.\s|\.?$))`)
	var found []Finding
	for _, p := range t.Packages {
		for _, f := range p.written() {
			for _, group := range f.AST.Comments {
				for _, comment := range group.List {
					if words := broken.FindString(comment.Text); words != "" {
						found = append(found, f.finding(comment, "%q in a comment", strings.TrimSpace(words)))
					}
				}
			}
		}
	}
	return found
}

// inspect walks the declarations of a file; enter sees each node with the nodes
// around it, the outermost first.
func inspect(f *File, enter func(n ast.Node, around []ast.Node)) {
	var around []ast.Node
	ast.Inspect(f.AST, func(n ast.Node) bool {
		if n == nil {
			around = around[:len(around)-1]
			return true
		}
		enter(n, around)
		around = append(around, n)
		return true
	})
}
