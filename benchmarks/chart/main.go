// Command chart draws SVG charts from the reports of perseid bench, and fills
// their values into tables: a specification names the charts, the tables, and
// for each the reports and the values.
//
//	go run ./benchmarks/chart benchmarks/results/charts.json
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

func command(args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 || args[0] == "-h" {
		fmt.Fprint(stderr, "usage: chart SPECIFICATION.json\n\nDraws the charts of the specification into its folder; see benchmarks/README.md.\n")
		return 2
	}
	if err := drawAll(args[0], stdout); err != nil {
		fmt.Fprintln(stderr, "chart:", err)
		return 1
	}
	return 0
}

// specification is the file that names the charts. Files are relative to it.
type specification struct {
	Charts []chartSpec `json:"charts"`
	Tables []tableSpec `json:"tables"`
}

type chartSpec struct {
	File   string       `json:"file"`
	Title  string       `json:"title"`
	X      string       `json:"x"` // name of the axis; its values are messages asked per second
	Y      string       `json:"y"`
	LogX   bool         `json:"log_x"`
	LogY   bool         `json:"log_y"`
	Series []seriesSpec `json:"series"`
}

type seriesSpec struct {
	Label string `json:"label"`
	// Report is a report of perseid bench, and Value what of its steps: p50,
	// p90, p99, p99.9, max, mean, lost % or delivered/s of Class (the first if
	// empty); cpu NAME: CPU seconds per million deliveries of all processes
	// whose name starts so; bare cpu or bare round: of the bare write loop.
	Report string `json:"report,omitempty"`
	Value  string `json:"value,omitempty"`
	Class  string `json:"class,omitempty"`
	// Points are given instead of a report, as [x, y].
	Points [][2]float64 `json:"points,omitempty"`
	Dashed bool         `json:"dashed,omitempty"`
}

func drawAll(file string, stdout io.Writer) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec specification
	if err := json.Unmarshal(raw, &spec); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	dir := filepath.Dir(file)
	for i := range spec.Charts {
		c := &spec.Charts[i]
		var lines []line
		for k := range c.Series {
			points, err := c.Series[k].points(dir)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", c.File, c.Series[k].Label, err)
			}
			lines = append(lines, line{label: c.Series[k].Label, points: points, dashed: c.Series[k].Dashed})
		}
		svg, err := draw(c, lines)
		if err != nil {
			return fmt.Errorf("%s: %w", c.File, err)
		}
		target := filepath.Join(dir, c.File)
		if err := os.WriteFile(target, svg, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(stdout, target)
	}
	for i := range spec.Tables {
		if err := spec.Tables[i].fill(dir, stdout); err != nil {
			return fmt.Errorf("%s: %w", spec.Tables[i].Template, err)
		}
	}
	return nil
}
