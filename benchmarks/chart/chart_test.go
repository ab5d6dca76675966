package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/benchmarks/scenario"
)

// report has two repeats of two rates, each with its bare loop.
func report() scenario.Report {
	step := func(rate, p99, cpu float64) scenario.Step {
		return scenario.Step{
			AskedPerSec: rate, Classes: []scenario.ClassResult{{Name: "small", Latency: scenario.Latency{P99: p99 / 2}}, {Name: "big", Latency: scenario.Latency{P99: p99}}},
			Processes: []scenario.ProcessUse{{Name: "comet1", CPUPerMillion: cpu / 2}, {Name: "comet2", CPUPerMillion: cpu / 2}, {Name: "job", CPUPerMillion: 99}},
		}
	}
	bare := scenario.Step{AskedPerSec: 10, Limit: &scenario.LimitResult{CPUPerMillion: 4, RoundTime: scenario.Latency{P50: 20}}}
	closed := step(0, 1000, 1000)
	return scenario.Report{Steps: []scenario.Step{bare, step(100, 40, 2), step(10, 30, 5), closed, step(10, 50, 7), step(100, 60, 4)}}
}

func TestChartGolden(t *testing.T) {
	dir := t.TempDir()
	raw, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	spec := `{"charts":[{"file":"a.svg","title":"p99 & <more>","x":"messages/s","y":"ms","log_x":true,"log_y":true,"series":[
		{"label":"big","report":"r.json","value":"p99","class":"big"},
		{"label":"bare","report":"r.json","value":"bare round","dashed":true},
		{"label":"given","points":[[1,2],[1000,1500]]}]}]}`
	for name, text := range map[string]string{"r.json": string(raw), "spec.json": spec} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	if code := command([]string{filepath.Join(dir, "spec.json")}, &out, &errs); code != 0 {
		t.Fatal(errs.String())
	}
	got, err := os.ReadFile(filepath.Join(dir, "a.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(got)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well formed: %v", err)
		}
	}
	golden := filepath.Join("testdata", "chart.golden.svg")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the chart has changed; UPDATE_GOLDEN=1 accepts it:\n%s", got)
	}
}

func TestPointsAreMedians(t *testing.T) {
	dir := t.TempDir()
	raw, _ := json.Marshal(report())
	if err := os.WriteFile(filepath.Join(dir, "r.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		series seriesSpec
		want   [][2]float64
		wrong  string
	}{
		{series: seriesSpec{Value: "p99"}, want: [][2]float64{{10, 20}, {100, 25}}},
		{series: seriesSpec{Value: "p99", Class: "big"}, want: [][2]float64{{10, 40}, {100, 50}}},
		{series: seriesSpec{Value: "cpu comet"}, want: [][2]float64{{10, 6}, {100, 3}}},
		{series: seriesSpec{Value: "bare cpu"}, want: [][2]float64{{10, 4}}},
		{series: seriesSpec{Value: "p98"}, wrong: "no value"},
		{series: seriesSpec{Value: "cpu nobody"}, wrong: "no step"},
		{series: seriesSpec{Value: "bare sense"}, wrong: "no value"},
	} {
		c.series.Report = "r.json"
		got, err := c.series.points(dir)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%+v: %v", c.series, err)
			}
			continue
		}
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%+v: %v, %v", c.series, got, err)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%+v: %v, want %v", c.series, got, c.want)
			}
		}
	}
}

// Every value is inside, and the ticks are on the axis and in order.
func TestAxes(t *testing.T) {
	for _, log := range []bool{false, true} {
		for _, values := range [][]float64{{1}, {0.003, 7}, {10, 20, 50}, {1, 1e6}, {99, 101}, {1000}} {
			a := axis{log: log, start: 400, end: 40}
			if err := a.fit(values); err != nil {
				t.Fatal(err)
			}
			for _, v := range append(append([]float64{}, values...), a.ticks...) {
				if p := a.at(v); math.IsNaN(p) || p < 39.9 || p > 400.1 {
					t.Errorf("log %v, %v: %g is at %g", log, values, v, p)
				}
			}
			if len(a.ticks) < 2 || len(a.ticks) > 25 {
				t.Errorf("log %v, %v: ticks %v", log, values, a.ticks)
			}
		}
	}
	if err := (&axis{log: true}).fit([]float64{0}); err == nil {
		t.Error("0 on a logarithmic axis")
	}
	if err := (&axis{}).fit(nil); err == nil {
		t.Error("no points")
	}
	if number(1.5e6) != "1.5M" || number(25000) != "25k" || number(0.05) != "0.05" {
		t.Error(number(1.5e6), number(25000), number(0.05))
	}
}

func TestTablesAreFilledIn(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("r.json", `{"medians":{"10 messages/s: room p99 ms":59.51,"10 messages/s: job CPU":1.5,"10 messages/s: comet CPU":0.25,"20 messages/s: job CPU":9},"results":{"ratio":1.2328,"per_s":21000}}`)
	write("t.in", "| a | {r.json|10 messages/s: room p99 ms|%.0f} ms, {r.json|ratio|%.2f} x, {r.json|per_s*0.001|%.1f} k, {r.json|10 messages/s: … CPU*10|%g} |\n")
	write("doc.md", "text\n"+tableBegin+"old\n"+tableEnd+"\nmore\n")
	write("spec.json", `{"tables":[{"template":"t.in","into":["doc.md"]}]}`)
	var out, errs bytes.Buffer
	for range 2 { // filling again changes nothing
		if code := command([]string{filepath.Join(dir, "spec.json")}, &out, &errs); code != 0 {
			t.Fatal(errs.String())
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "doc.md"))
	if want := "text\n" + tableBegin + "| a | 60 ms, 1.23 x, 21.0 k, 17.5 |\n" + tableEnd + "\nmore\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, key := range []string{"no such thing", "no … thing"} {
		write("t.in", "{r.json|"+key+"|%.0f}")
		errs.Reset()
		if code := command([]string{filepath.Join(dir, "spec.json")}, &out, &errs); code == 0 || !strings.Contains(errs.String(), key) {
			t.Errorf("a hole without a value: code %d, %q", code, errs.String())
		}
	}
	write("t.in", "nothing")
	write("doc.md", "no marks")
	if code := command([]string{filepath.Join(dir, "spec.json")}, &out, &errs); code == 0 {
		t.Error("a document without marks was written")
	}
}
