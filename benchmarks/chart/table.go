package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/perseid-im/perseid/benchmarks/scenario"
)

// tableSpec is a Markdown table with holes, and the documents it stands in.
type tableSpec struct {
	Template string `json:"template"`
	// Into are documents; the table goes between the lines marked below.
	Into []string `json:"into"`
}

const (
	tableBegin = "<!-- table: made by benchmarks/chart, do not edit -->\n"
	tableEnd   = "<!-- end of table -->"
)

// hole is {report.json|key|format}: a key of the report's medians or results,
// with "…" in it the sum of all that begin and end like it; "*" and a factor may
// follow; the format is that of fmt.
var hole = regexp.MustCompile(`\{([^|{}]+)\|([^|{}]+)\|([^|{}]+)\}`)

func (t *tableSpec) fill(dir string, stdout io.Writer) error {
	raw, err := os.ReadFile(filepath.Join(dir, t.Template))
	if err != nil {
		return err
	}
	reports := map[string]*scenario.Report{}
	var failures []error
	table := hole.ReplaceAllStringFunc(string(raw), func(s string) string {
		m := hole.FindStringSubmatch(s)
		v, err := lookUp(reports, dir, m[1], m[2])
		if err != nil {
			failures = append(failures, err)
		}
		return fmt.Sprintf(m[3], v)
	})
	if err := errors.Join(failures...); err != nil {
		return err
	}
	for _, name := range t.Into {
		target := filepath.Join(dir, name)
		if err := insert(target, table); err != nil {
			return err
		}
		fmt.Fprintln(stdout, target)
	}
	return nil
}

func lookUp(reports map[string]*scenario.Report, dir, file, key string) (float64, error) {
	r := reports[file]
	if r == nil {
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return 0, err
		}
		r = &scenario.Report{}
		if err := json.Unmarshal(raw, r); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		reports[file] = r
	}
	key, factor, scaled := strings.Cut(key, "*")
	v, ok := valueOf(r, key)
	if !ok {
		return 0, fmt.Errorf("%s has no median or result %q", file, key)
	}
	if scaled {
		f, err := strconv.ParseFloat(factor, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: factor %q", key, factor)
		}
		v *= f
	}
	return v, nil
}

func valueOf(r *scenario.Report, key string) (v float64, ok bool) {
	begin, end, sum := strings.Cut(key, "…")
	if !sum {
		if v, ok = r.Medians[key]; !ok {
			v, ok = r.Results[key]
		}
		return v, ok
	}
	for _, k := range slices.Sorted(maps.Keys(r.Medians)) { // in order: sums of floats depend on it
		if strings.HasPrefix(k, begin) && strings.HasSuffix(k, end) {
			v, ok = v+r.Medians[k], true
		}
	}
	return v, ok
}

// insert replaces what stands between the marks of a document.
func insert(file, table string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(raw), tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !ok || !ended {
		return fmt.Errorf("%s has no lines %q and %q", file, strings.TrimSpace(tableBegin), tableEnd)
	}
	return os.WriteFile(file, []byte(before+tableBegin+table+tableEnd+after), 0o644)
}
